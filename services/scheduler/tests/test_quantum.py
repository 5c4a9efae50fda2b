"""How long a client keeps its place while others wait."""

import pytest
from services.scheduler.tests.conftest import MakeDesk

from nvshare.scheduler.model import QuantumChanged, Report
from nvshare.scheduler.policy import GIB, MILLISECOND_NS, SECOND_NS, Policy
from nvshare.scheduler.quantum import Moved, Speed, automatic_quantum_ns, bearable_quantum_ns

WAIT_NS = 30 * SECOND_NS


@pytest.mark.parametrize(
    ("swap_ns", "waiters", "quantum_ns"),
    [
        (0, 1, 2 * SECOND_NS),  # next to nothing has to move
        (250 * MILLISECOND_NS, 1, 10 * SECOND_NS),  # 40 times
        (250 * MILLISECOND_NS, 4, 7250 * MILLISECOND_NS),  # four wait, 30 s the last of them
        (2 * SECOND_NS, 1, 28 * SECOND_NS),  # the wait is bounded
        (2 * SECOND_NS, 10, 10 * SECOND_NS),  # never below 5 times
    ],
)
def test_a6_the_automatic_quantum(swap_ns: int, waiters: int, quantum_ns: int) -> None:
    wished_ns = automatic_quantum_ns(swap_ns, Policy())
    assert bearable_quantum_ns(wished_ns, swap_ns, waiters, WAIT_NS, Policy()) == quantum_ns


@pytest.mark.parametrize(
    ("wished_ns", "waiters", "quantum_ns"),
    [
        (10 * SECOND_NS, 1, 10 * SECOND_NS),
        (10 * SECOND_NS, 3, 9750 * MILLISECOND_NS),  # three turns and three swaps in 30 s
        (60 * SECOND_NS, 1, 29_750 * MILLISECOND_NS),
        (10 * SECOND_NS, 100, 1250 * MILLISECOND_NS),  # 5 swaps
        (SECOND_NS, 100, SECOND_NS),  # as wished, although shorter than that
    ],
)
def test_a6_a_fixed_quantum_is_shorter_where_somebody_would_wait_too_long(
    wished_ns: int, waiters: int, quantum_ns: int
) -> None:
    assert bearable_quantum_ns(wished_ns, 250 * MILLISECOND_NS, waiters, WAIT_NS, Policy()) == quantum_ns


def gone_out(gib: int, seconds: float) -> Report:
    """The report of a client that has moved so much in that time."""
    return Report(1, swapped_out_bytes=gib * GIB, swap_out_us=int(seconds * 1e6))


def test_what_an_earlier_life_moved_and_counters_that_fall_do_not_count() -> None:
    moved = Moved()
    moved.add(None, gone_out(5, 0.1), pins=False)
    assert moved == Moved()
    moved.add(gone_out(5, 0.1), gone_out(6, 0.15), pins=False)
    assert moved == Moved(GIB, out=Speed(GIB, 50_000))
    moved.add(gone_out(6, 0.15), Report(2), pins=False)
    assert moved == Moved(GIB, out=Speed(GIB, 50_000))


def test_a_way_out_that_waits_for_host_memory_to_be_pinned_says_nothing_of_the_next_one() -> None:
    moved = Moved()
    moved.add(gone_out(0, 0.0), gone_out(8, 6.0), pins=True)
    moved.add(gone_out(8, 6.0), gone_out(18, 6.2), pins=False)
    assert moved.size_bytes == 18 * GIB
    assert moved.out.time_ns(10 * GIB, Policy()) == 200 * MILLISECOND_NS


def test_a_client_that_claims_to_move_for_ever_does_not_make_the_quantum_long() -> None:
    moved = Moved()
    moved.add(gone_out(0, 0.0), gone_out(20, 0.4), pins=False)
    hostile = Report(1, swapped_out_bytes=1, swap_out_us=10**15)
    moved.add(Report(1), hostile, pins=False)
    assert moved.out.time_ns(10 * GIB, Policy()) < 210 * MILLISECOND_NS


def test_a_link_that_has_become_faster_is_soon_known_as_fast() -> None:
    speed = Speed()
    speed.add(250 * GIB, 100_000_000)
    for _ in range(100):
        speed.add(12 * GIB, 240_000)
    assert speed.time_ns(12 * GIB, Policy()) < 500 * MILLISECOND_NS


def test_a_quantum_is_set_to_automatic_and_back(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.take(desk.arbiter.handle(QuantumChanged("request", automatic=True, max_wait_ns=10 * SECOND_NS), desk.now_ns))
    state = desk.arbiter.state
    assert (desk.answers[-1].error, state.fixed_quantum_ns, state.max_wait_ns) == ("", 0, 10 * SECOND_NS)
    assert "auto, for waits up to 10 s" in desk.text("quantum-changed")
    assert desk.quantum(3 * SECOND_NS) == ""
    assert (state.fixed_quantum_ns, state.quantum_ns, state.max_wait_ns) == (
        3 * SECOND_NS,
        3 * SECOND_NS,
        10 * SECOND_NS,
    )


def test_a_longest_wait_out_of_bounds_is_refused(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.take(desk.arbiter.handle(QuantumChanged("request", max_wait_ns=10**18), desk.now_ns))
    assert "the longest wait must be at most" in desk.answers[-1].error
