"""Where memory is and where it is to be: residency.h."""

from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libnvshare.tests.control.conftest import LineFilter


@dataclass(frozen=True)
class Residency:
    """As struct nvs_residency."""

    movable: bool = True
    needed_bytes: int = 0
    present_bytes: int = 0
    moving_bytes: int = 0
    pinned_bytes: int = 0
    target_bytes: int = 0


@dataclass(frozen=True)
class Answer:
    here: bool
    out_bytes: int
    in_bytes: int


Ask = Callable[[Residency], Answer]


@pytest.fixture(scope="module")
def ask(programs: Path) -> Iterator[Ask]:
    residency_filter = LineFilter(programs / "residency_filter")

    def answer(residency: Residency) -> Answer:
        words = residency_filter.ask(" ".join(str(int(value)) for value in astuple(residency))).split()
        here, out_bytes, in_bytes = map(int, words)
        return Answer(bool(here), out_bytes, in_bytes)

    yield answer
    residency_filter.close()


@st.composite
def residencies(draw: st.DrawFn) -> Residency:
    """Any that can be: what moves or is pinned is present, what is present is needed, and nothing pinned moves."""
    numbers = st.integers(0, 2**63)
    needed_bytes = draw(numbers)
    present_bytes = draw(st.integers(0, needed_bytes))
    moving_bytes = draw(st.integers(0, present_bytes))
    pinned_bytes = draw(st.integers(0, present_bytes - moving_bytes))
    return Residency(True, needed_bytes, present_bytes, moving_bytes, pinned_bytes, draw(st.integers(0, 2**64 - 1)))


def test_all_present_within_the_target_is_here(ask: Ask) -> None:
    assert ask(Residency(needed_bytes=10, present_bytes=10, target_bytes=10)) == Answer(True, 0, 0)


def test_what_is_beyond_the_target_leaves(ask: Ask) -> None:
    assert ask(Residency(needed_bytes=10, present_bytes=10, target_bytes=4)) == Answer(False, 6, 0)


def test_what_is_gone_comes_back_as_far_as_the_target_allows(ask: Ask) -> None:
    assert ask(Residency(needed_bytes=10, present_bytes=2, target_bytes=7)) == Answer(False, 0, 5)
    assert ask(Residency(needed_bytes=10, present_bytes=2, target_bytes=70)) == Answer(False, 0, 8)


def test_what_is_pinned_stays(ask: Ask) -> None:
    assert ask(Residency(needed_bytes=10, present_bytes=10, pinned_bytes=7)) == Answer(False, 3, 0)


def test_what_moves_is_not_here_and_not_moved_again(ask: Ask) -> None:
    assert ask(Residency(needed_bytes=10, present_bytes=10, moving_bytes=6, target_bytes=4)) == Answer(False, 0, 0)
    assert ask(Residency(needed_bytes=10, present_bytes=10, moving_bytes=1, target_bytes=10)) == Answer(False, 0, 0)


@given(residency=residencies())
def test_what_cannot_move_is_always_here(ask: Ask, residency: Residency) -> None:
    numbers = astuple(residency)[1:]
    assert ask(Residency(False, *numbers)) == Answer(True, 0, 0)


@given(residency=residencies())
def test_no_way_leads_past_the_target_or_what_is_pinned(ask: Ask, residency: Residency) -> None:
    answer = ask(residency)
    left_bytes = residency.present_bytes - residency.moving_bytes - answer.out_bytes
    assert answer.out_bytes == 0 or left_bytes >= max(residency.target_bytes, residency.pinned_bytes)
    assert answer.in_bytes == 0 or residency.present_bytes + answer.in_bytes <= residency.target_bytes
    assert answer.in_bytes <= residency.needed_bytes - residency.present_bytes
    assert not (answer.out_bytes and answer.in_bytes)


@given(residency=residencies())
def test_who_is_here_has_nothing_to_move(ask: Ask, residency: Residency) -> None:
    answer = ask(residency)
    if answer.here:
        assert (answer.out_bytes, answer.in_bytes) == (0, 0)
