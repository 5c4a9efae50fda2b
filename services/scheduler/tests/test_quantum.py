"""How long a client keeps its place while others wait."""

import pytest
from services.scheduler.tests.conftest import MakeDesk

from nvshare.scheduler.model import QuantumChanged, Report
from nvshare.scheduler.policy import GIB, MILLISECOND_NS, SECOND_NS, Policy
from nvshare.scheduler.quantum import Moved, automatic_quantum_ns

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
    assert automatic_quantum_ns(swap_ns, waiters, WAIT_NS, Policy()) == quantum_ns


def test_what_an_earlier_life_moved_and_counters_that_fall_do_not_count() -> None:
    moved = Moved()
    moved.add(None, Report(1, swapped_out_bytes=5 * GIB, swap_out_us=7))
    assert moved == Moved()
    moved.add(Report(1, swapped_out_bytes=5 * GIB, swap_out_us=7), Report(2, swapped_out_bytes=6 * GIB, swap_out_us=9))
    assert moved == Moved(out_bytes=GIB, out_us=2)
    moved.add(Report(2, swapped_out_bytes=6 * GIB, swap_out_us=9), Report(3))
    assert moved == Moved(out_bytes=GIB, out_us=2)


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
