"""How fast a program follows a changed cap, told from its points of progress."""

from collections.abc import Sequence

import pytest

from nvshare.cli.bench.cap_changes import CappedRun, Phase, phases

MS = 1_000_000
SECOND_NS = 1000 * MS
SOLO_SPEED = 1000.0


def run_of(*stretches: tuple[int, int]) -> CappedRun:
    """A program that runs for so many ms in slots of so many percent of each 100 ms, one stretch after the other. It
    tells of its progress each millisecond that it runs."""
    points = [(0, 0)]
    for length_ms, percent in stretches:
        for _ in range(length_ms // 100):
            start_ns, done = points[-1]
            points += [(start_ns + ms * MS, done + ms) for ms in range(1, percent + 1)]
            points.append((start_ns + 100 * MS, done + percent))
    return CappedRun(points, SOLO_SPEED)


CHANGED = Phase(30, begun_ns=2 * SECOND_NS, ended_ns=6 * SECOND_NS)


def test_a_phase_lasts_until_the_next_request() -> None:
    assert phases([(60, 0), (30, 5)], 9) == [Phase(60, 0, 5), Phase(30, 5, 9)]


def test_the_speed_under_slots_is_the_cap_over_any_whole_periods() -> None:
    run = run_of((1000, 30))
    assert [run.ratio(start * MS, (start + 500) * MS) for start in (0, 17, 250)] == pytest.approx([0.3] * 3)


def test_b9_a_cap_is_in_effect_when_the_speed_over_a_period_is_near_it() -> None:
    # One more period of the old cap; 50 ms after that the window has 10 ms of the old slot and 30 ms of the new one.
    run = run_of((2100, 60), (3900, 30))
    assert run.effect_seconds(CHANGED) == pytest.approx(0.15, abs=0.0051)


def test_a_cap_that_is_never_in_effect_counts_with_the_whole_phase() -> None:
    run = run_of((6000, 60))
    assert run.effect_seconds(CHANGED) == 4.0
    assert run.settled_seconds(CHANGED) == 4.0


def test_b9_a_cap_is_settled_when_the_speed_over_any_two_seconds_from_then_on_is_within_a_point() -> None:
    # One more old slot: 40 ms after the change 20 ms of it are left, a point of 2 s, and 20 of the new ones.
    run = run_of((2100, 60), (3900, 30))
    assert run.settled_seconds(CHANGED) == pytest.approx(0.04, abs=0.0051)


def test_seconds_that_are_off_and_make_up_for_each_other_are_settled() -> None:
    run = run_of((2000, 60), (1000, 28), (1000, 32), (1000, 28), (1000, 32))
    assert run.settled_seconds(CHANGED) == pytest.approx(0.0, abs=0.0051)


def test_what_a_batch_is_of_two_seconds_is_no_error() -> None:
    batch = 32  # iterations, 1.6 points of 2 s
    points = [(n * 50 * MS, (n + 1) // 2 * batch) for n in range(121)]
    assert CappedRun(points, SOLO_SPEED).settled_seconds(CHANGED) == pytest.approx(0.0, abs=0.0051)


@pytest.mark.parametrize(
    ("stretches", "settled_seconds"),
    [
        ([(2000, 60), (1500, 30), (100, 90), (2400, 30)], 1.57),
        ([(2000, 60), (3900, 30), (100, 90)], 4.0),
        ([(2000, 60), (4000, 32)], 4.0),
    ],
)
def test_it_is_not_settled_before_it_was_off_for_the_last_time(
    stretches: Sequence[tuple[int, int]], settled_seconds: float
) -> None:
    assert run_of(*stretches).settled_seconds(CHANGED) == pytest.approx(settled_seconds, abs=0.0051)


def test_a_phase_shorter_than_two_seconds_settles_nothing() -> None:
    short = Phase(30, begun_ns=2 * SECOND_NS, ended_ns=3900 * MS)
    assert run_of((2000, 60), (4000, 30)).settled_seconds(short) == pytest.approx(1.9)


def test_the_error_under_a_cap_is_that_of_the_second_half() -> None:
    run = run_of((2000, 60), (2000, 50), (2000, 33))
    assert run.settled_error_points(CHANGED) == pytest.approx(3.0)
