"""B5-B9: where the slots of clients with a core limit lie."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from services.scheduler.tests.conftest import Desk, MakeDesk

from nvshare.scheduler.model import Allocation, Mode, Slot
from nvshare.scheduler.policy import Policy
from nvshare.scheduler.slots import place_slots

PERIOD_US = Policy().period_us


def limit(desk: Desk, name: str, percent: int, allocation: str = "", *, burst: bool = False) -> None:
    """The allocation of the program has this core limit from now on; the program starts if it has not."""
    allocation = allocation or f"allocation-{name}"
    desk.allocations[allocation] = Allocation(allocation, core_limit_percent=percent, core_burst=burst)
    if name in desk.programs:
        desk.relay()
    else:
        desk.join(name, allocation)
        desk.follow(name, demand=True)


def slot(desk: Desk, name: str) -> Slot | None:
    return desk.grant(name).slot


def test_b5_a_client_with_a_limit_has_that_part_of_each_period(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30)
    grant = desk.grant("a")
    assert (grant.slot, grant.period_us) == (Slot(0, 30_000), 100_000)


def test_without_a_limit_there_are_no_slots(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30)
    limit(desk, "b", 0)
    assert (slot(desk, "b"), desk.grant("b").period_us) == (None, 0)


def test_b6_slots_follow_each_other(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30)
    limit(desk, "b", 60)
    assert [slot(desk, "a"), slot(desk, "b")] == [Slot(0, 30_000), Slot(30_000, 60_000)]


@pytest.mark.parametrize(("percents", "lengths_us"), [((80, 80), (50_000, 50_000)), ((60, 90), (40_000, 60_000))])
def test_b7_limits_beyond_the_whole_are_scaled_in_proportion(
    make_desk: MakeDesk, percents: tuple[int, int], lengths_us: tuple[int, int]
) -> None:
    desk = make_desk()
    limit(desk, "a", percents[0])
    limit(desk, "b", percents[1])
    assert [slot(desk, "a"), slot(desk, "b")] == [Slot(0, lengths_us[0]), Slot(lengths_us[0], lengths_us[1])]


def test_b6_who_wants_nothing_for_a_while_takes_nothing_from_the_others(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 80)
    limit(desk, "b", 80)
    desk.follow("a", demand=False)
    desk.follow("b")
    assert slot(desk, "b") == Slot(50_000, 50_000), "a pause between two bursts changes no plan"
    desk.pass_time(2 * desk.policy.contested_ns)
    assert slot(desk, "b") == Slot(0, 80_000)


def test_who_wants_nothing_has_its_slot_ready(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 80)
    limit(desk, "b", 80)
    desk.follow("b", demand=False)
    desk.pass_time(2 * desk.policy.contested_ns)
    assert slot(desk, "b") == Slot(50_000, 50_000)


def test_b2_processes_of_one_allocation_share_its_limit(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30, "shared")
    limit(desk, "b", 30, "shared")
    desk.follow("a")
    assert [slot(desk, "a"), slot(desk, "b")] == [Slot(0, 15_000), Slot(15_000, 15_000)]


def test_b13_with_burst_a_limit_holds_only_while_another_allocation_wants_the_gpu(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30, burst=True)
    assert slot(desk, "a") is None
    limit(desk, "b", 0)
    assert slot(desk, "a") == Slot(0, 30_000)
    desk.follow("b", demand=False)
    desk.pass_time(2 * desk.policy.contested_ns)
    assert slot(desk, "a") is None


def test_b9_a_limit_changes_while_the_program_runs(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30)
    desk.allocations["allocation-a"] = replace(desk.allocations["allocation-a"], core_limit_percent=60)
    desk.relay()
    assert slot(desk, "a") == Slot(0, 60_000)
    limit(desk, "a", 0)
    assert slot(desk, "a") is None


def test_the_window_is_small_against_a_slot(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30)
    assert desk.grant("a").window_us == desk.policy.window_contested_us


def test_in_mode_off_no_limit_holds(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.OFF)
    limit(desk, "a", 30)
    assert slot(desk, "a") is None


@given(st.lists(st.integers(1, 1_000_000), min_size=1, max_size=20))
def test_any_slots_follow_each_other_within_the_period(parts_ppm: list[int]) -> None:
    slots = list(place_slots([(str(i), part) for i, part in enumerate(parts_ppm)], PERIOD_US).values())
    scale = min(1, 1_000_000 / sum(parts_ppm))
    end_us = 0
    for part_ppm, placed in zip(parts_ppm, slots, strict=True):
        assert placed.length_us == pytest.approx(part_ppm * scale * PERIOD_US / 1_000_000, abs=1.01)
        assert placed.start_us == pytest.approx(end_us, abs=1)
        end_us = placed.start_us + placed.length_us
    assert end_us <= PERIOD_US + 1
