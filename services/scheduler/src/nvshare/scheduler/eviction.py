"""Who makes room for a client that needs more memory than is free.

In this order, each only as much as is needed: headroom that nobody uses; what idle clients have, the one that was idle
for longest first; what waits on the card without being complete, from the end of the queue; what clients have whose
quantum is over, the one with the longest stay first. A client that loses a part cannot run. Where a quantum must end,
its owner gives what it can before waiting ones give anything: it goes to the end of the queue, and they come back
sooner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class Offer:
    """What one client could give."""

    client: Client
    body_bytes: int
    place: int  # in the queue
    bound: bool = False  # its gang says when it leaves
    ends_ns: int = 0  # when its quantum is over


@dataclass(frozen=True, slots=True)
class Offers:
    """What all clients could give, whoever asks. Each list is in the order in which they are asked."""

    places: Mapping[str, int]  # of those that wait, by their keys
    spare: list[Client] = field(default_factory=list)
    idle: list[Offer] = field(default_factory=list)
    waiting: list[Offer] = field(default_factory=list)  # on the card without being complete, or without use
    placed: list[Offer] = field(default_factory=list)  # by the ends of their quanta


@dataclass(slots=True)
class Givers:
    """Who could make room for one client, in the order in which they are asked."""

    spare: list[Client]
    idle: list[Offer]
    waiting: list[Offer]
    expired: list[Offer] = field(default_factory=list)
    later: list[Offer] = field(default_factory=list)  # their quantum ends later, the next one first

    def body_bytes(self) -> int:
        """What all could give that may be asked now, without headroom."""
        return sum_of(self.idle) + sum_of(self.waiting) + sum_of(self.expired)


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


def has_had_quantum(client: Client, moment: Moment) -> bool:
    """Whether the quantum of a client with a place is over and it could use at least half of it: while it waited for
    more memory it could not."""
    if client.place_ns is None or moment.now_ns < quantum_ends_ns(client, moment):
        return False
    used_until_ns = moment.now_ns if client.memory_wait_ns is None else client.memory_wait_ns
    return used_until_ns - client.place_ns >= moment.quantum_ns // 2


def stands(client: Client, moment: Moment) -> bool:
    """Whether it waits for more memory and makes no use of what it has."""
    since_ns = max(client.progress_ns, client.memory_wait_ns or 0)
    waits = client.allocation_waits and client.memory_wait_ns is not None
    return waits and moment.now_ns >= since_ns + moment.policy.standing_ns


def sum_of(offers: Sequence[Offer]) -> int:
    """What all of them could give together."""
    return sum([offer.body_bytes for offer in offers])


def offers_of(clients: Iterable[Client], queue: Sequence[Client], served: Sequence[Client], moment: Moment) -> Offers:
    """What `clients`, which cooperate, could give. `queue` are those that wait, in their order; `served` of them have
    been given room in this pass."""
    offers = Offers({client.key: place for place, client in enumerate(queue)})
    for client in clients:
        if client in served:
            continue
        if client.spare_bytes > 0:
            offers.spare.append(client)
        size_bytes = client.body_bytes
        if size_bytes == 0 or (moment.serial and client is moment.holder):
            continue
        bound = client.gang != "" and not client.must_leave
        place = offers.places.get(client.key, len(queue))
        if is_idle(client, moment):
            if not bound:
                offers.idle.append(Offer(client, size_bytes, place))
        elif moment.serial or client.place_ns is None or client.must_leave or (stands(client, moment) and not bound):
            offers.waiting.append(Offer(client, size_bytes, place))
        else:
            offers.placed.append(Offer(client, size_bytes, place, bound, quantum_ends_ns(client, moment)))
    offers.spare.sort(key=lambda c: (c.demand, -c.spare_bytes, c.order))
    offers.idle.sort(key=lambda o: (o.client.demanded_ns or 0, o.client.order))
    offers.waiting.sort(key=lambda o: (-o.place, o.client.order))
    offers.placed.sort(key=lambda o: (o.client.gang != "", o.ends_ns, o.client.order))
    return offers


def givers_for(client: Client, offers: Offers, moment: Moment) -> Givers:
    """Who could make room for `client`. Who has just lost its place to a third one waits a quantum before it takes a
    place itself: of all whose quantum was over it had stayed for longest."""
    givers = Givers(
        spare=[other for other in offers.spare if other is not client],
        idle=[offer for offer in offers.idle if offer.client is not client],
        waiting=[offer for offer in _asked_first(client, offers, moment) if offer.client is not client],
    )
    own_ns = 0 if client.evicted_ns is None else client.evicted_ns + moment.quantum_ns
    for offer in offers.placed:
        if offer.client is client:
            continue
        if offer.bound or moment.now_ns < max(offer.ends_ns, own_ns):
            givers.later.append(offer)
        else:
            givers.expired.append(offer)
    givers.expired.sort(key=lambda o: (o.client.place_ns or 0, o.client.order))
    return givers


def _asked_first(client: Client, offers: Offers, moment: Moment) -> Sequence[Offer]:
    """Who waits on the card and gives way to `client`: all, while its own turn or quantum runs; else who is behind."""
    if moment.serial:
        return offers.waiting if client is moment.holder else ()
    if client.place_ns is not None and moment.now_ns < quantum_ends_ns(client, moment):
        return offers.waiting
    own_place = offers.places.get(client.key, len(offers.places))
    return [offer for offer in offers.waiting if offer.place > own_place]


def choose(givers: Givers, short_bytes: int) -> list[tuple[Client, int]] | None:
    """Who gives how much, so that `short_bytes` come together. None: they have not got as much."""
    expired: list[Offer] = []
    enough_bytes = sum_of(givers.idle) + sum_of(givers.waiting)
    for offer in givers.expired:
        if enough_bytes >= short_bytes:
            break
        expired.append(offer)
        enough_bytes += offer.body_bytes
    if enough_bytes < short_bytes:
        return None
    chosen = []
    for offer in (*givers.idle, *expired, *givers.waiting):
        taken_bytes = min(short_bytes, offer.body_bytes)
        if taken_bytes > 0:
            chosen.append((offer.client, taken_bytes))
            short_bytes -= taken_bytes
    return chosen


def expected_bytes(givers: Givers, short_bytes: int) -> int:
    """What those that will make room for `short_bytes` in time have in all. Less than that: all together could not."""
    gathered_bytes = givers.body_bytes()
    for offer in givers.later:
        if gathered_bytes >= short_bytes:
            break
        gathered_bytes += offer.body_bytes
    return gathered_bytes
