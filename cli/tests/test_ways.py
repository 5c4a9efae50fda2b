"""How fast memory left and came back, and how fast programs loaded, told from what the bus said."""

import pytest

from nvshare.cli.bench.timeline import SeenGrant, SeenReport
from nvshare.cli.bench.ways import EXTENT_BYTES, LEAST_BYTES, Swap, Way, first_over_later, loadings, swaps

MS = 1_000_000
GIB = 2**30


def says(time_ms: int, resident: int, needed: int, out: int = 0, back: int = 0, who: str = "first") -> SeenReport:
    """A report; sizes in GiB."""
    return SeenReport(time_ms * MS, who, resident * GIB, needed * GIB, out * GIB, back * GIB)


def told(time_ms: int, may_launch: bool, target: int, who: str = "first") -> SeenGrant:
    """A grant; its target in GiB."""
    return SeenGrant(time_ms * MS, who, may_launch, target * GIB)


# A neighbour loads for a second, in two blocks for which 8 of 12 GiB leave, each in 200 ms; then all comes back in two
# steps of 100 ms, 300 ms apart.
GRANTS = [told(0, True, 12), told(1000, False, 8), told(1800, False, 4), told(5000, False, 8), told(5400, True, 12)]
REPORTS = [
    says(10, 12, 12),
    says(1100, 10, 12, 2),
    says(1200, 8, 12, 4),
    says(1700, 8, 12, 4),
    says(2000, 4, 12, 8),
    says(3000, 4, 12, 8),
    says(5050, 8, 12, 8, 2),  # two more are on their way
    says(5100, 8, 12, 8, 4),
    says(5500, 12, 12, 8, 8),
]


def test_b2_a_swap_is_the_time_in_which_memory_had_to_move_and_not_the_loading_it_left_for() -> None:
    _, swap = swaps(GRANTS, REPORTS)
    assert swap == Swap("first", Way(8 * GIB, 400 * MS), Way(8 * GIB, 200 * MS))


def test_b2_a_pool_that_is_not_ready_is_part_of_the_swap() -> None:
    waits = [says(10, 12, 12), says(1500, 12, 12), says(2900, 12, 12), says(3000, 4, 12, 8)]
    _, swap = swaps([told(0, True, 12), told(1000, False, 4)], waits)
    assert swap.out == Way(8 * GIB, 2000 * MS)


def test_room_for_less_than_what_moves_at_once_is_no_way_back() -> None:
    little = EXTENT_BYTES - 1
    grants = [told(0, True, 12), told(1000, False, 4), SeenGrant(3000 * MS, "first", False, 4 * GIB + little)]
    waits = [says(10, 12, 12), says(1100, 4, 12, 8), says(4000, 4, 12, 8)]
    assert swaps(grants, waits)[-1].back == NOTHING
    arrives = [says(4500, 11, 12, 8, 7), SeenReport(5000 * MS, "first", 12 * GIB, 12 * GIB, 8 * GIB, 8 * GIB)]
    assert swaps([*grants, told(4400, True, 12)], [*waits, *arrives])[-1].back == Way(8 * GIB, 600 * MS)


def test_a_swap_ends_with_the_next_revocation() -> None:
    again = [told(6000, False, 4), told(6050, False, 4)]
    first, second = swaps([*GRANTS, *again], [*REPORTS, says(6100, 4, 12, 16, 8)])[1:]
    assert first.back == Way(8 * GIB, 200 * MS)
    assert second == Swap("first", Way(8 * GIB, 100 * MS), Way())


NOTHING = Way()


def swap_of(out: Way, back: Way = NOTHING, who: str = "first") -> Swap:
    return Swap(who, out, back)


def test_the_first_swap_of_each_program_is_compared_with_all_later_ones() -> None:
    later = swap_of(Way(8 * GIB, 160), Way(8 * GIB, 160))
    first = swap_of(Way(8 * GIB, 240), Way(8 * GIB, 160))
    assert first_over_later([first, later, later]) == pytest.approx(1.5)
    slow_back = swap_of(Way(4 * GIB, 80), Way(4 * GIB, 400), "second")
    assert first_over_later([first, later, slow_back]) == pytest.approx(5.0)
    assert first_over_later([first, slow_back]) is None


def test_less_than_a_step_counts_with_what_follows() -> None:
    little = swap_of(Way(LEAST_BYTES // 8, 1000))
    first = swap_of(Way(8 * GIB, 160))
    rest = swap_of(Way(8 * GIB, 160))
    assert first_over_later([little, first, rest]) == pytest.approx((1160 / (8.0625 * GIB)) / (160 / (8 * GIB)))


def test_b2_loading_beside_a_full_card_is_told_apart_from_loading_on_a_free_one() -> None:
    loads = [
        says(10, 12, 12),
        says(20, 1, 1, who="second"),
        says(30, 4, 4, who="second"),
        says(1500, 8, 8, who="second"),
        says(2000, 12, 12, who="second"),
        says(2100, 12, 12, who="second"),
        says(9000, 13, 13, who="second"),  # when it checks its results
    ]
    alone, beside = loadings({"second": 2200 * MS}, GRANTS, loads)
    assert (alone.grown_bytes, alone.seconds, alone.beside) == (4 * GIB, 0.01, False)
    assert (beside.grown_bytes, beside.seconds, beside.beside) == (8 * GIB, 1.0, True)
