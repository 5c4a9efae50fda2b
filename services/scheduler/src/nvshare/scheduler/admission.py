"""Who is promised memory.

Each pass looks at everything anew and decides every client's ceiling: the largest footprint that it may have. Memory
does not move, so a promise is made only within what is free, and a ceiling that falls is free again only when the
client reports the smaller grant in force.

The order is fair: clients that have memory and need more come first, in the order in which they were admitted (letting
them finish is what frees memory), then newcomers, first come first served, none overtaking. While memory is plentiful
everybody has headroom, so that allocations need no round trip; when somebody waits, headroom is taken back.

Programs load their memory in pieces and nobody knows how much they will want. Several that load side by side could
fill the card with none complete. So while an older client still loads, a younger one gets no memory beyond half of the
capacity. A deadlock that arises all the same is found (`deadlock.py`) and resolved by refusing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nvshare.scheduler.clients import Client
from nvshare.scheduler.model import Allocation
from nvshare.scheduler.policy import Policy


@dataclass(slots=True)
class Room:
    """Memory that can still be promised in this pass: on the card, and within each allocation's limit."""

    capacity_bytes: int
    free_bytes: int
    clients: Sequence[Client]
    allocations: Mapping[str, Allocation]
    charged_bytes: dict[str, int] = field(init=False)  # by allocation, of those with a limit

    def __post_init__(self) -> None:
        self.charged_bytes = {key: 0 for key, allocation in self.allocations.items() if allocation.memory_limit_bytes}
        for client in self.clients:
            self._count(client, client.charge_bytes)

    def fits(self, client: Client, ceiling_bytes: int) -> bool:
        extra = ceiling_bytes - client.charge_bytes
        return extra <= 0 or (extra <= self.free_bytes and extra <= self._allocation_free_bytes(client))

    def promise(self, client: Client, ceiling_bytes: int) -> None:
        """Raises the client's ceiling; the caller has checked that it fits."""
        self.free_bytes -= max(0, ceiling_bytes - client.charge_bytes)
        self.set_ceiling(client, ceiling_bytes)

    def set_ceiling(self, client: Client, ceiling_bytes: int) -> None:
        """Raises or lowers the client's ceiling. What becomes free by it can be promised in a later pass."""
        before_bytes = client.charge_bytes
        client.ceiling_bytes = ceiling_bytes
        self._count(client, client.charge_bytes - before_bytes)

    def missing_bytes(self, client: Client) -> int:
        """What the card lacks for the client's wish."""
        return max(0, client.wanted_bytes - client.charge_bytes - max(0, self.free_bytes))

    def allocation_missing_bytes(self, client: Client) -> int:
        """What the client's allocation lacks for its wish."""
        extra = client.wanted_bytes - client.charge_bytes
        return max(0, extra - max(0, self._allocation_free_bytes(client)))

    def _allocation_free_bytes(self, client: Client) -> int:
        charged_bytes = self.charged_bytes.get(client.allocation)
        if charged_bytes is None:
            return self.capacity_bytes
        return self.allocations[client.allocation].memory_limit_bytes - charged_bytes

    def _count(self, client: Client, added_bytes: int) -> None:
        if client.allocation in self.charged_bytes:
            self.charged_bytes[client.allocation] += added_bytes


@dataclass(slots=True)
class Admission:
    """What a pass decided beside the ceilings."""

    unserved: list[Client] = field(default_factory=list)  # wait because memory is short
    deferred: list[Client] = field(default_factory=list)  # wait for their place in the queue, not for bytes
    reclaiming: bool = False  # somebody was told to give headroom back, and has not confirmed
    wake_ns: int | None = None  # when to decide again although nothing happened


def allocation_limits_bytes(clients: Sequence[Client], allocations: Mapping[str, Allocation]) -> dict[str, int]:
    """The largest footprint that the memory limit of its allocation leaves to each client, by the client's key. Who is
    missing has no limit."""
    left_bytes = {key: allocation.memory_limit_bytes for key, allocation in allocations.items()}
    limited = [client for client in clients if left_bytes.get(client.allocation)]
    used_bytes: dict[str, int] = {}
    for client in limited:
        used_bytes[client.allocation] = used_bytes.get(client.allocation, 0) + client.footprint_bytes
    return {
        client.key: max(0, left_bytes[client.allocation] - used_bytes[client.allocation] + client.footprint_bytes)
        for client in limited
    }


