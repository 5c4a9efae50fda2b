"""What a grant says about a moment: plan.h against the same rules in whole numbers of any size."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

NEVER_NS = 2**64 - 1
SECOND_US = 1_000_000

Ask = Callable[[str], list[int]]


@pytest.fixture(scope="module")
def ask(programs: Path) -> Iterator[Ask]:
    process = subprocess.Popen([programs / "plan_filter"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def answer(line: str) -> list[int]:
        stdin.write(line + "\n")
        stdin.flush()
        return [int(word) for word in stdout.readline().split()]

    yield answer
    process.communicate(timeout=10)
    assert process.returncode == 0


def at(
    ask: Ask, *, may_launch: bool = True, start_us: int, length_us: int, period_us: int, now_ns: int
) -> tuple[bool, int]:
    is_open, until_ns = ask(f"at {int(may_launch)} {start_us} {length_us} {period_us} {now_ns}")
    return bool(is_open), until_ns


def test_who_may_not_launch_is_closed_for_good(ask: Ask) -> None:
    assert at(ask, may_launch=False, start_us=0, length_us=10, period_us=100, now_ns=5_000) == (False, NEVER_NS)


def test_without_slots_the_plan_is_open(ask: Ask) -> None:
    assert at(ask, start_us=SECOND_US, length_us=0, period_us=100, now_ns=5) == (True, NEVER_NS)


@pytest.mark.parametrize("period_us", [0, 99, 100])
def test_a_slot_as_long_as_the_period_is_open(ask: Ask, period_us: int) -> None:
    assert at(ask, start_us=SECOND_US, length_us=100, period_us=period_us, now_ns=5) == (True, NEVER_NS)


def test_before_its_first_slot_a_client_waits(ask: Ask) -> None:
    assert at(ask, start_us=1_000, length_us=30, period_us=100, now_ns=999_999) == (False, 1_000_000)


def test_a_slot_is_open_from_its_first_nanosecond_to_before_its_end(ask: Ask) -> None:
    def moment(now_ns: int) -> tuple[bool, int]:
        return at(ask, start_us=1_000, length_us=30, period_us=100, now_ns=now_ns)

    assert moment(1_000_000) == (True, 1_030_000)
    assert moment(1_029_999) == (True, 1_030_000)
    assert moment(1_030_000) == (False, 1_100_000)
    assert moment(1_099_999) == (False, 1_100_000)
    assert moment(1_100_000) == (True, 1_130_000)


@settings(max_examples=200, deadline=None)
@given(
    start_us=st.integers(0, 2**64 - 1) | st.integers(0, 2**40),
    length_us=st.integers(1, 2**32 - 1) | st.integers(1, 1_000_000),
    period_us=st.integers(0, 2**32 - 1) | st.integers(0, 1_000_000),
    now_ns=st.integers(0, NEVER_NS - 1) | st.integers(0, 2**50),
)
def test_any_slots_at_any_time(ask: Ask, start_us: int, length_us: int, period_us: int, now_ns: int) -> None:
    is_open, until_ns = at(ask, start_us=start_us, length_us=length_us, period_us=period_us, now_ns=now_ns)
    if period_us <= length_us:
        assert (is_open, until_ns) == (True, NEVER_NS)
        return
    start_ns = start_us * 1_000
    if now_ns < start_ns:
        assert (is_open, until_ns) == (False, min(start_ns, NEVER_NS))
        return
    slot, into_ns = divmod(now_ns - start_ns, period_us * 1_000)
    assert is_open == (into_ns < length_us * 1_000)
    end_ns = start_ns + slot * period_us * 1_000 + (length_us if is_open else period_us) * 1_000
    assert until_ns == min(end_ns, NEVER_NS)
    assert until_ns > now_ns or until_ns == NEVER_NS


order = st.tuples(*[st.integers(0, 3) | st.integers(0, 2**64 - 1)] * 3)


@settings(max_examples=200, deadline=None)
@given(now=order, following=order)
def test_grants_are_ordered_by_generation_epoch_and_sequence(
    ask: Ask, now: tuple[int, int, int], following: tuple[int, int, int]
) -> None:
    assert ask("newer " + " ".join(map(str, now + following))) == [int(following > now)]
