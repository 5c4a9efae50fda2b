"""When clients' work was in flight, as they report it, and how much of that time was their own.

Time is cut into steps of 10 ms of the clock that all processes of a node share. Where the work of several clients was
in flight in the same step for more than that step is long, they had the card in turns: by their hardware time slices.
A client with slots pays with busy time, and its library cannot tell whose work really ran. So the scheduler tells it
which part of that time it pays for: what it really had of the card lately, corrected by what it has paid too much or
too little before, so that the error goes to nothing in the long run (decision 0014).

Where two with slots and short work meet, both pay for all of it: that is what keeps their slots apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nvshare.scheduler.clients import Client
    from nvshare.scheduler.policy import Policy

ACTIVITY_STEPS = 192  # of a report
STEP_NS = 10_000_000

_NONE = "0"
_LEVELS = 63
_KEPT_STEPS = 2 * ACTIVITY_STEPS
_ALL_PERMILLE = 1000
_PACE_NS = 1_000_000_000  # over which a mean is taken, at least


@dataclass(slots=True)
class Activity:
    """The steps that one client has reported: a character for each, `end` is the step after the last."""

    levels: str = ""
    end: int = 0

    def heard(self, levels: str, end: int) -> None:
        """Takes over the levels of the `ACTIVITY_STEPS` steps before `end`; none: nothing was in flight in them. Later
        word about the same steps counts: what ran is known when it has ended."""
        if end < self.end:
            return
        begin = end - ACTIVITY_STEPS
        before = self.levels[: max(0, len(self.levels) - max(0, self.end - begin))]
        gap = max(0, begin - self.end) if self.levels else 0
        said = levels[-ACTIVITY_STEPS:].rjust(ACTIVITY_STEPS, _NONE)
        self.levels = (before + _NONE * min(gap, _KEPT_STEPS) + said)[-_KEPT_STEPS:]
        self.end = end

    def part(self, step: int) -> float:
        """The part of this step in which work was in flight, 0 to 1."""
        place = len(self.levels) - self.end + step
        level = ord(self.levels[place]) - ord(_NONE) if 0 <= place < len(self.levels) else 0
        return min(max(level, 0), _LEVELS) / _LEVELS


def parts_of_others(
    parts: Mapping[str, float], slices_us: Mapping[str, int], apart: Set[str] = frozenset()
) -> dict[str, float]:
    """Of each client's part of a step, what others' work ran for meanwhile; what those that are to keep `apart` did at
    the same time is not counted.

    What is in flight at the same time has the card in turns, by the lengths of the slices. More than that the parts
    together exceed the step is not known to have been at the same time.
    """
    over = sum(parts.values()) - max(1.0, sum(part for key, part in parts.items() if key in apart))
    if over <= 0:
        return dict.fromkeys(parts, 0.0)
    turn_us = sum(slices_us[key] for key, part in parts.items() if part > 0)
    waits = {key: min(part, over) * (1 - slices_us[key] / turn_us) for key, part in parts.items()}
    waited = sum(waits.values())
    return {key: min(parts[key], over * wait / waited) if waited > 0 else 0.0 for key, wait in waits.items()}


@dataclass(slots=True)
class Pace:
    """How long one call's work is in flight in the mean."""

    since_ns: int
    launches: int
    busy_us: int
    call_us: float = 0.0  # 0: not known yet

    def heard(self, launches: int, busy_us: int, now_ns: int) -> None:
        """Takes over a report: how many calls there were in all, and for how long their work ran."""
        calls = launches - self.launches
        if calls > 0 and now_ns - self.since_ns >= _PACE_NS:
            self.call_us = max(0, busy_us - self.busy_us) / calls
            self.since_ns, self.launches, self.busy_us = now_ns, launches, busy_us


@dataclass(frozen=True, slots=True)
class Rate:
    """What slots pay of a client's busy time, from this step on."""

    step: int
    permille: int


