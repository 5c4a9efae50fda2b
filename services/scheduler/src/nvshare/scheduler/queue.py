"""Who waits for room on the card, in the order in which they are served, and how much each needs there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nvshare.scheduler.clients import Client
from nvshare.scheduler.eviction import Moment, quantum_ends_ns
from nvshare.scheduler.limits import Bound
from nvshare.scheduler.model import Ruling


@dataclass(frozen=True, slots=True)
class Queue:
    """Who waits for room, in the order in which they are served."""

    first: list[Client]  # whose switch has begun, and whose memory cannot be moved
    growing: list[Client]  # ask for more in their own quantum; each is in `rest`, too
    rest: list[Client]
    goals_bytes: dict[str, int]  # what each needs on the card, by its key

    @classmethod
    def of(cls, clients: Sequence[Client], bounds: Mapping[str, Bound], moment: Moment) -> Queue:
        goals_bytes = {}
        first, growing, rest = [], [], []
        for client in clients:
            goal_bytes = _goal_bytes(client, bounds[client.key], moment)
            wants = client.demand or client.allocation_waits or goal_bytes > client.needed_bytes
            wants = wants or client is moment.holder or not client.swaps or client.ruling == Ruling.IN
            asks = client.asks_for_memory and goal_bytes > client.ceiling_bytes and wants
            if client.ruling == Ruling.OUT or not (asks or client.ruling == Ruling.NEXT):
                client.memory_wait_ns = None
                client.told.discard("memory-held")
                client.coming = False
                continue
            if client.memory_wait_ns is None:
                client.memory_wait_ns = moment.now_ns
            if client.due_ns is None:
                client.due_ns = client.memory_wait_ns
            goals_bytes[client.key] = goal_bytes
            begun = client.coming and client.eligible if client.swaps else client.admitted
            if client is moment.holder or client.ruling == Ruling.IN or begun:
                first.append(client)
                continue
            rest.append(client)
            if client.place_ns is not None and moment.now_ns < quantum_ends_ns(client, moment):
                growing.append(client)
        first.sort(key=lambda c: (c is not moment.holder, c.swaps, _oldest_order(c)))
        growing.sort(key=_waiting_order)
        rest.sort(key=_waiting_order)
        return cls(first, growing, rest, goals_bytes)

    @property
    def all(self) -> list[Client]:
        return self.first + self.rest


def _goal_bytes(client: Client, bound: Bound, moment: Moment) -> int:
    """What the client should get on the card. A wish beyond its limit is refused by its own library, unless it is of
    several threads at once, each of which is within it: then the first of them gets what there is."""
    if not bound.refuses(client):
        client.beyond_ns = None
        return client.wish_bytes
    if client.beyond_ns is None:
        client.beyond_ns = moment.now_ns
    if moment.now_ns < client.beyond_ns + moment.policy.standing_ns:
        return client.needed_bytes
    return min(client.wish_bytes, client.needed_bytes + max(0, bound.limit_bytes - client.footprint_bytes))


def _waiting_order(client: Client) -> tuple[int, int]:
    since_ns = client.gang_since_ns if client.gang else client.due_ns
    return (since_ns or 0, client.order)


def _oldest_order(client: Client) -> tuple[int, int]:
    return _waiting_order(client) if client.swaps else (client.admitted_ns or 0, client.order)
