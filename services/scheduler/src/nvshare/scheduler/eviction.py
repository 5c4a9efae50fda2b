"""Who makes room for a client that needs more memory than is free.

In this order, each only as much as is needed: headroom that nobody uses; what idle clients have, the one that was idle
for longest first; what waits on the card without being complete, from the end of the queue; what clients have whose
quantum is over, the one with the longest stay first. A client that loses a part cannot run. Where a quantum must end,
its owner gives what it can before waiting ones give anything: it goes to the end of the queue, and they come back
sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nvshare.scheduler.clients import Client
from nvshare.scheduler.model import ClientState
from nvshare.scheduler.policy import Policy
from nvshare.scheduler.pool import pool_waited_for_until_ns


@dataclass(frozen=True, slots=True)
class Moment:
    """What a decision depends on beside the clients."""

    now_ns: int
    quantum_ns: int
    policy: Policy
    serial: bool = False
    holder: Client | None = None  # in serial mode: who has, or gets, the lock


@dataclass(slots=True)
class Givers:
    """Who could make room for one client, in the order in which they are asked."""

    spare: list[Client] = field(default_factory=list)
    idle: list[Client] = field(default_factory=list)
    waiting: list[Client] = field(default_factory=list)
    expired: list[Client] = field(default_factory=list)
    later: list[Client] = field(default_factory=list)  # their quantum ends later, the next one first

    def body_bytes(self) -> int:
        """What all could give that may be asked now, without headroom."""
        return sum(map(body_bytes, (*self.idle, *self.waiting, *self.expired)))


def cooperates(client: Client, moment: Moment) -> bool:
    """Whether the client can be expected to follow a grant soon."""
    stopped = client.is_silent(moment.now_ns, moment.policy.silent_ns)
    stuck = client.state == ClientState.STUCK or "client-stuck" in client.told
    return client.reachable and not stopped and not stuck and not overdue(client, moment)


def overdue(client: Client, moment: Moment) -> bool:
    """Whether it did not leave when it should have, lately: nothing is gained by asking it again at once."""
    failed_ns = client.failed_ns
    return failed_ns is not None and moment.now_ns < failed_ns + moment.policy.distrust_ns


def is_idle(client: Client, moment: Moment) -> bool:
    """Whether it has wanted nothing for long enough to lose its place to who waits."""
    return not client.demand and not client.allocation_waits and moment.now_ns >= idle_from_ns(client, moment.policy)


def idle_from_ns(client: Client, policy: Policy) -> int:
    """When a client that wants nothing counts as idle."""
    return max(client.demanded_ns or 0, client.grew_ns, client.progress_ns) + policy.idle_ns


def quantum_ends_ns(client: Client, moment: Moment) -> int:
    """When a client with a place must make room for who waits."""
    begins_ns = client.place_ns or 0
    ends_ns = begins_ns + moment.quantum_ns + (0 if client.arrived else moment.policy.arrival_limit_ns)
    return max(ends_ns, pool_waited_for_until_ns(client, begins_ns, moment.policy))


def ends_for_ns(other: Client, client: Client, moment: Moment) -> int:
    """When `other` must make room for `client`. Who has just lost its place to a third one waits a quantum before it
    takes a place itself: of all whose quantum was over it had stayed for longest."""
    evicted_ns = client.evicted_ns
    own_ns = 0 if evicted_ns is None else evicted_ns + moment.quantum_ns
    return max(quantum_ends_ns(other, moment), own_ns)


def stands(client: Client, moment: Moment) -> bool:
    """Whether it waits for more memory and makes no use of what it has."""
    since_ns = max(client.progress_ns, client.memory_wait_ns or 0)
    waits = client.allocation_waits and client.memory_wait_ns is not None
    return waits and moment.now_ns >= since_ns + moment.policy.standing_ns


def spare_bytes(client: Client) -> int:
    """Headroom that it does not use."""
    return max(0, client.kept_bytes - max(client.served_bytes, client.staying_bytes))


def body_bytes(client: Client) -> int:
    """What it uses, or waits with, and could move out."""
    if not client.swaps:
        return 0
    return max(0, min(client.kept_bytes, max(client.served_bytes, client.staying_bytes)) - client.staying_bytes)


def givers_for(
    client: Client, clients: Sequence[Client], queue: Sequence[Client], served: Sequence[Client], moment: Moment
) -> Givers:
    """Who could make room for `client`. `queue` are those that wait, in their order; `served` of them have been given
    room in this pass."""
    givers = Givers()
    places = {other.key: place for place, other in enumerate(queue)}
    own_place = places.get(client.key, len(queue))
    grows = client.place_ns is not None and moment.now_ns < quantum_ends_ns(client, moment)
    for other in clients:
        if other is client or other in served or not cooperates(other, moment):
            continue
        if spare_bytes(other) > 0:
            givers.spare.append(other)
        if body_bytes(other) == 0 or (moment.serial and other is moment.holder):
            continue
        bound = other.gang != "" and not other.must_leave
        if is_idle(other, moment):
            if not bound:
                givers.idle.append(other)
        elif moment.serial:
            if client is moment.holder:
                givers.waiting.append(other)
        elif other.place_ns is None or other.must_leave or (stands(other, moment) and not bound):
            if grows or places.get(other.key, len(queue)) > own_place:
                givers.waiting.append(other)
        elif bound or moment.now_ns < ends_for_ns(other, client, moment):
            givers.later.append(other)
        else:
            givers.expired.append(other)
    givers.spare.sort(key=lambda c: (c.demand, -spare_bytes(c), c.order))
    givers.idle.sort(key=lambda c: (c.demanded_ns or 0, c.order))
    givers.waiting.sort(key=lambda c: (-places.get(c.key, len(queue)), c.order))
    givers.expired.sort(key=lambda c: (c.place_ns or 0, c.order))
    givers.later.sort(key=lambda c: (c.gang != "", quantum_ends_ns(c, moment), c.order))
    return givers


def choose(givers: Givers, short_bytes: int) -> list[tuple[Client, int]] | None:
    """Who gives how much, so that `short_bytes` come together. None: they have not got as much."""
    without_expired = sum(map(body_bytes, (*givers.idle, *givers.waiting)))
    expired: list[Client] = []
    enough_bytes = without_expired
    for client in givers.expired:
        if enough_bytes >= short_bytes:
            break
        expired.append(client)
        enough_bytes += body_bytes(client)
    if enough_bytes < short_bytes:
        return None
    chosen = []
    for client in (*givers.idle, *expired, *givers.waiting):
        taken_bytes = min(short_bytes, body_bytes(client))
        if taken_bytes > 0:
            chosen.append((client, taken_bytes))
            short_bytes -= taken_bytes
    return chosen


def expected_bytes(givers: Givers, short_bytes: int) -> int:
    """What those that will make room for `short_bytes` in time have in all. Less than that: all together could not."""
    gathered_bytes = givers.body_bytes()
    for client in givers.later:
        if gathered_bytes >= short_bytes:
            break
        gathered_bytes += body_bytes(client)
    return gathered_bytes
