"""By which means programs that are on the card share its time, where the node says so: for comparisons."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from services.scheduler.tests.conftest import Desk, MakeDesk

from nvshare.scheduler import codec
from nvshare.scheduler.model import Allocation, Mode, Priority, TimeSharing
from nvshare.scheduler.policy import Policy

BUSY, BURSTY, IDLE = 990, 600, 100
OTHERS = [TimeSharing.DRIVER, TimeSharing.SLICES, TimeSharing.SLOTS]
BEST_EFFORT: dict[str, Any] = {"priority": Priority.BEST_EFFORT}
SLOTS = Policy(time_sharing=TimeSharing.SLOTS)
LEAST = SLOTS.least_slot_share


def desk_of(policy: Policy, *terms: dict[str, Any], busy: tuple[int, ...] = (), mode: Mode = Mode.AUTO) -> Desk:
    """Programs `a`, `b`, … with these terms that want the card and keep it busy, or for `busy` permille of the time."""
    desk = MakeDesk()(mode, policy=policy)
    names = "abcdefghij"[: len(terms)]
    for name, changes, permille in zip(names, terms, busy or (BUSY,) * len(terms), strict=True):
        allocation = f"allocation-{name}"
        desk.allocations[allocation] = Allocation(allocation, **changes)
        desk.join(name)
        desk.follow(name, demand=True, busy_permille=permille)
    for name in names:
        desk.follow(name)
    return desk


def desk_with(way: TimeSharing, *terms: dict[str, Any], busy: tuple[int, ...] = ()) -> Desk:
    return desk_of(Policy(time_sharing=way), *terms, busy=busy)


def parts(desk: Desk) -> list[float]:
    """Each one's part of the time; 1 without slots."""
    slots = [desk.grant(name).slot for name in desk.programs]
    return [1.0 if slot is None else slot.part for slot in slots]


def slices_us(desk: Desk) -> list[int]:
    return [desk.grant(name).timeslice_us for name in desk.programs]


@pytest.mark.parametrize("way", OTHERS)
def test_a_policy_that_says_how_time_is_shared_is_written_down_and_read(way: TimeSharing) -> None:
    policy = Policy(time_sharing=way)
    assert codec.decode(Policy, codec.encode(policy)) == policy


@pytest.mark.parametrize(
    "terms",
    [
        [{}, {}, {}],
        [{}, {"weight": 400}],
        [{"priority": Priority.LATENCY_CRITICAL}, BEST_EFFORT],
    ],
)
def test_under_the_driver_s_slices_nobody_gets_slices_or_turns(terms: list[dict[str, Any]]) -> None:
    desk = desk_with(TimeSharing.DRIVER, *terms)
    desk.pass_time(2 * desk.policy.steady_ns)
    assert slices_us(desk) == [0] * len(terms)
    assert parts(desk) == [1.0] * len(terms)


@pytest.mark.parametrize("way", [TimeSharing.DRIVER, TimeSharing.SLICES])
def test_without_turns_a_core_limit_has_its_slot_and_the_others_have_none(way: TimeSharing) -> None:
    assert parts(desk_with(way, {"core_limit_percent": 30}, {})) == pytest.approx([0.3, 1.0], abs=1e-4)


def test_by_slices_only_unequal_weights_are_slices_in_their_ratio() -> None:
    desk = desk_with(TimeSharing.SLICES, {}, {"weight": 400})
    light_us, heavy_us = slices_us(desk)
    assert heavy_us == pytest.approx(4 * light_us, abs=4)
    assert parts(desk) == [1.0, 1.0]


def test_by_slices_only_two_that_never_rest_keep_their_slices() -> None:
    desk = desk_with(TimeSharing.SLICES, {}, {})
    desk.pass_time(2 * desk.policy.steady_ns)
    assert slices_us(desk) == [desk.policy.busy_slice_us] * 2
    assert parts(desk) == [1.0, 1.0]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 1000)), min_size=2, max_size=10))
def test_by_slots_only_any_that_want_the_card_run_in_the_ratio_of_their_weights_busy_or_not(
    programs: list[tuple[int, int]],
) -> None:
    weights = [weight for weight, _ in programs]
    desk = desk_of(SLOTS, *({"weight": weight} for weight in weights), busy=tuple(busy for _, busy in programs))
    assert parts(desk) == pytest.approx([weight / sum(weights) for weight in weights], abs=2e-5)
    assert slices_us(desk) == [0] * len(programs)


def test_by_slots_only_one_alone_has_the_card() -> None:
    desk = desk_of(SLOTS, {}, {})
    desk.follow("b", demand=False)
    desk.pass_time(2 * desk.policy.slot_contested_ns)
    assert parts(desk)[0] == 1.0


@pytest.mark.parametrize("first", [{}, {"priority": Priority.LATENCY_CRITICAL}])
def test_by_slots_only_best_effort_has_the_least_slot_beside_another(first: dict[str, Any]) -> None:
    assert parts(desk_of(SLOTS, first, BEST_EFFORT)) == pytest.approx([1 - LEAST, LEAST], abs=1e-4)


def test_by_slots_only_best_effort_alone_shares_as_others_do() -> None:
    assert parts(desk_of(SLOTS, BEST_EFFORT, BEST_EFFORT | {"weight": 300})) == pytest.approx([0.25, 0.75], abs=1e-4)


def test_by_slots_only_best_effort_has_what_the_limits_of_the_others_leave() -> None:
    assert parts(desk_of(SLOTS, {"core_limit_percent": 30}, BEST_EFFORT)) == pytest.approx([0.3, 0.7], abs=1e-4)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 1000), st.booleans()), min_size=2, max_size=10))
def test_by_slots_only_best_effort_together_has_the_least_slot_and_nothing_of_the_card_is_left(
    programs: list[tuple[int, bool]],
) -> None:
    programs = [(1000, False), *programs[1:-1], (1, True)]
    terms = [{"weight": weight} | (BEST_EFFORT if yields else {}) for weight, yields in programs]
    desk = desk_of(SLOTS, *terms)
    found = parts(desk)
    yielding = [part for part, (_, yields) in zip(found, programs, strict=True) if yields]
    assert sum(yielding) == pytest.approx(LEAST, abs=2e-4)
    assert min(found) > 0
    assert sum(found) == pytest.approx(1.0, abs=2e-4)


def test_by_slots_only_limits_that_all_have_leave_the_rest_of_the_card_unused() -> None:
    assert parts(desk_of(SLOTS, {"core_limit_percent": 30}, {"core_limit_percent": 60})) == pytest.approx(
        [0.3, 0.6], abs=1e-4
    )


@pytest.mark.parametrize("mode", [Mode.SERIAL, Mode.OFF])
def test_by_slots_only_nobody_has_slots_where_nothing_is_shared(mode: Mode) -> None:
    assert parts(desk_of(SLOTS, {}, {}, mode=mode)) == [1.0, 1.0]


def test_the_scheduler_s_own_way_is_the_default() -> None:
    assert slices_us(desk_of(Policy(), {}, {}, {})) == [Policy().busy_slice_us] * 3
    assert replace(SLOTS, time_sharing=TimeSharing.AUTO) == Policy()
