"""Which hardware time slices clients get.

Slices are shares: who has twice the slice has twice the time, exactly, while both keep the card busy. A switch costs
0.2 ms, so a mean slice of s ms keeps s / (s + 0.2) (measured on the H200); the driver's slices of 2 ms lose a tenth.
Long slices give that back, and make whoever is not busy all the time wait for its turn: so they are for cards whose
clients all are. A client at the floor slice is paused, in the middle of its kernels, for as long as another one has
work, and loses nothing while nobody has: that is priority. Two at the floor would spend their time switching.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nvshare.scheduler.activity import keeps_to_its_slot
from nvshare.scheduler.clients import Client
from nvshare.scheduler.model import SIDE_BY_SIDE, Allocation, Mode, Priority
from nvshare.scheduler.policy import Policy
from nvshare.scheduler.shares import Claim, split_card
from nvshare.scheduler.yielding import ranks


def decide_slices(
    clients: Sequence[Client], terms: Mapping[str, Allocation], mode: Mode, now_ns: int, policy: Policy
) -> None:
    """Sets the slice of each client, of whose allocation `terms` tells: by weight where several keep the card busy,
    extremes where best effort yields, else, and wherever nothing is shared, the driver's own (0)."""
    slices_us: dict[str, int] = {}
    if mode in SIDE_BY_SIDE and policy.time_sharing.by_slices:
        slices_us = _slices_us([client for client in clients if client.may_launch], terms, now_ns, policy)
    for client in clients:
        client.timeslice_us = slices_us.get(client.key, 0)


def _slices_us(
    launching: Sequence[Client], terms: Mapping[str, Allocation], now_ns: int, policy: Policy
) -> dict[str, int]:
    """The slices of those that may launch. Who is missing keeps the driver's own."""
    found = ranks(launching, terms, now_ns, policy)
    first, best_effort = found.first, found.best_effort
    if not first or not best_effort:
        return _side_by_side(first or found.yielding, terms, policy)
    slices_us = _side_by_side(first, terms, policy) if len(first) > 1 else {first[0].key: policy.busy_slice_us}
    paused = found.yielding if len(found.yielding) == 1 else best_effort
    if len(best_effort) > 1:  # who cannot take turns
        slices_us |= _by_weight(best_effort, terms, policy.yielding_slice_us, policy)
    if len(paused) == 1:
        slices_us[paused[0].key] = policy.floor_slice_us
    return slices_us


def _side_by_side(sharing: Sequence[Client], terms: Mapping[str, Allocation], policy: Policy) -> dict[str, int]:
    """By weight: long where all keep the card busy. Where not all do, one that is latency-critical has a long slice
    beside short ones of the others, and without weights all have the driver's own. Slots keep their owners apart, but
    for what lasts longer than a slot."""
    if len(sharing) < 2:
        return {}
    critical = [client for client in sharing if terms[client.key].priority == Priority.LATENCY_CRITICAL]
    free = [client for client in sharing if client.slot is None]
    if all(client.keeps_busy for client in sharing) and len(critical) in (0, len(sharing)):
        if not free:
            return {} if all(keeps_to_its_slot(client, policy) for client in sharing) else _by_slot(sharing, policy)
        return _by_weight(sharing, terms, policy.busy_slice_us, policy)
    slices_us = {}
    if len({terms[client.key].weight for client in sharing}) > 1:
        slices_us = _by_weight(free, terms, policy.mixed_slice_us, policy)
    return slices_us | dict.fromkeys((client.key for client in critical), policy.busy_slice_us)


def _by_slot(sharing: Sequence[Client], policy: Policy) -> dict[str, int]:
    """In the ratio of the slots: what lasts longer than its slot runs beside the next one's work, and that changes no
    shares."""
    parts = {client.key: client.slot.part for client in sharing if client.slot is not None}
    turn_us = len(parts) * policy.long_work_slice_us
    return {key: max(1, round(turn_us * part / sum(parts.values()))) for key, part in parts.items()}


def _by_weight(
    sharing: Sequence[Client], terms: Mapping[str, Allocation], mean_us: int, policy: Policy
) -> dict[str, int]:
    """Slices in the ratio of the shares, with core limits, `mean_us` in the mean, or less where the smallest would wait
    too long. One alone, beside such as have slots, has the driver's own."""
    if len(sharing) < 2:
        return {}
    wanted: dict[str, dict[str, float]] = {}
    for client in sharing:
        wanted.setdefault(client.allocation, {})[client.key] = 1.0
    own = {client.allocation: terms[client.key] for client in sharing}
    capped = {client.allocation for client in sharing if client.slot is not None}
    caps = {name: own[name].core_limit_percent / 100 or None for name in capped}
    shares = split_card([Claim(keys, own[name].weight, caps.get(name)) for name, keys in wanted.items()])
    count = len(sharing)
    waiting_us = (policy.longest_turn_wait_us(count) - count * policy.switch_us) / (1 - min(shares.values()))
    turn_us = min(count * mean_us, waiting_us)
    return {key: max(1, round(turn_us * share)) for key, share in shares.items()}
