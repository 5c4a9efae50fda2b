"""B5-B9: where the slots of clients with a core limit lie."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from services.scheduler.tests.conftest import Desk, MakeDesk

from nvshare.scheduler.model import Allocation, Mode, Slot
from nvshare.scheduler.policy import SECOND_NS, Policy
from nvshare.scheduler.slots import place_slots

PERIOD_US = Policy().period_us
FULL_US = 190_000  # a period that two have to themselves, each for a half


def limit(desk: Desk, name: str, percent: int, allocation: str = "", *, burst: bool = False) -> None:
    """The allocation of the program has this core limit from now on; the program starts if it has not."""
    allocation = allocation or f"allocation-{name}"
    desk.allocations[allocation] = Allocation(allocation, core_limit_percent=percent, core_burst=burst)
    if name in desk.programs:
        desk.relay()
    else:
        desk.join(name, allocation)
        desk.follow(name, demand=True)


def parts(desk: Desk, *names: str) -> list[float]:
    """Each one's part of the time; 1 without slots."""
    slots = [slot(desk, name) for name in names]
    return [1.0 if one is None else one.part for one in slots]


def slot(desk: Desk, name: str) -> Slot | None:
    return desk.grant(name).slot


def test_b5_a_client_with_a_limit_has_that_part_of_each_period(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30)
    grant = desk.grant("a")
    assert grant.slot == Slot(0, 30_000, PERIOD_US)


def test_without_a_limit_there_are_no_slots(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30)
    limit(desk, "b", 0)
    assert slot(desk, "b") is None


def test_b6_slots_follow_each_other(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30)
    limit(desk, "b", 60)
    assert [slot(desk, "a"), slot(desk, "b")] == [Slot(0, 30_000, PERIOD_US), Slot(30_000, 60_000, PERIOD_US)]


@pytest.mark.parametrize(("percents", "shares"), [((80, 80), (0.5, 0.5)), ((60, 90), (0.4, 0.6))])
def test_b7_limits_beyond_the_whole_are_scaled_in_proportion(
    make_desk: MakeDesk, percents: tuple[int, int], shares: tuple[float, float]
) -> None:
    desk = make_desk()
    limit(desk, "a", percents[0])
    limit(desk, "b", percents[1])
    assert parts(desk, "a", "b") == pytest.approx(shares, abs=1e-4)


@pytest.mark.parametrize("percents", [(50, 50), (60, 90), (10, 90), (80, 80, 80), (10,) * 10])
def test_b8_slots_that_leave_nothing_are_long_but_nobody_waits_too_long(
    make_desk: MakeDesk, percents: tuple[int, ...]
) -> None:
    desk = make_desk()
    names = [f"program-{number}" for number in range(len(percents))]
    for name, percent in zip(names, percents, strict=True):
        limit(desk, name, percent)
    slots = [slot(desk, name) for name in names]
    bound_us = max(100_000, 12_000 * (len(percents) - 1))
    waits_us = [one.period_us - one.length_us for one in slots if one is not None]
    assert 0.9 * bound_us <= max(waits_us) <= bound_us
    assert len({one.period_us for one in slots if one is not None}) == 1


