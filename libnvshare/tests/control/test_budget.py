"""What a client with a cap may still take of the card: budget.h, driven by modelled programs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from libnvshare.tests.control.conftest import LineFilter

MS = 1_000_000
PERIOD_MS = 100
ORIGIN_NS = 1000 * PERIOD_MS * MS  # the moment 0 of these tests: a clock that runs is never at 0


class Left(NamedTuple):
    left_ns: int
    next_credit_ns: int


class Ran(NamedTuple):
    busy_ns: int
    waited_ns: int
    ended_ns: int


class Kernel(NamedTuple):
    """And what its program does behind it before it launches the next one."""

    length_ns: int
    pause_ns: int = 0


class Budget(LineFilter):
    """One budget in a process of its own."""

    def plan(
        self, length_ms: float, now_ns: int, *, start_ms: int = 0, period_ms: int = PERIOD_MS, paid_permille: int = 0
    ) -> Left:
        return self.plan_us(round(length_ms * 1000), period_ms * 1000, start_ms * 1000, now_ns, paid_permille)

    def plan_us(self, length_us: int, period_us: int, start_us: int, now_ns: int, paid_permille: int = 0) -> Left:
        return self._left(f"plan {start_us} {length_us} {period_us} {ORIGIN_NS + now_ns} {paid_permille}")

    def look(self, now_ns: int, *, busy_ns: int = 0, settled: bool = True) -> Left:
        return self._left(f"look {busy_ns} {int(settled)} {ORIGIN_NS + now_ns}")

    def run(self, now_ns: int, until_ns: int, kernels: Sequence[Kernel]) -> Ran:
        """A program launches these kernels in turn, each as soon as it may, until the first pause that ends later."""
        numbers = " ".join(f"{kernel.length_ns} {kernel.pause_ns}" for kernel in kernels)
        busy_ns, waited_ns, ended_ns = self._numbers(f"run {ORIGIN_NS + now_ns} {ORIGIN_NS + until_ns} {numbers}")
        return Ran(busy_ns, waited_ns, ended_ns - ORIGIN_NS)

    def reset(self) -> None:
        self.ask("reset")

    def _left(self, line: str) -> Left:
        left_ns, next_credit_ns = self._numbers(line)
        return Left(left_ns, next_credit_ns - ORIGIN_NS)

    def _numbers(self, line: str) -> list[int]:
        return [int(number) for number in self.ask(line).split()]


@pytest.fixture(scope="module")
def one_budget(programs: Path) -> Iterator[Budget]:
    budget = Budget(programs / "budget_filter")
    yield budget
    budget.close()


@pytest.fixture
def budget(one_budget: Budget) -> Budget:
    one_budget.reset()
    return one_budget


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


@pytest.mark.parametrize("kernel_ms", [0.1, 5, 100, 300, 2000])
@pytest.mark.parametrize("cap", [10, 30, 75, 90])
def test_b6_the_share_comes_to_the_cap_for_kernels_of_any_length(budget: Budget, cap: int, kernel_ms: float) -> None:
    budget.plan(cap, 0)
    ran = budget.run(0, round(max(30_000, 500 * kernel_ms)) * MS, [Kernel(round(kernel_ms * MS))])
    assert ran.busy_ns / ran.ended_ns == pytest.approx(cap / 100, abs=0.005)


class Slots(NamedTuple):
    length_us: int
    period_us: int
    start_us: int

    @property
    def cap(self) -> float:
        return self.length_us / self.period_us


US = 1000
LENGTHS_NS = st.integers(1, 2000).map(US.__mul__) | st.integers(1, 2000).map(MS.__mul__)
PERIODS_US = st.integers(1, 1000).map(US.__mul__)
SLOTS = PERIODS_US.flatmap(
    lambda period_us: st.builds(
        Slots, st.integers(max(1, period_us // 100), period_us - 1), st.just(period_us), st.integers(0, period_us - 1)
    )
)
EACH = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def long_enough_ns(slots: Slots, kernels: Sequence[Kernel], turns: int) -> int:
    """For so many periods and turns of the kernels, but no more of either than a test has time for."""
    alone_ns = sum(kernel.length_ns + kernel.pause_ns for kernel in kernels)
    turn_ns = max(alone_ns, round(sum(kernel.length_ns for kernel in kernels) / slots.cap))
    period_ns = slots.period_us * US
    return min(turns * max(period_ns, turn_ns), 2000 * turn_ns, 10_000 * period_ns)


@EACH
@given(lengths_ns=st.lists(LENGTHS_NS, min_size=1, max_size=5), slots=SLOTS)
@example(lengths_ns=[1000], slots=Slots(300, 1000, 0))
@example(lengths_ns=[2000 * MS], slots=Slots(1000, 100_000, 37_000))
def test_b6_the_error_does_not_grow_with_time_whatever_runs(
    budget: Budget, lengths_ns: list[int], slots: Slots
) -> None:
    """At any time it is one kernel and one slot at most, so the share comes to the cap."""
    budget.reset()
    budget.plan_us(*slots, now_ns=0)
    kernels = [Kernel(length_ns) for length_ns in lengths_ns]
    busy_ns, ended_ns = 0, 0
    for turns in (1, 10, 200):
        ran = budget.run(ended_ns, ended_ns + long_enough_ns(slots, kernels, turns), kernels)
        busy_ns, ended_ns = busy_ns + ran.busy_ns, ran.ended_ns
        error_ns = busy_ns - ended_ns * slots.cap
        assert -US * slots.length_us <= error_ns <= max(lengths_ns) + US * slots.length_us


@EACH
@given(kernels=st.lists(st.builds(Kernel, LENGTHS_NS, LENGTHS_NS | st.just(0)), min_size=1, max_size=5), slots=SLOTS)
def test_b6_rests_earn_nobody_more_than_its_cap_in_any_stretch_of_time(
    budget: Budget, kernels: list[Kernel], slots: Slots
) -> None:
    budget.reset()
    budget.plan_us(*slots, now_ns=0)
    now_ns = 0
    for turns in (1, 100, 3, 30):
        ran = budget.run(now_ns, now_ns + long_enough_ns(slots, kernels, turns), kernels)
        longest_ns = max(kernel.length_ns for kernel in kernels)
        assert ran.busy_ns <= (ran.ended_ns - now_ns) * slots.cap + longest_ns + 2 * US * slots.length_us
        now_ns = ran.ended_ns


@EACH
@given(length_ns=LENGTHS_NS, slots=SLOTS, used=st.floats(0.01, 0.95))
def test_b5_who_wants_less_than_its_cap_never_waits(budget: Budget, length_ns: int, slots: Slots, used: float) -> None:
    """Not even for its slot, and for kernels that are longer than one."""
    budget.reset()
    budget.plan_us(*slots, now_ns=0)
    kernel = Kernel(length_ns, round(length_ns / (used * slots.cap) - length_ns) + 1)
    assert budget.run(0, long_enough_ns(slots, [kernel], 200), [kernel]).waited_ns == 0


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(caps=st.lists(st.tuples(st.integers(1, 99), st.integers(0, 99), st.integers(10, 900)), min_size=2, max_size=12))
def test_b9_after_any_changes_the_share_is_that_of_the_caps(budget: Budget, caps: list[tuple[int, int, int]]) -> None:
    budget.reset()
    now_ns, busy_ns, due_ns = 0, 0, 0.0
    for cap, start_ms, duration_ms in caps:
        budget.plan(cap, now_ns, start_ms=start_ms)
        ran = budget.run(now_ns, now_ns + duration_ms * MS, [Kernel(7 * MS)])
        due_ns += (ran.ended_ns - now_ns) * cap / 100
        now_ns, busy_ns = ran.ended_ns, busy_ns + ran.busy_ns
    assert abs(busy_ns - due_ns) <= 107 * MS


def test_b6_time_in_which_others_had_the_card_is_not_paid_for(budget: Budget) -> None:
    budget.plan(50, 0)
    budget.look(0)
    assert budget.look(40 * MS, busy_ns=40 * MS).left_ns == 10 * MS
    budget.reset()
    budget.plan(50, 0, paid_permille=500)
    budget.look(0)
    assert budget.look(40 * MS, busy_ns=40 * MS).left_ns == 30 * MS


def test_b6_another_part_to_pay_changes_nothing_of_what_was_paid(budget: Budget) -> None:
    budget.plan(50, 0)
    budget.look(0)
    budget.look(20 * MS, busy_ns=20 * MS)
    assert budget.plan(50, 20 * MS, paid_permille=250).left_ns == 30 * MS
    assert budget.look(40 * MS, busy_ns=20 * MS).left_ns == 25 * MS
