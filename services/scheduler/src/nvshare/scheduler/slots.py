"""Where the slots of clients with a core limit lie.

All slots have one period. The ones of a GPU follow each other, so that clients which keep the card busy up to their
limits do not meet there; limits that come to more than the period together are scaled in proportion (requirement B7).
A client's library takes the length of its slot as the busy time that it may have in each period (docs/protocol.md): so
a slot that lies elsewhere delays nobody who stays below its limit. An allocation's limit is that of all its processes
together; those that want the GPU have equal parts of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nvshare.scheduler.clients import Client
from nvshare.scheduler.model import Allocation, Mode, Slot
from nvshare.scheduler.policy import Policy


def place_slots(parts: Sequence[tuple[str, int]], period_us: int) -> dict[str, Slot]:
    """One slot after the other for these clients, each a key and its part of the period in parts per million. Parts
    that add up to more than the whole are scaled."""
    total_ppm = max(sum(part_ppm for _, part_ppm in parts), 1_000_000)
    slots, before_ppm = {}, 0
    for key, part_ppm in parts:
        start_us = before_ppm * period_us // total_ppm
        before_ppm += part_ppm
        slots[key] = Slot(start_us, max(1, before_ppm * period_us // total_ppm - start_us))
    return slots


def decide_slots(
    clients: Sequence[Client], allocations: Mapping[str, Allocation], mode: Mode, now_ns: int, policy: Policy
) -> int | None:
    """Sets the slot of each client (None: it has no limit). Gives when that must be decided again although nothing
    happens."""
    for client in clients:
        client.slot = None
    if mode == Mode.OFF:
        return None
    wanting = [c for c in clients if c.may_launch and c.wants_the_card(now_ns, policy.contested_ns)]
    limited = [client for client in clients if _limit_percent(client, allocations, wanting)]
    competing = [client for client in limited if client in wanting]
    slots = place_slots(_parts(competing, allocations), policy.period_us)
    for client in limited:
        # Who wants nothing has its slot ready, as if it were the next that wants something.
        others = [*competing, client]
        slot = slots.get(client.key) or place_slots(_parts(others, allocations), policy.period_us)[client.key]
        client.slot = slot
    expiries_ns = [c.demanded_ns + policy.contested_ns for c in wanting if not c.demand and c.demanded_ns is not None]
    return min(expiries_ns, default=None)


def _limit_percent(client: Client, allocations: Mapping[str, Allocation], wanting: Iterable[Client]) -> int:
    """The core limit that holds for the client's allocation now; 0: none."""
    allocation = allocations.get(client.allocation)
    if allocation is None:
        return 0
    alone = all(other.allocation == client.allocation for other in wanting)
    return 0 if allocation.core_burst and alone else allocation.core_limit_percent


def _parts(competing: Sequence[Client], allocations: Mapping[str, Allocation]) -> list[tuple[str, int]]:
    """Each client's part of the period in parts per million: its allocation's limit, shared equally."""
    processes: dict[str, int] = {}
    for client in competing:
        processes[client.allocation] = processes.get(client.allocation, 0) + 1
    return [
        (client.key, allocations[client.allocation].core_limit_percent * 10_000 // processes[client.allocation])
        for client in competing
    ]
