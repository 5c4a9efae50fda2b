"""When a client's work was in flight: activity.h."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from libnvshare.tests.control.conftest import LineFilter

MS = 1_000_000
STEP_NS = 10 * MS
STEPS = 192
BEGIN = 1_000_000  # the first step of these tests: a clock that runs is never at 0
BEGIN_NS = BEGIN * STEP_NS


class Activity(LineFilter):
    """One client's activity in a process of its own; times are since BEGIN."""

    def add(self, from_ns: int, to_ns: int, busy_ns: int | None = None) -> None:
        busy_ns = to_ns - from_ns if busy_ns is None else busy_ns
        self.ask(f"add {BEGIN_NS + from_ns} {BEGIN_NS + to_ns} {busy_ns}")

    def levels(self, now_ns: int) -> dict[int, int]:
        """Of the steps in which there was any, by their numbers since BEGIN, in 63 parts of a step."""
        end, _, text = self.ask(f"write {BEGIN_NS + now_ns}").partition(" ")
        assert len(text) in (0, STEPS)
        levels = {
            int(end) // STEP_NS - BEGIN - STEPS + place: ord(character) - ord("0")
            for place, character in enumerate(text)
        }
        return {step: level for step, level in levels.items() if level > 0}

    def reset(self) -> None:
        self.ask("reset")


@pytest.fixture(scope="module")
def one_activity(programs: Path) -> Iterator[Activity]:
    activity = Activity(programs / "activity_filter")
    yield activity
    activity.close()


@pytest.fixture
def activity(one_activity: Activity) -> Activity:
    one_activity.reset()
    return one_activity


def test_work_counts_in_the_steps_in_which_it_was_in_flight(activity: Activity) -> None:
    activity.add(5 * MS, 35 * MS)
    assert activity.levels(100 * MS) == {0: 32, 1: 63, 2: 63, 3: 32}


def test_the_step_that_is_not_over_is_not_told(activity: Activity) -> None:
    activity.add(5 * MS, 15 * MS)
    assert activity.levels(19 * MS) == {0: 32}
    assert activity.levels(20 * MS) == {0: 32, 1: 32}


def test_rests_in_between_are_taken_off_evenly(activity: Activity) -> None:
    activity.add(0, 20 * MS, 10 * MS)
    assert activity.levels(20 * MS) == {0: 32, 1: 32}


def test_several_streams_at_once_are_no_more_than_all_of_a_step(activity: Activity) -> None:
    activity.add(0, 10 * MS)
    activity.add(0, 10 * MS)
    assert activity.levels(10 * MS) == {0: 63}


def test_nothing_lately_is_an_empty_text(activity: Activity) -> None:
    activity.add(0, 10 * MS)
    assert activity.levels((STEPS + 1) * STEP_NS) == {}


def test_of_a_long_kernel_the_last_steps_are_told(activity: Activity) -> None:
    activity.add(0, 1000 * STEP_NS)
    assert activity.levels(1000 * STEP_NS) == dict.fromkeys(range(1000 - STEPS, 1000), 63)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 400)), max_size=12))
def test_any_work_one_after_the_other_comes_to_its_time(activity: Activity, work: list[tuple[int, int]]) -> None:
    activity.reset()
    expected: dict[int, int] = {}
    now_us = 0
    for pause_us, length_us in work:
        begin_us = now_us + pause_us
        now_us = begin_us + length_us
        activity.add(begin_us * 1000, now_us * 1000)
        for step in range(begin_us // 10_000, now_us // 10_000 + 1):
            part_us = min(now_us, (step + 1) * 10_000) - max(begin_us, step * 10_000)
            expected[step] = expected.get(step, 0) + max(0, part_us)
    levels = activity.levels(now_us * 1000 + STEP_NS)
    for step, part_us in expected.items():
        assert levels.get(step, 0) == pytest.approx(part_us * 63 / 10_000, abs=0.6)