def admit(
    room: Room, limits_bytes: Mapping[str, int], ghost_bytes: int, settling: bool, now_ns: int, policy: Policy
) -> Admission:
    """Decides the ceilings. `limits_bytes` is the largest footprint that each client may ever have, by its key: who
    asks for more is refused by its own library, and waits for nothing."""
    outcome = Admission()
    waiting = [c for c in room.clients if c.asks_for_memory and c.wanted_bytes <= limits_bytes[c.key]]
    for client in room.clients:
        if not client.asks_for_memory or client.wanted_bytes > limits_bytes[client.key]:
            client.memory_wait_ns = None
    for client in waiting:
        client.memory_wait_ns = _or_now(client.memory_wait_ns, now_ns)
    waiting.sort(key=lambda c: (not c.admitted, _or_now(c.admitted_ns or c.memory_wait_ns, now_ns), c.order))
    for client in waiting:
        if not client.admitted and (settling or outcome.unserved or outcome.deferred):
            outcome.deferred.append(client)  # no newcomer overtakes
        elif (loaded_ns := _older_loads_until(client, room, ghost_bytes, now_ns, policy)) is not None:
            outcome.deferred.append(client)
            outcome.wake_ns = loaded_ns if outcome.wake_ns is None else min(outcome.wake_ns, loaded_ns)
        elif room.fits(client, client.wanted_bytes):
            room.promise(client, client.wanted_bytes)
            client.memory_wait_ns = None
            client.grew_ns = now_ns
            client.admitted_ns = _or_now(client.admitted_ns, now_ns)
        else:
            outcome.unserved.append(client)
    if outcome.unserved:
        outcome.reclaiming = _reclaim(outcome.unserved, room)
    elif not outcome.deferred and not settling:
        _give_headroom(room, limits_bytes, policy)
    _keep_within_limits(room)
    for client in room.clients:
        if client.spoken and client.kept_bytes == 0:
            client.admitted_ns = None
        elif client.spoken:
            client.admitted_ns = _or_now(client.admitted_ns, now_ns)
    return outcome


def _or_now(since_ns: int | None, now_ns: int) -> int:
    return now_ns if since_ns is None else since_ns


def _older_loads_until(client: Client, room: Room, ghost_bytes: int, now_ns: int, policy: Policy) -> int | None:
    """The time at which older clients will have loaded, if the client must wait for them; else None."""
    needs = sum(c.served_bytes for c in room.clients)
    after = needs + ghost_bytes + client.wanted_bytes - client.footprint_bytes
    if after <= room.capacity_bytes // 2:
        return None
    ends_ns = [
        min(other.grew_ns + policy.loading_quiet_ns, other.admitted_ns + policy.loading_limit_ns)
        for other in room.clients
        if other.reachable and other.wanted_bytes > 0 and other.admitted_ns is not None and _is_older(other, client)
    ]
    end_ns = max(ends_ns, default=now_ns)
    return end_ns if end_ns > now_ns else None


def _is_older(one: Client, other: Client) -> bool:
    """Whether `one` was admitted before `other`. Nobody is older than itself."""
    if one.admitted_ns is None or other.admitted_ns is None:
        return one.admitted
    return (one.admitted_ns, one.order) < (other.admitted_ns, other.order)


def _reclaim(unserved: Sequence[Client], room: Room) -> bool:
    """Takes headroom back for those that wait. Gives whether some is on its way."""
    most_missing: dict[str, int] = {}  # by allocation: lowering for the largest wish serves the smaller ones, too
    for client in unserved:
        missing = room.allocation_missing_bytes(client)
        most_missing[client.allocation] = max(missing, most_missing.get(client.allocation, 0))
    for allocation, missing in most_missing.items():
        if missing > 0:
            _lower_ceilings(room, [c for c in room.clients if c.allocation == allocation], missing)
    missing = sum(max(0, c.wanted_bytes - c.charge_bytes) for c in unserved) - max(0, room.free_bytes)
    if missing > 0:
        _lower_ceilings(room, room.clients, missing)
    return any(c.charge_bytes > c.kept_bytes for c in room.clients)


def _keep_within_limits(room: Room) -> None:
    """Takes back what allocations were promised beyond a limit that fell: two processes could each use their own part
    of it. What is in use stays."""
    for allocation, charged_bytes in list(room.charged_bytes.items()):
        excess_bytes = charged_bytes - room.allocations[allocation].memory_limit_bytes
        if excess_bytes > 0:
            _lower_ceilings(room, [c for c in room.clients if c.allocation == allocation], excess_bytes)


def _lower_ceilings(room: Room, clients: Sequence[Client], missing_bytes: int) -> None:
    """Lowers ceilings to what their clients use, until `missing_bytes` are on their way: first of those that do not
    want the GPU, then of those with the most headroom."""
    missing_bytes -= sum(c.charge_bytes - c.kept_bytes for c in clients)
    used = {c.key: c.served_bytes for c in clients}
    for client in sorted(clients, key=lambda c: (c.demand, used[c.key] - c.ceiling_bytes, c.order)):
        if missing_bytes <= 0:
            return
        if client.reachable and client.ceiling_bytes > used[client.key]:
            missing_bytes -= client.ceiling_bytes - used[client.key]
            room.set_ceiling(client, used[client.key])


def _give_headroom(room: Room, limits_bytes: Mapping[str, int], policy: Policy) -> None:
    """Nobody waits: everybody gets headroom, generous while less than half of the capacity is promised."""
    for client in room.clients:
        if not client.reachable or client.refused:
            continue
        plentiful = room.free_bytes > room.capacity_bytes // 2
        if client.footprint_bytes == 0 and not plentiful:
            continue  # a newcomer is admitted by its wish, in its turn
        share = room.free_bytes // 8 // policy.step_bytes * policy.step_bytes
        headroom = min(policy.headroom_bytes if plentiful else policy.step_bytes, max(0, share))
        if client.ceiling_bytes - client.footprint_bytes >= headroom // 2 + 1:
            continue
        steps = -(-(client.footprint_bytes + headroom) // policy.step_bytes)
        ceiling = min(steps * policy.step_bytes, limits_bytes[client.key])
        if ceiling > client.ceiling_bytes and room.fits(client, ceiling):
            room.promise(client, ceiling)
