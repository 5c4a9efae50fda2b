"""Whose work runs in slots, and where they lie.

All slots of a GPU have one period and follow each other, so that clients which keep the card busy do not meet there.
Who has a core limit has slots; limits that come to more than the period together are scaled in proportion (requirement
B7). Clients that all keep the card busy take turns by slots, too, where hardware slices would not give them their
shares: unequal ones, because a slice longer than a client's own burst weighs nothing, and any where slices are refused;
and two that never rest, because slots waste less: a slice of 20 ms is as short as a burst of 10 for who waits so often.

A client's library takes the length of its slot as the busy time that it may have in each period (docs/protocol.md): so
a slot that lies elsewhere delays nobody who stays below its limit. An allocation's share is that of all its processes
together. Those that want the GPU have equal parts of it, and what one of them does not use the others may have.

With `TimeSharing.SLOTS` all that share the card have slots as soon as two want it, busy or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nvshare.scheduler.clients import Client
from nvshare.scheduler.model import SIDE_BY_SIDE, Allocation, Mode, Priority, Slot, TimeSharing
from nvshare.scheduler.policy import Policy
from nvshare.scheduler.shares import Claim, split_by_use, split_card

_WHOLE = 0.999  # shares that leave nothing of the period, but for rounding


def place_slots(shares: Mapping[str, float], period_us: int) -> dict[str, Slot]:
    """One slot after the other for these clients, from their shares of the card, which add up to 1 at most."""
    slots, before = {}, 0.0
    for key, share in shares.items():
        start_us = round(before * period_us)
        before += share
        slots[key] = Slot(start_us, max(1, round(before * period_us) - start_us), period_us)
    return slots


def period_us(shares: Mapping[str, float], policy: Policy) -> int:
    """How often slots of these lengths come. Each hand-over costs up to a millisecond: where slots leave nothing of the
    period they are as long as can be without making one wait for its own for longer than it may (requirement B8)."""
    if len(shares) < 2 or sum(shares.values()) < _WHOLE:
        return policy.period_us
    wished_us = (policy.longest_turn_wait_us(len(shares)) - policy.slot_wait_margin_us) / (1 - min(shares.values()))
    return round(min(max(policy.period_us, wished_us), policy.longest_period_us))


def decide_slots(
    clients: Sequence[Client], terms: Mapping[str, Allocation], mode: Mode, now_ns: int, policy: Policy
) -> int | None:
    """Sets the slot of each client, of whose allocation `terms` tells (None: it may run at any time). Gives when that
    must be decided again although nothing happens."""
    for client in clients:
        client.slot = None
    if mode == Mode.OFF:
        return None
    wanting = [c for c in clients if c.may_launch and c.wants_the_card(now_ns, policy.contested_ns)]
    names = {client.allocation for client in wanting}
    limited = [client for client in clients if _is_limited(terms[client.key], names)]
    sharing = [client for client in wanting if client.wants_the_card(now_ns, policy.slot_contested_ns)]
    in_turns = mode in SIDE_BY_SIDE and _take_turns(sharing, limited, terms, now_ns, policy)
    competing = sharing if in_turns else [client for client in limited if client in wanting]
    hands_on = len(competing) == len(wanting)
    shares = _shares(competing, limited, terms, policy, hands_on=hands_on)
    slots = place_slots(shares, period_us(shares, policy))
    for client in competing:
        client.slot = slots[client.key]
    _ready_slots(competing, limited, terms, policy, hands_on=hands_on)
    resting = [client for client in wanting if not client.demand and client.demanded_ns is not None]
    ends_ns = [
        ended_ns + after_ns
        for ended_ns in (client.demanded_ns or 0 for client in resting)
        for after_ns in (policy.slot_contested_ns, policy.contested_ns)
    ]
    return min((end_ns for end_ns in ends_ns if end_ns > now_ns), default=None)


def _ready_slots(
    competing: Sequence[Client],
    limited: Sequence[Client],
    terms: Mapping[str, Allocation],
    policy: Policy,
    *,
    hands_on: bool,
) -> None:
    """Who has a limit and wants nothing has its slot ready, as if it were the next that wants something. Of many with
    the same terms that is decided once."""
    busy = {client.allocation for client in competing}
    ready: dict[tuple[str, float, int, int, Priority, bool], Slot] = {}
    for client in limited:
        if client.slot is not None:
            continue
        own = terms[client.key]
        joins = client.allocation if client.allocation in busy else ""
        alike = (joins, client.use, own.core_limit_percent, own.weight, own.priority, own.core_burst)
        if alike not in ready:
            shares = _shares([*competing, client], limited, terms, policy, hands_on=hands_on)
            ready[alike] = place_slots(shares, period_us(shares, policy))[client.key]
        client.slot = ready[alike]


def _is_limited(allocation: Allocation, wanting: set[str]) -> bool:
    """Whether a core limit holds for the allocation now, with `wanting` the allocations that want the card."""
    return allocation.core_limit_percent > 0 and not (allocation.core_burst and wanting <= {allocation.id})


def _take_turns(
    sharing: Sequence[Client], limited: Sequence[Client], terms: Mapping[str, Allocation], now_ns: int, policy: Policy
) -> bool:
    """Whether all that share the card run in slots, with core limits or without."""
    if len(sharing) < 2 or not policy.time_sharing.by_slots:
        return False
    some = [client for client in sharing if client in limited]
    if policy.time_sharing == TimeSharing.SLOTS:
        return len(some) < len(sharing)
    if not all(client.keeps_busy for client in sharing):
        return False
    if len({terms[client.key].priority for client in sharing}) > 1 or len(sharing) > policy.most_in_turns:
        return False  # slices pause the ones for the others; and many hand-overs cost too much
    if some:
        return len(some) < len(sharing)
    shares = _shares(sharing, limited, terms, policy, hands_on=True).values()
    refused = any(client.report is not None and client.report.timeslice_failure for client in sharing)
    if refused or min(shares) < _WHOLE * max(shares):
        return True
    return len(sharing) == 2 and all(now_ns - client.rested_ns >= policy.steady_ns for client in sharing)


def _shares(
    competing: Sequence[Client],
    limited: Sequence[Client],
    terms: Mapping[str, Allocation],
    policy: Policy,
    *,
    hands_on: bool,
) -> dict[str, float]:
    """What each of these clients has of the card while all allocations want all of it; with what their limits leave
    over, where nobody else wants that (`hands_on`), for those that may have more."""
    uses: dict[str, dict[str, float]] = {}
    for client in competing:
        uses.setdefault(client.allocation, {})[client.key] = client.use
    capped = {client.allocation for client in limited}
    claims = []
    yielding: dict[str, int] = {}
    for name, keys in uses.items():
        own = terms[next(iter(keys))]
        cap = own.core_limit_percent / 100 if name in capped else None
        yields = policy.time_sharing == TimeSharing.SLOTS and own.priority == Priority.BEST_EFFORT  # else slices do it
        if yields:
            yielding[name] = own.weight
        claims.append(Claim({name: 1.0}, own.weight, cap, best_effort=yields, burst=own.core_burst and hands_on))
    totals = _with_least(split_card(claims), yielding, policy.least_slot_share)
    return {key: part for name, keys in uses.items() for key, part in split_by_use(totals[name], keys).items()}


def _with_least(totals: Mapping[str, float], yielding: Mapping[str, int], least: float) -> Mapping[str, float]:
    """The same shares, but not less than `least` for those that yield to all others, together and by their weights."""
    left = sum(totals[name] for name in yielding)
    if not yielding or len(yielding) == len(totals) or left >= least:
        return totals
    others = sum(totals.values()) - left
    kept = (others - (least - left)) / others
    weights = sum(yielding.values())
    return {
        name: least * yielding[name] / weights if name in yielding else kept * total for name, total in totals.items()
    }
