"""B6, B9: what clients with slots pay for, where their work is in flight beside others'."""

from dataclasses import dataclass, field

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from services.scheduler.tests.conftest import Desk, MakeDesk

from nvshare.scheduler.activity import (
    ACTIVITY_STEPS,
    STEP_NS,
    Account,
    Activity,
    Pace,
    decide_what_is_paid,
    parts_of_others,
)
from nvshare.scheduler.clients import Client
from nvshare.scheduler.model import Allocation, Slot
from nvshare.scheduler.policy import SECOND_NS, Policy

STEPS_A_SECOND = SECOND_NS // STEP_NS
FLOOR_US, LONG_US = 1, 20_000


def levels(parts: list[float]) -> str:
    """As a library writes them."""
    return "".join(chr(ord("0") + round(63 * part)) for part in parts)


def said(parts: list[float], end: int) -> str:
    """What a report says at step `end` of a client whose work was in flight for these parts of the steps from 0 on."""
    return levels([parts[step] if 0 <= step < len(parts) else 0.0 for step in range(end - ACTIVITY_STEPS, end)])


# ---- What is kept of it


@given(st.lists(st.integers(0, 63), max_size=600), st.lists(st.integers(0, 150), min_size=1, max_size=8))
def test_reports_that_overlap_come_to_one_row_of_steps(steps: list[int], pauses: list[int]) -> None:
    parts = [level / 63 for level in steps]
    activity, end = Activity(), ACTIVITY_STEPS
    for pause in pauses:
        end += pause
        activity.heard(said(parts, end), end)
    for step in range(end - ACTIVITY_STEPS, end):
        assert activity.part(step) == pytest.approx(parts[step] if step < len(parts) else 0.0)
    assert activity.part(end) == 0.0


def test_later_word_about_the_same_steps_counts() -> None:
    activity = Activity()
    activity.heard("0" * ACTIVITY_STEPS, 1000)
    activity.heard("0" * (ACTIVITY_STEPS - 30) + "o" * 30, 1010)  # a kernel of 300 ms has ended
    assert [activity.part(step) for step in (979, 980, 999, 1009)] == [0.0, 1.0, 1.0, 1.0]


def test_a_report_without_any_says_that_nothing_was_in_flight() -> None:
    activity = Activity()
    activity.heard("o" * ACTIVITY_STEPS, 1000)
    activity.heard("", 1100)
    assert [activity.part(step) for step in (1000 - ACTIVITY_STEPS, 1099 - ACTIVITY_STEPS, 1100 - ACTIVITY_STEPS)] == [
        1.0,
        1.0,
        0.0,
    ]


@given(st.lists(st.tuples(st.text(max_size=300), st.integers(0, 2**64)), max_size=5), st.integers(0, 2**64))
def test_whatever_a_report_says_a_part_is_between_none_and_all(reports: list[tuple[str, int]], step: int) -> None:
    activity = Activity()
    for text, end in reports:
        activity.heard(text, end)
    assert 0.0 <= activity.part(step) <= 1.0
    assert len(activity.levels) <= 2 * ACTIVITY_STEPS


# ---- Whose it was

PARTS = st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 1), min_size=1)


@given(PARTS, st.data())
def test_b6_what_is_taken_off_is_what_exceeds_the_step(parts: dict[str, float], data: st.DataObject) -> None:
    slices_us = {key: data.draw(st.integers(1, 20_000), label=key) for key in parts}
    others = parts_of_others(parts, slices_us)
    assert all(-1e-9 <= others[key] <= part + 1e-9 for key, part in parts.items())
    over = max(0.0, sum(parts.values()) - 1)
    assert sum(others.values()) <= over + 1e-6
    if len(set(slices_us.values())) == 1:
        assert sum(others.values()) == pytest.approx(over, abs=1e-6)


