"""Speeds of programs over the time in which all of them ran."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvshare.cli.bench.throughput import common_speeds, common_window, iterations_at

SECOND_NS = 1_000_000_000


def test_iterations_between_two_points_lie_on_the_line_through_them() -> None:
    assert iterations_at([(0, 0), (10, 100), (20, 120)], 5) == 50
    assert iterations_at([(0, 0), (10, 100), (20, 120)], 15) == 110


def test_before_the_start_and_after_the_end_nothing_is_done() -> None:
    progress = [(10, 0), (20, 7)]
    assert iterations_at(progress, 0) == 0
    assert iterations_at(progress, 99) == 7


def test_speeds_are_taken_where_both_ran() -> None:
    # The first is at 10/s alone for a second, then both at 5/s for two, then the second at 10/s alone.
    first = [(0, 0), (SECOND_NS, 10), (3 * SECOND_NS, 20)]
    second = [(SECOND_NS, 0), (3 * SECOND_NS, 10), (4 * SECOND_NS, 20)]
    assert common_window([first, second]) == (SECOND_NS, 3 * SECOND_NS)
    assert common_speeds([first, second]) == pytest.approx([5.0, 5.0])


def test_the_time_in_which_they_settle_is_left_out() -> None:
    runs = [[(0, 0), (SECOND_NS, 90), (3 * SECOND_NS, 110)], [(0, 0), (SECOND_NS, 10), (3 * SECOND_NS, 30)]]
    assert common_window(runs, SECOND_NS) == (SECOND_NS, 3 * SECOND_NS)
    assert common_speeds(runs, SECOND_NS) == pytest.approx([10.0, 10.0])


def test_programs_that_ran_one_after_the_other_have_no_common_speed() -> None:
    with pytest.raises(ValueError, match="same time"):
        common_speeds([[(0, 0), (10, 5)], [(10, 0), (20, 5)]])


@given(st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 1000)), min_size=2, max_size=20), st.integers(0, 2**35))
def test_progress_never_runs_backwards(steps: list[tuple[int, int]], moment: int) -> None:
    progress = []
    time_ns = done = 0
    for step_ns, step_iterations in steps:
        time_ns, done = time_ns + step_ns, done + step_iterations
        progress.append((time_ns, done))
    assert iterations_at(progress, moment) <= iterations_at(progress, moment + 1)
    assert progress[0][1] <= iterations_at(progress, moment) <= progress[-1][1]
