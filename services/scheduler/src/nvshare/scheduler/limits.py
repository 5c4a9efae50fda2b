"""What is refused at allocation, and why.

Four things limit a client: the quota of its allocation, the card itself, the memory that could neither stay on the card
for good nor be moved to the host, and what the GPU may promise in all. A limit is a state: it is there as long as the
facts are, and what comes from other clients goes when they go. The last two limit only a client that asks for more, so
that a neighbour's growth changes nobody's grant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nvshare.bus.quantities import format_bytes
from nvshare.scheduler.clients import Client
from nvshare.scheduler.model import Allocation, Limit


@dataclass(frozen=True, slots=True)
class Bound:
    """The largest footprint that a client may have, what that comes from, and the sums for people where it comes from
    others."""

    limit_bytes: int
    limited_by: Limit
    text: str = ""

    def refuses(self, client: Client) -> bool:
        """Whether the client asks for more than that. Its own library says so to its program."""
        return client.wanted_bytes > max(self.limit_bytes, client.footprint_bytes)


def bound_of_card(client: Client, lone_bytes: int) -> Bound:
    """What the card has for a client that is alone: `lone_bytes` of needed memory. A footprint is never more than what
    it needs, so this is the limit for all, but for a wish that needs more than it counts."""
    if client.wish_bytes > max(lone_bytes, client.needed_bytes):
        return Bound(min(lone_bytes, client.wanted_bytes - 1), Limit.CARD)
    return Bound(lone_bytes, Limit.CARD)


def quota_limits_bytes(clients: Sequence[Client], allocations: Mapping[str, Allocation]) -> dict[str, int]:
    """The largest footprint that the quota of its allocation leaves to each client, by the client's key. Who is
    missing has no quota."""
    quota_bytes = {key: a.memory_limit_bytes for key, a in allocations.items() if a.memory_limit_bytes}
    limited = [client for client in clients if client.allocation in quota_bytes]
    used_bytes: dict[str, int] = {}
    for client in limited:
        used_bytes[client.allocation] = used_bytes.get(client.allocation, 0) + client.footprint_bytes
    return {
        client.key: max(0, quota_bytes[client.allocation] - used_bytes[client.allocation] + client.footprint_bytes)
        for client in limited
    }


def asks_for_more(client: Client) -> bool:
    """Whether it needs more than it has been promised."""
    return client.reachable and client.wish_bytes > client.served_bytes


class Sums:
    """What all clients need together, and what of it would stay on the card for good."""

    def __init__(self, clients: Sequence[Client], capacity_bytes: int, overcommit_bytes: int) -> None:
        """`overcommit_bytes` caps what all may need together; 0: nothing does."""
        self._capacity_bytes = capacity_bytes
        self._overcommit_bytes = overcommit_bytes
        self._staying_bytes = {client.key: client.staying_of(client.served_bytes) for client in clients}
        self.needed_bytes = sum(client.served_bytes for client in clients)
        self.staying_bytes = sum(self._staying_bytes.values())
        movable = [(c.served_bytes - self._staying_bytes[c.key], c.key) for c in clients if c.swaps]
        self._largest_movable = sorted(movable, reverse=True)[:2]

    def bound(self, client: Client) -> Bound | None:
        """What the others leave to a client that asks for more. None: no limit."""
        others_bytes = self.needed_bytes - client.served_bytes
        if self._overcommit_bytes and others_bytes + client.wish_bytes > self._overcommit_bytes:
            text = (
                f"the others need {format_bytes(others_bytes)}, and {format_bytes(self._overcommit_bytes)} may be "
                "promised in all"
            )
            return _refusal(client, self._overcommit_bytes - others_bytes, Limit.OVERCOMMIT, text)
        return self._bound_of_host_room(client)

    def _bound_of_host_room(self, client: Client) -> Bound | None:
        """Each client, with all that it needs, must fit beside what stays of the others. Clients that cannot move
        their memory wait for each other instead."""
        stays_bytes = self._staying_bytes[client.key]
        others_bytes = self.staying_bytes - stays_bytes
        if client.swaps and client.wish_bytes + others_bytes > self._capacity_bytes:
            text = (
                f"{format_bytes(others_bytes)} of the others can neither leave the card nor, together with it, fit "
                f"into {format_bytes(self._capacity_bytes)}"
            )
            return _refusal(client, self._capacity_bytes - others_bytes, Limit.HOST_ROOM, text)
        would_stay_bytes = client.staying_of(client.wish_bytes)
        movable_bytes = next((size for size, key in self._largest_movable if key != client.key), 0)
        if movable_bytes == 0 or would_stay_bytes <= stays_bytes:
            return None
        excess_bytes = movable_bytes + others_bytes + would_stay_bytes - self._capacity_bytes
        if excess_bytes <= 0:
            return None
        text = (
            f"{format_bytes(would_stay_bytes)} of it could not be moved to host memory, and another client that needs "
            f"{format_bytes(movable_bytes)} must fit beside that and {format_bytes(others_bytes)} of others into "
            f"{format_bytes(self._capacity_bytes)}"
        )
        return _refusal(client, client.wish_bytes - excess_bytes, Limit.HOST_ROOM, text)


def _refusal(client: Client, most_bytes: int, limited_by: Limit, text: str) -> Bound:
    """The bound of a client that asks for more than `most_bytes` of needed memory: below its wish."""
    more = format_bytes(client.wanted_bytes - client.footprint_bytes)
    whole = f"{client.client} is refused {more} beyond its {format_bytes(client.footprint_bytes)}: {text}"
    limit_bytes = client.footprint_bytes + max(0, most_bytes - client.needed_bytes)
    return Bound(max(client.footprint_bytes, min(limit_bytes, client.wanted_bytes - 1)), limited_by, whole)