@dataclass(slots=True)
class Account:
    """What one client with slots has paid, and what it had of the card, in steps."""

    pace: Pace
    begin: int  # the step from which on it has slots
    rates: list[Rate] = field(default_factory=list)  # the one in force at the first step that is not weighed, and later
    own_part: float = 1.0  # of its busy time, what was its own lately; all, until it is known
    weighed: bool = False
    overpaid: float = 0.0  # what it paid more than it had

    def rate(self, step: int) -> float:
        """Which part of the busy time in this step was paid for."""
        for rate in reversed(self.rates):
            if rate.step <= step:
                return rate.permille / _ALL_PERMILLE
        return 1.0

    @property
    def permille(self) -> int:
        """In force now."""
        return self.rates[-1].permille if self.rates else _ALL_PERMILLE

    def weigh(self, busy: float, paid: float, others: float, policy: Policy) -> int:
        """Takes over some steps: its busy time, what it paid for, and what of it was others'. Gives what it is to pay,
        in permille."""
        if busy <= 0:
            return self.permille
        own = 1 - others / busy
        self.own_part += (policy.own_part_gain if self.weighed else 1.0) * (own - self.own_part)
        self.weighed = True
        most = policy.most_overpaid_ns / STEP_NS
        self.overpaid = min(max(self.overpaid + paid - busy * own, -most), most)
        wished = self.own_part * (1 - min(max(self.overpaid / busy, -policy.most_given_back), policy.most_given_back))
        permille = round(min(max(wished, policy.least_paid), 1.0) * _ALL_PERMILLE)
        changes = abs(permille - self.permille) >= policy.paid_change_permille or permille == _ALL_PERMILLE
        return permille if changes else self.permille

    def charge(self, permille: int, step: int, weighed_to: int) -> None:
        """From this step on it pays so much."""
        if permille != self.permille:
            self.rates.append(Rate(step, permille))
        while len(self.rates) > 1 and self.rates[1].step <= weighed_to:
            del self.rates[0]


def decide_what_is_paid(clients: Sequence[Client], weighed_to: int, now_ns: int, policy: Policy) -> int:
    """Sets of each client which part of its busy time its slots pay for. `weighed_to` is the step up to which that is
    already done; gives where it has come to."""
    now_step = now_ns // STEP_NS
    patience = policy.activity_patience_ns // STEP_NS
    heard = [client for client in clients if now_step - client.activity.end < patience]
    shared = len(heard) > 1 and any(client.slot is not None for client in heard)
    for client in clients:
        if client.slot is None or not shared:
            client.account, client.paid_permille = None, 0
        elif client.account is None:
            before = client.report
            pace = Pace(now_ns, before.launches if before else 0, before.busy_us if before else 0)
            client.account = Account(pace, now_step)
    if not shared:
        return now_step
    end = min(client.activity.end for client in heard) - policy.activity_late_ns // STEP_NS
    begin = max(weighed_to, end - ACTIVITY_STEPS)
    if end - begin < policy.activity_span_ns // STEP_NS:
        return weighed_to
    others = _others(heard, range(begin, end), policy)
    for client in heard:
        account = client.account
        if account is None or account.begin > begin:
            continue
        parts = [(client.activity.part(step), account.rate(step)) for step in range(begin, end)]
        busy, paid = sum(part for part, _ in parts), sum(part * rate for part, rate in parts)
        account.charge(account.weigh(busy, paid, others[client.key], policy), now_step, end)
        client.paid_permille = account.permille % _ALL_PERMILLE
    return end


def _others(heard: Sequence[Client], steps: range, policy: Policy) -> dict[str, float]:
    """For how many of these steps others' work ran while each client's was in flight."""
    slices_us = {
        client.key: (client.report.timeslice_us if client.report else 0) or policy.driver_slice_us for client in heard
    }
    apart = {client.key for client in heard if keeps_to_its_slot(client, policy)}
    others = dict.fromkeys(slices_us, 0.0)
    for step in steps:
        parts = {client.key: client.activity.part(step) for client in heard}
        if sum(parts.values()) < policy.overlap_least:
            continue
        for key, part in parts_of_others(parts, slices_us, apart).items():
            others[key] += part
    return others


def keeps_to_its_slot(client: Client, policy: Policy) -> bool:
    """Whether its work is short against its slot: what it does beside others' it could do in its slot. A call beside
    others' work takes longer by their part."""
    if client.slot is None:
        return False
    call_us = client.account.own_part * client.account.pace.call_us if client.account else 0.0
    return call_us <= client.slot.length_us * policy.longest_part_of_slot