def test_b6_who_wants_nothing_for_a_while_takes_nothing_from_the_others(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 80)
    limit(desk, "b", 80)
    desk.follow("a", demand=False)
    desk.follow("b")
    assert slot(desk, "b") == Slot(FULL_US // 2, FULL_US // 2, FULL_US), "a pause between two bursts changes no plan"
    desk.pass_time(2 * desk.policy.contested_ns)
    assert slot(desk, "b") == Slot(0, 80_000, PERIOD_US)


def test_who_wants_nothing_has_its_slot_ready(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 80)
    limit(desk, "b", 80)
    desk.follow("b", demand=False)
    desk.pass_time(2 * desk.policy.contested_ns)
    assert slot(desk, "b") == Slot(FULL_US // 2, FULL_US // 2, FULL_US)


def test_b2_processes_of_one_allocation_share_its_limit(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30, "shared")
    limit(desk, "b", 30, "shared")
    desk.follow("a")
    assert [slot(desk, "a"), slot(desk, "b")] == [Slot(0, 15_000, PERIOD_US), Slot(15_000, 15_000, PERIOD_US)]


def test_b13_with_burst_a_limit_holds_only_while_another_allocation_wants_the_gpu(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30, burst=True)
    assert slot(desk, "a") is None
    limit(desk, "b", 0)
    assert slot(desk, "a") == Slot(0, 30_000, PERIOD_US)
    desk.follow("b", demand=False)
    desk.pass_time(2 * desk.policy.contested_ns)
    assert slot(desk, "a") is None


def test_b9_a_limit_changes_while_the_program_runs(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30)
    desk.allocations["allocation-a"] = replace(desk.allocations["allocation-a"], core_limit_percent=60)
    desk.relay()
    assert slot(desk, "a") == Slot(0, 60_000, PERIOD_US)
    limit(desk, "a", 0)
    assert slot(desk, "a") is None


def test_the_window_is_small_against_a_slot(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30)
    assert desk.grant("a").window_us == desk.policy.window_contested_us
    limit(desk, "a", 80)
    assert desk.grant("a").window_us == 10_000


def test_in_mode_off_no_limit_holds(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.OFF)
    limit(desk, "a", 30)
    assert slot(desk, "a") is None


def busy(desk: Desk, name: str, permille: int = 990) -> None:
    """The program reports that its work was on the card for this part of the last second."""
    if name not in desk.programs:
        desk.join(name)
    desk.follow(name, demand=True, busy_permille=permille)
    desk.follow(name, busy_permille=permille)


def weigh(desk: Desk, name: str, weight: int) -> None:
    allocation = desk.programs[name].peer.allocation
    desk.allocations[allocation] = replace(desk.allocations[allocation], weight=weight)
    desk.relay()


@pytest.mark.parametrize("weight", [200, 400])
def test_b13_busy_clients_with_unequal_weights_take_turns_as_long_as_their_shares(
    make_desk: MakeDesk, weight: int
) -> None:
    desk = make_desk()
    busy(desk, "a")
    busy(desk, "b")
    assert parts(desk, "a", "b") == [1, 1]
    weigh(desk, "b", weight)
    assert parts(desk, "a", "b") == pytest.approx([100 / (100 + weight), weight / (100 + weight)], abs=1e-4)


def test_b13_two_processes_of_an_allocation_have_one_weight(make_desk: MakeDesk) -> None:
    desk = make_desk()
    for name, allocation in (("a", "pair"), ("b", "pair"), ("c", "single")):
        desk.join(name, allocation)
        busy(desk, name)
    desk.follow("a", busy_permille=990)
    assert parts(desk, "a", "b", "c") == pytest.approx([0.25, 0.25, 0.5], abs=1e-4)


def test_b13_who_uses_up_its_slots_counts_as_busy(make_desk: MakeDesk) -> None:
    desk = make_desk()
    busy(desk, "a")
    busy(desk, "b")
    weigh(desk, "b", 400)
    for _ in range(3):
        busy(desk, "a", 200)
        busy(desk, "b", 800)
    assert parts(desk, "a", "b") == pytest.approx([0.2, 0.8], abs=1e-4)
    for _ in range(3):
        busy(desk, "a", 90)
    assert parts(desk, "a", "b") == [1, 1], "it leaves half of its slots unused, which the other could have"


def test_b13_nobody_waits_for_the_slots_of_one_that_wants_nothing(make_desk: MakeDesk) -> None:
    desk = make_desk()
    busy(desk, "a")
    busy(desk, "b")
    weigh(desk, "b", 400)
    desk.follow("b", demand=False, busy_permille=990)
    assert parts(desk, "a") == pytest.approx([0.2], abs=1e-4)
    desk.pass_time(desk.policy.slot_contested_ns)
    assert parts(desk, "a") == [1]


def test_b6_a_limited_client_beside_a_busy_one_without_a_limit_has_its_share_to_itself(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30)
    busy(desk, "a", 300)
    busy(desk, "b")
    assert parts(desk, "a", "b") == pytest.approx([0.3, 0.7], abs=1e-4)
    limit(desk, "a", 60)
    assert parts(desk, "a", "b") == pytest.approx([0.5, 0.5], abs=1e-4), "its weight is no larger"


def test_of_many_busy_clients_only_the_limited_have_slots(make_desk: MakeDesk) -> None:
    desk = make_desk()
    limit(desk, "a", 30)
    for name in "abcde":
        busy(desk, name)
    assert parts(desk, "a", "b", "c", "d", "e") == pytest.approx([0.3, 1, 1, 1, 1], abs=1e-4)


def test_where_slices_are_refused_busy_clients_take_turns(make_desk: MakeDesk) -> None:
    desk = make_desk()
    busy(desk, "a")
    busy(desk, "b")
    desk.follow("a", busy_permille=990, timeslice_failure="switched off")
    assert parts(desk, "a", "b") == pytest.approx([0.5, 0.5], abs=1e-4)


def test_two_that_never_rest_take_turns(make_desk: MakeDesk) -> None:
    desk = make_desk()
    busy(desk, "a")
    busy(desk, "b")
    assert parts(desk, "a", "b") == [1, 1]
    for _ in range(4):
        desk.pass_time(desk.policy.steady_ns // 4)
        busy(desk, "a")
        busy(desk, "b")
    assert parts(desk, "a", "b") == pytest.approx([0.5, 0.5], abs=1e-4)
    busy(desk, "a", 460)
    assert parts(desk, "a", "b") == pytest.approx([0.5, 0.5], abs=1e-4)
    busy(desk, "a", 420)
    assert parts(desk, "a", "b") == [1, 1], "somebody may wait for what it does between"


def test_one_that_is_busy_but_rests_now_and_then_has_no_slots_to_wait_for(make_desk: MakeDesk) -> None:
    desk = make_desk()
    for _ in range(8):
        busy(desk, "a", 930)
        busy(desk, "b")
        desk.pass_time(desk.policy.steady_ns // 4)
    assert parts(desk, "a", "b") == [1, 1]


@pytest.mark.parametrize("mode", [Mode.SERIAL, Mode.OFF])
def test_where_nothing_is_shared_nobody_takes_turns_by_slots(mode: Mode, make_desk: MakeDesk) -> None:
    desk = make_desk(mode)
    busy(desk, "a")
    busy(desk, "b")
    weigh(desk, "b", 400)
    assert parts(desk, "a", "b") == [1, 1]


def live(desk: Desk, seconds: float, **wants: float) -> None:
    """For so long the programs use what they want of the card, or all that their slots leave them, and report it."""
    for _ in range(round(2 * seconds)):
        used = {name: min(want, part) for (name, want), part in zip(wants.items(), parts(desk, *wants), strict=True)}
        desk.pass_time(SECOND_NS // 2, heartbeats=False)
        for name, use in used.items():
            launches = desk.programs[name].report.launches + 1
            desk.follow(name, demand=True, busy_permille=round(1000 * use), launches=launches)


def pair(make_desk: MakeDesk, percent: int = 30) -> Desk:
    """Two programs, a and b, of one allocation with this core limit."""
    desk = make_desk()
    limit(desk, "a", percent, "shared")
    limit(desk, "b", percent, "shared")
    return desk


def sent(desk: Desk, *names: str) -> int:
    """How many grants these programs have got."""
    return sum(len(desk.programs[name].sent) for name in names)


def test_b2_what_a_process_does_not_use_of_its_part_the_others_of_its_allocation_may_have(make_desk: MakeDesk) -> None:
    desk = pair(make_desk)
    live(desk, 5, a=0.02, b=1)
    few, most = parts(desk, "a", "b")
    assert 0.02 < few < 0.04
    assert few + most == pytest.approx(0.3)


def test_b2_processes_that_want_all_keep_equal_parts(make_desk: MakeDesk) -> None:
    desk = pair(make_desk)
    live(desk, 10, a=1, b=1)
    assert parts(desk, "a", "b") == pytest.approx([0.15, 0.15])


def test_b2_who_wants_more_than_it_used_has_its_equal_part_again_after_two_reports(make_desk: MakeDesk) -> None:
    desk = pair(make_desk)
    live(desk, 5, a=0.02, b=1)
    live(desk, 1, a=1, b=1)
    assert parts(desk, "a", "b") == pytest.approx([0.15, 0.15])


def test_b2_who_comes_again_after_a_rest_has_its_equal_part_at_once(make_desk: MakeDesk) -> None:
    desk = pair(make_desk)
    live(desk, 5, a=0.02, b=1)
    desk.follow("a", demand=False)
    desk.pass_time(desk.policy.contested_ns, heartbeats=False)
    live(desk, 1, b=1)
    assert parts(desk, "b") == pytest.approx([0.3])
    desk.follow("a", demand=True)
    assert parts(desk, "a", "b") == pytest.approx([0.15, 0.15])


def test_b2_a_new_process_has_an_equal_part(make_desk: MakeDesk) -> None:
    desk = pair(make_desk)
    live(desk, 5, a=0.02, b=1)
    limit(desk, "c", 30, "shared")
    live(desk, 1, a=0.02, b=1, c=1)
    few, *most = parts(desk, "a", "b", "c")
    assert few < 0.06
    assert most == pytest.approx([most[0]] * 2)


def test_b2_a_pause_between_bursts_takes_no_part_away(make_desk: MakeDesk) -> None:
    desk = pair(make_desk)
    live(desk, 2, a=1, b=1)
    for _ in range(5):
        live(desk, 2, a=0.01, b=1)
        live(desk, 0.5, a=1, b=1)
    assert parts(desk, "a", "b") == pytest.approx([0.15, 0.15])


def test_b2_a_process_in_the_middle_of_long_work_keeps_its_part(make_desk: MakeDesk) -> None:
    desk = pair(make_desk)
    live(desk, 2, a=1, b=1)
    for _ in range(20):
        desk.follow("a", busy_permille=0)
        live(desk, 0.5, b=1)
    assert parts(desk, "a", "b") == pytest.approx([0.15, 0.15])


@given(st.lists(st.floats(0.9, 1.1), min_size=40, max_size=40), st.sampled_from([0.02, 0.05, 0.09, 0.12, 0.2]))
def test_b2_small_changes_of_what_a_process_uses_change_no_plan(changes: list[float], want: float) -> None:
    desk = pair(MakeDesk())
    live(desk, 5, a=want, b=1)
    live(desk, 4, a=1.1 * want, b=1)
    before = sent(desk, "a", "b")
    for change in changes:
        live(desk, 0.5, a=want * change, b=1)
    assert sent(desk, "a", "b") == before


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=3))
def test_b2_parts_follow_changing_wants_within_seconds_and_their_sum_is_the_limit(
    phases: list[tuple[float, float, float]],
) -> None:
    desk = pair(MakeDesk())
    limit(desk, "c", 30, "shared")
    for a, b, c in phases:
        live(desk, 10, a=a, b=b, c=c)
        shares = parts(desk, "a", "b", "c")
        assert sum(shares) == pytest.approx(0.3, abs=1e-4)
        assert all(share >= min(want, 0.1) - 1e-3 for share, want in zip(shares, (a, b, c), strict=True))
        if max(a, b, c) > 0.3:  # somebody wants all: the others keep no more than room to show that they want more
            assert all(share <= 2 * want + 0.026 for share, want in zip(shares, (a, b, c), strict=True))


@pytest.mark.parametrize("percent", [10, 80])
def test_many_that_want_nothing_have_their_slots_ready(percent: int, make_desk: MakeDesk) -> None:
    desk = make_desk()
    names = [f"program-{number}" for number in range(4)]
    for name in ("busy", *names):
        limit(desk, name, percent)
        if name != "busy":
            desk.follow(name, demand=False)
    desk.pass_time(2 * desk.policy.contested_ns)
    assert [slot(desk, name) for name in names] == [slot(desk, names[0])] * 4
    assert parts(desk, "busy", names[0]) == pytest.approx([percent / 100, min(percent, 50) / 100])


@given(st.lists(st.integers(1, 1_000_000), min_size=1, max_size=20))
def test_any_slots_follow_each_other_within_the_period(parts_ppm: list[int]) -> None:
    shares = {str(i): part / max(1_000_000, sum(parts_ppm)) for i, part in enumerate(parts_ppm)}
    slots = list(place_slots(shares, PERIOD_US).values())
    end_us = 0
    for share, placed in zip(shares.values(), slots, strict=True):
        assert placed.length_us == pytest.approx(max(1, share * PERIOD_US), abs=1.01)
        assert placed.start_us == pytest.approx(end_us, abs=1)
        end_us = placed.start_us + placed.length_us
    assert end_us <= PERIOD_US + 1