@pytest.mark.parametrize(
    ("parts", "slices_us", "expected"),
    [
        pytest.param((1.0, 1.0), (LONG_US, LONG_US), (0.5, 0.5), id="both in flight all the time"),
        pytest.param((1.0, 1.0), (LONG_US, 2 * LONG_US), (2 / 3, 1 / 3), id="with one slice twice as long"),
        pytest.param((1.0, 0.4), (LONG_US, LONG_US), (0.2, 0.2), id="a burst"),
        pytest.param((1.0, 0.4), (FLOOR_US, LONG_US), (0.4, 0.0), id="a burst that pauses the other"),
        pytest.param((1.0, 0.2, 0.2), (1, 1, 1), (0.2, 0.1, 0.1), id="two bursts"),
        pytest.param((0.5, 0.5), (LONG_US, LONG_US), (0.0, 0.0), id="one after the other"),
    ],
)
def test_b6_who_is_in_flight_at_the_same_time_has_the_card_by_slices(
    parts: tuple[float, ...], slices_us: tuple[int, ...], expected: tuple[float, ...]
) -> None:
    names = "abc"[: len(parts)]
    others = parts_of_others(dict(zip(names, parts, strict=True)), dict(zip(names, slices_us, strict=True)))
    assert list(others.values()) == pytest.approx(expected, abs=1e-4)


# ---- What follows


@dataclass
class Pair:
    """Two clients with slots, and an account of what they paid and what they had, in steps."""

    clients: list[Client] = field(
        default_factory=lambda: [
            Client(name, name, name, 1, 1, slot=Slot(0, 1, 2), account=Account(Pace(0, 0, 0, 100_000), 0))
            for name in "ab"
        ]
    )
    weighed_to: int = 0
    parts: list[list[float]] = field(default_factory=lambda: [[0.0] * 2 * STEPS_A_SECOND for _ in "ab"])
    paid: list[float] = field(default_factory=lambda: [0.0, 0.0])
    had: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def error(self) -> float:
        """How much more one paid than it had, after the first seconds, in which nothing is known."""
        return (self.paid[0] - self.had[0]) / self.had[0]

    def live(self, apart: float, together: float) -> None:
        """One second: for so much of it each one's work is in flight alone, and then both at once."""
        alone, both = round(apart * STEPS_A_SECOND / 2), round(together * STEPS_A_SECOND)
        rest = STEPS_A_SECOND - 2 * alone - both
        rows = [
            [1.0] * alone + [0.0] * alone + [1.0] * both + [0.0] * rest,
            [0.0] * alone + [1.0] * alone + [1.0] * both + [0.0] * rest,
        ]
        for number, client in enumerate(self.clients):
            part = (client.paid_permille or 1000) / 1000
            if len(self.parts[0]) > 5 * STEPS_A_SECOND:
                self.paid[number] += part * (alone + both)
                self.had[number] += alone + both / 2
        for client, parts, row in zip(self.clients, self.parts, rows, strict=True):
            parts += row
            end = len(parts)
            client.activity.heard(said(parts, end), end)
        self.weighed_to = decide_what_is_paid(self.clients, self.weighed_to, end * STEP_NS, Policy())


@settings(max_examples=10, phases=[Phase.generate])
@given(st.floats(0.0, 0.5), st.floats(0.1, 0.5))
def test_b6_in_the_long_run_each_pays_for_what_it_had(apart: float, together: float) -> None:
    pair = Pair()
    for _ in range(60):
        pair.live(apart, together)
    assert pair.error() == pytest.approx(0, abs=0.03)


@settings(max_examples=10, phases=[Phase.generate])
@given(st.lists(st.tuples(st.floats(0.1, 0.5), st.floats(0.0, 0.5)), min_size=4, max_size=8))
def test_b6_in_the_long_run_each_pays_for_what_it_had_however_that_changes(seconds: list[tuple[float, float]]) -> None:
    pair = Pair()
    for number in range(80):
        pair.live(*seconds[number % len(seconds)])
    assert pair.error() == pytest.approx(0, abs=0.04)


def test_b9_what_is_seen_first_counts_in_full() -> None:
    pair = Pair()
    for _ in range(2):
        pair.live(0.0, 1.0)
    assert all(client.account.own_part == pytest.approx(0.5) for client in pair.clients if client.account)


# ---- In the grants


def limit(desk: Desk, name: str, percent: int) -> None:
    """A program whose allocation has this core limit."""
    allocation = f"allocation-{name}"
    desk.allocations[allocation] = Allocation(allocation, core_limit_percent=percent)
    desk.join(name, allocation)
    desk.follow(name, demand=True)


