"""What a client with a cap may still take of the card: budget.h, driven by modelled programs."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MS = 1_000_000
PERIOD_MS = 100
ORIGIN_NS = 1000 * PERIOD_MS * MS  # the moment 0 of these tests: a clock that runs is never at 0


class Left(NamedTuple):
    left_ns: int
    next_credit_ns: int


class Budget:
    """One budget in a process of its own."""

    def __init__(self, filter_program: Path) -> None:
        self.process = subprocess.Popen([filter_program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def plan(self, length_ms: float, now_ns: int, *, start_ms: int = 0, period_ms: int = PERIOD_MS) -> Left:
        return self._ask(f"plan {start_ms * 1000} {round(length_ms * 1000)} {period_ms * 1000} {ORIGIN_NS + now_ns}")

    def look(self, now_ns: int, *, busy_ns: int = 0, settled: bool = True) -> Left:
        return self._ask(f"look {busy_ns} {int(settled)} {ORIGIN_NS + now_ns}")

    def reset(self) -> None:
        self._ask("reset")

    def close(self) -> None:
        self.process.communicate(timeout=10)
        assert self.process.returncode == 0, "see its sanitizer's words above"

    def _ask(self, line: str) -> Left:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        left_ns, next_credit_ns = map(int, self.process.stdout.readline().split())
        return Left(left_ns, next_credit_ns - ORIGIN_NS)


@pytest.fixture(scope="module")
def one_budget(programs: Path) -> Iterator[Budget]:
    budget = Budget(programs / "budget_filter")
    yield budget
    budget.close()


@pytest.fixture
def budget(one_budget: Budget) -> Budget:
    one_budget.reset()
    return one_budget


def run_kernels(budget: Budget, now_ns: int, until_ns: int, lengths_ns: list[int]) -> tuple[int, int]:
    """A program that launches one kernel after the other whenever it may, and is looked at in the middle of long ones;
    gives the time in which they ran, and when the last one ended."""
    busy_ns, turn = 0, 0
    left = budget.look(now_ns)
    while now_ns < until_ns:
        if left.left_ns <= 0:
            now_ns = left.next_credit_ns
            left = budget.look(now_ns)
            continue
        end_ns = now_ns + lengths_ns[turn % len(lengths_ns)]
        left = budget.look(now_ns, settled=False)
        while left.next_credit_ns < end_ns:
            left = budget.look(left.next_credit_ns, settled=False)
        busy_ns += end_ns - now_ns
        left = budget.look(end_ns, busy_ns=end_ns - now_ns)
        now_ns, turn = end_ns, turn + 1
    return busy_ns, now_ns


def test_a_new_cap_gives_at_once_what_is_left_of_the_period(budget: Budget) -> None:
    assert budget.plan(30, 60 * MS) == Left(12 * MS, 100 * MS)


def test_each_slot_gives_its_length_when_it_starts(budget: Budget) -> None:
    budget.plan(30, 0, start_ms=20)
    budget.look(10 * MS, busy_ns=6 * MS)
    assert budget.look(20 * MS - 1) == Left(0, 20 * MS)
    assert budget.look(20 * MS) == Left(30 * MS, 120 * MS)


def test_credit_is_kept_for_one_period(budget: Budget) -> None:
    budget.plan(30, 0)
    for turn in range(1, 20):
        assert budget.look(turn * 100 * MS).left_ns == 30 * MS


def test_after_a_long_time_without_a_look_there_is_one_period_of_credit(budget: Budget) -> None:
    budget.plan(30, 0)
    assert budget.look(3600 * 1000 * MS, settled=False).left_ns == 30 * MS


def test_overshoot_shortens_the_next_slots(budget: Budget) -> None:
    budget.plan(30, 0)
    assert budget.look(80 * MS, busy_ns=80 * MS).left_ns == -50 * MS
    assert budget.look(100 * MS).left_ns == -20 * MS
    assert budget.look(200 * MS).left_ns == 10 * MS


def test_a_kernel_that_outlasts_periods_earns_their_credit_while_it_runs(budget: Budget) -> None:
    budget.plan(30, 0)
    budget.look(0, settled=False)
    budget.look(100 * MS, settled=False)
    assert budget.look(300 * MS, busy_ns=300 * MS).left_ns == (4 * 30 - 300) * MS


def test_streams_that_run_at_once_are_billed_once(budget: Budget) -> None:
    budget.plan(50, 0)
    assert budget.look(20 * MS, busy_ns=2 * 20 * MS).left_ns == 30 * MS


def test_time_in_which_nothing_ran_pays_for_no_second_stream(budget: Budget) -> None:
    budget.plan(50, 0)
    budget.look(40 * MS)
    assert budget.look(60 * MS, busy_ns=2 * 20 * MS).left_ns == 30 * MS


@pytest.mark.parametrize("length_ms", [0, 100])
def test_without_a_cap_nothing_is_owed(budget: Budget, length_ms: int) -> None:
    budget.plan(30, 0)
    budget.look(90 * MS, busy_ns=90 * MS)
    budget.plan(length_ms, 90 * MS)
    assert budget.plan(30, 100 * MS).left_ns == 30 * MS


def test_a_cap_that_changes_gives_and_takes_for_the_rest_of_the_period(budget: Budget) -> None:
    budget.plan(30, 0)
    budget.look(20 * MS, busy_ns=20 * MS)
    assert budget.plan(60, 50 * MS).left_ns == (30 - 20 - 15 + 30) * MS


def test_the_same_plan_again_changes_nothing(budget: Budget) -> None:
    budget.plan(30, 0)
    left = budget.look(10 * MS, busy_ns=10 * MS)
    assert budget.plan(30, 50 * MS) == left


def test_what_looks_like_work_for_very_long_is_forgiven(budget: Budget) -> None:
    budget.plan(30, 0)
    assert budget.look(3600 * 1000 * MS, busy_ns=3600 * 1000 * MS).left_ns >= -10_000 * MS


@pytest.mark.parametrize("kernel_ms", [0.1, 5, 100, 300])
@pytest.mark.parametrize("cap", [10, 30, 75, 90])
def test_b6_the_share_comes_to_the_cap_for_kernels_of_any_length(budget: Budget, cap: int, kernel_ms: float) -> None:
    budget.plan(cap, 0)
    end_ns = (20_000 if kernel_ms > 1 else 2000) * MS  # a look at each kernel's end is a question to a process
    busy_ns, last_ns = run_kernels(budget, 0, end_ns, [int(kernel_ms * MS)])
    assert busy_ns / max(last_ns, end_ns) == pytest.approx(cap / 100, abs=0.01 + kernel_ms / 20_000)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths_ns=st.lists(st.integers(5 * MS, 400 * MS), min_size=1, max_size=5),
    cap=st.integers(1, 99),
    start_ms=st.integers(0, 99),
)
def test_b6_the_error_is_never_more_than_one_kernel_and_one_slot(
    budget: Budget, lengths_ns: list[int], cap: int, start_ms: int
) -> None:
    budget.reset()
    budget.plan(cap, 0, start_ms=start_ms)
    busy_ns, last_ns = run_kernels(budget, 0, 10_000 * MS, lengths_ns)
    assert abs(busy_ns - last_ns * cap / 100) <= max(lengths_ns) + 2 * cap * MS


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(caps=st.lists(st.tuples(st.integers(1, 99), st.integers(0, 99), st.integers(10, 900)), min_size=2, max_size=12))
def test_b9_after_any_changes_the_share_is_that_of_the_caps(budget: Budget, caps: list[tuple[int, int, int]]) -> None:
    budget.reset()
    now_ns, busy_ns, due_ns = 0, 0, 0.0
    for cap, start_ms, duration_ms in caps:
        budget.plan(cap, now_ns, start_ms=start_ms)
        ran_ns, last_ns = run_kernels(budget, now_ns, now_ns + duration_ms * MS, [7 * MS])
        due_ns += (last_ns - now_ns) * cap / 100
        now_ns, busy_ns = last_ns, busy_ns + ran_ns
    assert abs(busy_ns - due_ns) <= 107 * MS
