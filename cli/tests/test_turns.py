"""What programs that take turns did, told from their points of progress and from what the bus said."""

import pytest

from nvshare.cli.bench.survivor import recovered_ns
from nvshare.cli.bench.timeline import SeenGrant, SeenReport
from nvshare.cli.bench.turns import (
    finish_spread,
    iteration_ns,
    longest_slot_wait_ms,
    longest_wait_seconds,
    revocations,
    switches,
)

MS = 1_000_000
GIB = 2**30


def steady(start_ms: int, end_ms: int, done: int = 0) -> list[tuple[int, int]]:
    """A point each 10 ms, with 10 iterations each."""
    return [(time_ms * MS, done + time_ms - start_ms) for time_ms in range(start_ms, end_ms + 1, 10)]


# The first one runs for a second, is away for another, and runs again; the second one the other way round.
FIRST = [*steady(0, 1000), *steady(2200, 3000, 1010)]
SECOND = [*steady(100, 110), *steady(1250, 2000, 20)]
GRANTS = [
    SeenGrant(0, "first", True, 12 * GIB),
    SeenGrant(1000 * MS, "first", False, 4 * GIB),
    SeenGrant(1001 * MS, "second", True, 12 * GIB),
    SeenGrant(2000 * MS, "second", False, 4 * GIB),
    SeenGrant(2001 * MS, "first", True, 12 * GIB),
]


def test_the_spread_of_finish_times_counts_from_the_common_start() -> None:
    assert finish_spread(1000, [1100, 1120]) == pytest.approx(1.2)


def test_the_longest_wait_includes_the_one_before_the_first_progress() -> None:
    assert longest_wait_seconds(0, [(500 * MS, 0), (600 * MS, 5)]) == 0.5
    assert longest_wait_seconds(0, FIRST) == pytest.approx(1.2)


def test_b8_the_wait_for_a_slot_does_not_count_the_work_between_two_points() -> None:
    slots = [(0, 0), (10 * MS, 10), (90 * MS, 20), (100 * MS, 30), (190 * MS, 40)]
    assert longest_slot_wait_ms(slots, (0, 100 * MS), solo_speed=1000.0) == pytest.approx(70.0)
    assert longest_slot_wait_ms(slots, (0, 200 * MS), solo_speed=1000.0) == pytest.approx(80.0)


def test_who_makes_no_progress_in_a_window_waits_in_it_all_the_time() -> None:
    away = [(0, 0), (10 * MS, 10), (500 * MS, 10), (510 * MS, 20)]
    assert longest_slot_wait_ms(away, (100 * MS, 400 * MS), solo_speed=1000.0) == pytest.approx(300.0)


def test_the_time_of_an_iteration_does_not_count_the_pauses() -> None:
    assert iteration_ns(FIRST) == MS


def test_a_revocation_is_a_grant_that_takes_the_leave_to_launch_away() -> None:
    again = SeenGrant(1002 * MS, "first", False, 2 * GIB)  # further down is no second revocation
    assert [grant.time_ns for grant in revocations([*GRANTS[:3], again, *GRANTS[3:]])] == [1000 * MS, 2000 * MS]


def test_a_switch_goes_from_the_revocation_to_the_next_ones_first_kernel() -> None:
    one, two = switches({"first": FIRST, "second": SECOND}, GRANTS)
    assert (one.leaving, one.coming) == ("first", "second")
    assert one.revoked_ns == 1000 * MS
    assert one.begun_ns == 1240 * MS, "its first batch of ten took 10 ms and ended at 1250"
    assert (two.leaving, two.coming) == ("second", "first")
    assert two.seconds == pytest.approx(0.19)


def test_bytes_that_were_moved_belong_to_the_switch_in_which_they_were_reported() -> None:
    reports = [
        SeenReport(900 * MS, "first", 12 * GIB, 12 * GIB, 8 * GIB, 8 * GIB),
        SeenReport(1100 * MS, "first", 4 * GIB, 12 * GIB, 16 * GIB, 8 * GIB),
        SeenReport(1200 * MS, "second", 12 * GIB, 12 * GIB, 0, 9 * GIB),
        SeenReport(2100 * MS, "second", 4 * GIB, 12 * GIB, 8 * GIB, 9 * GIB),
    ]
    one, two = switches({"first": FIRST, "second": SECOND}, GRANTS, reports)
    assert (one.out_bytes, one.in_bytes) == (8 * GIB, 9 * GIB)
    assert (two.out_bytes, two.in_bytes) == (8 * GIB, 0)


def test_a_program_that_had_not_begun_to_measure_says_nothing_about_a_switch() -> None:
    assert switches({"first": FIRST, "second": SECOND[2:]}, GRANTS[:3]) == []


def test_e1_recovery_is_where_full_speed_lasts_for_a_quarter_of_a_second() -> None:
    # Dead at 1000; ten times too slow until 2000; then full speed.
    slow = [(time_ms * MS, (time_ms - 1000) // 10) for time_ms in range(1100, 2001, 100)]
    progress = [(0, 0), *slow, *steady(2010, 3000, 110)]
    found = recovered_ns(progress, 1000 * MS, 1000.0)
    assert found is not None
    assert found == pytest.approx(2000 * MS, abs=15 * MS)
    assert recovered_ns(slow, 1000 * MS, 1000.0) is None