def worked(desk: Desk, name: str, calls: int) -> dict[str, int]:
    """A second's work more, in so many calls."""
    before = desk.programs[name].report
    return {"launches": before.launches + calls, "busy_us": before.busy_us + 1_000_000}


def say(desk: Desk, text: str, *names: str, calls: int = 10) -> None:
    """Two seconds pass in which this was in flight, and the programs say so."""
    for _ in range(2):
        desk.pass_time(SECOND_NS)
        for name in names:
            desk.follow(
                name, busy_permille=1000, **worked(desk, name, calls), activity=text, activity_end_ns=desk.now_ns
            )


ALL = "o" * ACTIVITY_STEPS


def test_b6_work_that_lasts_longer_than_its_slot_is_paid_for_by_both(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 50)
    limit(desk, "b", 50)
    assert desk.grant("a").paid_permille == 0
    say(desk, ALL, "a", "b")
    say(desk, ALL, "a", "b")
    assert 300 <= desk.grant("a").paid_permille <= 600
    assert desk.grant("a").timeslice_us == desk.policy.long_work_slice_us


def test_b6_work_that_lasts_longer_than_its_slot_has_slices_in_the_ratio_of_the_slots(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30)
    limit(desk, "b", 60)
    say(desk, ALL, "a", "b")
    desk.follow("a", busy_permille=1000)
    assert [desk.grant("a").timeslice_us, desk.grant("b").timeslice_us] == pytest.approx([6_667, 13_333], abs=1)


def test_b6_short_work_keeps_to_its_slots_for_both_pay_where_they_meet(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 50)
    limit(desk, "b", 50)
    for _ in range(3):
        say(desk, ALL, "a", "b", calls=1000)
    assert desk.grant("a").paid_permille == 0


def test_b6_who_is_alone_again_pays_for_all(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 50)
    limit(desk, "b", 50)
    say(desk, ALL, "a", "b")
    assert desk.grant("a").paid_permille > 0
    desk.kill("b")
    say(desk, ALL, "a")
    assert desk.grant("a").paid_permille == 0


def test_b6_who_was_alone_for_a_while_begins_anew(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 50)
    limit(desk, "b", 50)
    say(desk, ALL, "a", "b")
    desk.kill("b")
    say(desk, ALL, "a")
    account = desk.arbiter.state.clients[f"allocation-a/{desk.programs['a'].peer.client}"].account
    assert account is None or (account.permille, account.overpaid) == (1000, 0.0)


def test_b6_who_has_no_slots_is_told_nothing(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 50)
    limit(desk, "b", 0)
    half = "oo0000" * (ACTIVITY_STEPS // 6)
    for _ in range(4):
        desk.pass_time(SECOND_NS)
        desk.follow("a", busy_permille=1000, **worked(desk, "a", 1000), activity=ALL, activity_end_ns=desk.now_ns)
        desk.follow("b", demand=True, busy_permille=300, activity=half, activity_end_ns=desk.now_ns)
    assert desk.grant("a").paid_permille > 0
    assert desk.grant("b").paid_permille == 0


def test_a_client_with_another_clock_is_not_heard(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 50)
    limit(desk, "b", 50)
    for _ in range(4):
        desk.pass_time(SECOND_NS)
        desk.follow("a", activity=ALL, activity_end_ns=desk.now_ns)
        desk.follow("b", activity=ALL, activity_end_ns=desk.now_ns + 10 * SECOND_NS)
    assert desk.grant("a").paid_permille == 0


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 1500)), min_size=30, max_size=60))
def test_how_long_a_call_takes_is_its_mean_however_often_it_is_reported(reports: list[tuple[int, int]]) -> None:
    pace, launches, now_ms = Pace(0, 0, 0), 0, 0
    for calls, pause_ms in reports:
        launches += calls
        now_ms += pause_ms
        pace.heard(launches, 7_000 * launches, now_ms * 1_000_000)
    assert pace.call_us in (0, 7_000)


def test_a_long_call_that_has_not_ended_makes_no_call_short() -> None:
    pace = Pace(0, 0, 0)
    pace.heard(2, 3_000_000, 3 * SECOND_NS)
    pace.heard(2, 3_000_000, 5 * SECOND_NS)
    assert pace.call_us == 1_500_000
