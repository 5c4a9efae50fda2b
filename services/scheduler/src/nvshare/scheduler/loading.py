"""Programs load one after the other where they would get into each other's way.

Programs load their memory in pieces and nobody knows how much they will want. Several that load side by side could fill
the card with none complete. What cannot be moved could not leave it then: while an older one still loads, a younger one
gets no memory with which all would have more than half of the capacity (decision 0004). What can be moved would leave
in vain, and before host memory is pinned for it: while an older one still loads, a younger one gets no more than an
eighth of the capacity (decision 0008).
"""

from __future__ import annotations

from collections.abc import Sequence

from nvshare.scheduler.clients import Client
from nvshare.scheduler.eviction import Moment, quantum_ends_ns
from nvshare.scheduler.model import Ruling
from nvshare.scheduler.policy import Policy
from nvshare.scheduler.room import Room


def older_loads_until(
    client: Client, wish_bytes: int, room: Room, served: Sequence[Client], ghost_bytes: int, moment: Moment
) -> int | None:
    """The time at which older clients will have loaded, if the client must wait for them before it may come to
    `wish_bytes`; else None. `served` are given memory in this pass. Those that can be moved, and those that cannot,
    wait among themselves."""
    if client.swaps:
        comes_in = moment.serial or client.ruling != Ruling.NONE or client.coming
        if comes_in or wish_bytes <= room.capacity_bytes // 8:
            return None
    alike = [other for other in room.clients if other.swaps == client.swaps]
    if not client.swaps:
        after_bytes = sum(other.served_bytes for other in alike) + ghost_bytes + wish_bytes - client.needed_bytes
        if after_bytes <= room.capacity_bytes // 2:
            return None
    older = [
        other
        for other in alike
        if other.reachable and other.wish_bytes > 0 and _is_older(other, client, other in served, moment.now_ns)
    ]
    ends_ns = (loads_until_ns(other, other.coming or other in served, moment) for other in older)
    end_ns = max(ends_ns, default=moment.now_ns)
    return end_ns if end_ns > moment.now_ns else None


def loads_until_ns(client: Client, is_served: bool, moment: Moment) -> int:
    """When the client will have loaded; a time that is over if it has. What can be moved loads until some of it was
    told to leave. While it waits for memory its loading stands still: it goes on where it `is_served`."""
    policy = moment.policy
    admitted_ns = _admitted_ns(client, is_served, moment.now_ns)
    if admitted_ns is None:
        return 0
    if not client.swaps:
        return min(client.grew_ns + policy.loading_quiet_ns, admitted_ns + policy.loading_limit_ns)
    if client.has_left or client.must_leave:
        return 0
    begins_ns = max(admitted_ns, client.began_ns or 0)
    limit_ns = begins_ns + client.stood_ns + min(moment.quantum_ns, policy.movable_loading_limit_ns)
    if not client.allocation_waits or client.memory_wait_ns is None:
        return min(client.grew_ns + policy.movable_quiet_ns, limit_ns)
    if client.memory_wait_ns >= limit_ns:
        return 0
    return client.memory_wait_ns + (policy.arrival_limit_ns if is_served else policy.movable_quiet_ns)


def uses_headroom(client: Client, moment: Moment) -> bool:
    """Whether the client, in its own quantum, will use its headroom at once: it has just grown."""
    in_quantum = client.place_ns is not None and moment.now_ns < quantum_ends_ns(client, moment)
    grows = moment.now_ns < client.grew_ns + moment.policy.movable_quiet_ns
    return client.swaps and in_quantum and grows


def ahead_bytes(client: Client, policy: Policy) -> int:
    """How much a client that can be moved should get beyond what it asks for: as much again as it has grown since it
    got its place, so that loading in many small allocations costs a round trip each time that it has doubled."""
    if not client.swaps:
        return 0
    grown_bytes = max(0, client.needed_bytes - client.placed_bytes) if client.place_ns is not None else 0
    least_bytes = min(max(grown_bytes, policy.step_bytes), policy.headroom_bytes)
    return max(0, least_bytes // policy.step_bytes * policy.step_bytes - (client.wish_bytes - client.needed_bytes))


def _admitted_ns(client: Client, is_served: bool, now_ns: int) -> int | None:
    """Since when the client has memory; now, where it `is_served` its first in this pass."""
    return now_ns if client.admitted_ns is None and is_served else client.admitted_ns


def _is_older(one: Client, other: Client, is_served: bool, now_ns: int) -> bool:
    """Whether `one` has been admitted, now if it `is_served`, and has had memory for longer than `other`. What can be
    moved is as old as its first memory, or its asking for it: it has a promise of some from its start, long before.
    Nobody is older than itself."""
    admitted_ns = _admitted_ns(one, is_served, now_ns)
    if admitted_ns is None:
        return False
    ages_ns = (one.began_ns, other.began_ns) if one.swaps else (admitted_ns, other.admitted_ns)
    if ages_ns[0] is None or ages_ns[1] is None:
        return ages_ns[0] is not None
    return (ages_ns[0], one.order) < (ages_ns[1], other.order)
