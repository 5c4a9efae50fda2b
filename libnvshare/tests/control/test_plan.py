"""The order of grants: plan.h."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


order = st.tuples(*[st.integers(0, 3) | st.integers(0, 2**64 - 1)] * 3)


@settings(max_examples=200, deadline=None)
@given(now=order, following=order)
def test_grants_are_ordered_by_generation_epoch_and_sequence(
    ask: Ask, now: tuple[int, int, int], following: tuple[int, int, int]
) -> None:
    assert ask("newer " + " ".join(map(str, now + following))) == [int(following > now)]
