"""Hardware time slices: long ones, by weight, where all that share the card keep it busy, the extremes where best
effort yields, else the driver's own."""

from dataclasses import replace
from typing import Any

import pytest
from services.scheduler.tests.conftest import Desk, MakeDesk

from nvshare.scheduler.model import Mode, Priority
from nvshare.scheduler.policy import Policy

LONG_US = Policy().busy_slice_us
FLOOR_US = Policy().floor_slice_us
BUSY, BURSTY, IDLE = 990, 600, 100
BEST_EFFORT = {"priority": Priority.BEST_EFFORT}
CRITICAL = {"priority": Priority.LATENCY_CRITICAL}


def desk_of(make_desk: MakeDesk, *busy_permille: int, mode: Mode = Mode.AUTO) -> Desk:
    """Clients `a`, `b`, … that want the card, with so much of the time on it."""
    desk = make_desk(mode)
    for name, busy in zip("abcde", busy_permille, strict=False):
        desk.join(name)
        desk.follow(name, demand=True, busy_permille=busy)
    for name in "abcde"[: len(busy_permille)]:
        desk.follow(name)
    return desk


def with_terms(make_desk: MakeDesk, *terms: dict[str, Any], busy_permille: tuple[int, ...] = ()) -> Desk:
    """Busy clients `a`, `b`, … whose allocations have these terms."""
    desk = desk_of(make_desk, *(busy_permille or (BUSY,) * len(terms)))
    for name, changes in zip("abcde", terms, strict=False):
        set_terms(desk, name, **changes)
    return desk


def set_terms(desk: Desk, name: str, **changes: Any) -> None:
    allocation = desk.programs[name].peer.allocation
    desk.allocations[allocation] = replace(desk.allocations[allocation], **changes)
    desk.relay()


def slices(desk: Desk) -> list[int]:
    return [desk.grant(name).timeslice_us for name in desk.programs]


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.CONCURRENT])
def test_two_that_keep_the_card_busy_get_long_slices(mode: Mode, make_desk: MakeDesk) -> None:
    assert slices(desk_of(make_desk, BUSY, BUSY, mode=mode)) == [LONG_US, LONG_US]


def test_one_alone_keeps_the_driver_s_own(make_desk: MakeDesk) -> None:
    assert slices(desk_of(make_desk, BUSY)) == [0]


def test_beside_one_that_is_not_busy_nobody_s_slice_is_long(make_desk: MakeDesk) -> None:
    assert slices(desk_of(make_desk, BUSY, BUSY, IDLE)) == [0, 0, 0]


def test_who_wants_nothing_for_a_while_makes_nobody_wait(make_desk: MakeDesk) -> None:
    desk = desk_of(make_desk, BUSY, BUSY, IDLE)
    desk.follow("c", demand=False)
    desk.pass_time(desk.policy.contested_ns)
    desk.follow("a")
    assert slices(desk) == [LONG_US, LONG_US, 0]


def test_who_is_counted_as_busy_stays_so_until_it_clearly_is_not(make_desk: MakeDesk) -> None:
    desk = desk_of(make_desk, BUSY, BUSY)
    desk.follow("a", busy_permille=BURSTY)
    assert slices(desk) == [LONG_US, LONG_US]
    desk.follow("a", busy_permille=IDLE)
    assert slices(desk) == [0, 0]
    desk.follow("a", busy_permille=BURSTY)
    assert slices(desk) == [0, 0]


@pytest.mark.parametrize("mode", [Mode.SERIAL, Mode.OFF])
def test_where_nothing_is_shared_all_keep_the_driver_s_own(mode: Mode, make_desk: MakeDesk) -> None:
    assert slices(desk_of(make_desk, BUSY, BUSY, mode=mode)) == [0, 0]


def test_slices_of_many_busy_clients_are_in_the_ratio_of_their_weights(make_desk: MakeDesk) -> None:
    """Of fewer their slots keep them apart (test_slots.py)."""
    heavy_us, *others_us = slices(with_terms(make_desk, {"weight": 200}, {}, {}, {}, {}))
    assert heavy_us + sum(others_us) == pytest.approx(5 * LONG_US, abs=5)
    assert all(heavy_us == pytest.approx(2 * other_us, abs=2) for other_us in others_us)


def test_weights_hold_beside_one_that_is_not_busy_with_slices_it_can_wait_for(make_desk: MakeDesk) -> None:
    terms: list[dict[str, Any]] = [{"weight": 100}, {"weight": 400}, {}]
    first_us, second_us, _ = slices(with_terms(make_desk, *terms, busy_permille=(BUSY, BUSY, IDLE)))
    assert second_us == 4 * first_us
    assert first_us + second_us < LONG_US


@pytest.mark.parametrize("count", [2, 3, 4, 10])
def test_b8_nobody_waits_longer_for_its_turn_than_the_bound(count: int, make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    names = [f"program-{number}" for number in range(count)]
    for name in names:
        desk.join(name)
        desk.follow(name, demand=True, busy_permille=BUSY)
    for name in names:
        desk.follow(name)
    lengths_us = slices(desk)
    wait_us = sum(lengths_us) - min(lengths_us) + count * desk.policy.switch_us
    assert wait_us <= max(100_000, 12_000 * (count - 1)) + count, "each is a whole number of microseconds"
    mean_us = sum(lengths_us) / count
    assert mean_us / (mean_us + desk.policy.switch_us) >= 0.98


def test_clients_that_are_all_limited_keep_the_driver_s_own_for_their_slots_keep_them_apart(
    make_desk: MakeDesk,
) -> None:
    both: list[dict[str, Any]] = [{"core_limit_percent": 30}, {"core_limit_percent": 60}]
    assert slices(with_terms(make_desk, *both)) == [0, 0]


@pytest.mark.parametrize(("cores", "part"), [(30, 0.2), (10, 0.1)])
def test_b5_a_limited_one_beside_more_busy_ones_than_take_turns_has_a_slice_of_its_share(
    cores: int, part: float, make_desk: MakeDesk
) -> None:
    lengths_us = slices(with_terms(make_desk, {"core_limit_percent": cores}, {}, {}, {}, {}))
    assert lengths_us[0] / sum(lengths_us) == pytest.approx(part, abs=1e-3)


@pytest.mark.parametrize("first", [CRITICAL, {}])
def test_the_one_best_effort_client_is_at_the_floor_beside_another_that_wants_the_card(
    first: dict[str, Any], make_desk: MakeDesk
) -> None:
    assert slices(with_terms(make_desk, first, BEST_EFFORT)) == [LONG_US, FLOOR_US]


def test_best_effort_stays_at_the_floor_while_a_critical_one_rests(make_desk: MakeDesk) -> None:
    desk = with_terms(make_desk, CRITICAL, BEST_EFFORT)
    desk.follow("a", demand=False)
    desk.pass_time(2 * desk.policy.contested_ns)
    assert slices(desk) == [LONG_US, FLOOR_US]


def test_best_effort_has_its_own_slice_again_when_the_others_want_nothing_for_a_while(make_desk: MakeDesk) -> None:
    desk = with_terms(make_desk, {}, BEST_EFFORT)
    desk.follow("a", demand=False)
    desk.pass_time(2 * desk.policy.contested_ns)
    assert slices(desk) == [0, 0]


def test_where_best_effort_clients_cannot_take_turns_none_is_at_the_floor_and_none_has_a_long_slice(
    make_desk: MakeDesk,
) -> None:
    desk = with_terms(make_desk, CRITICAL, BEST_EFFORT, BEST_EFFORT | {"weight": 300})
    desk.follow("c", timeslice_failure="refused")
    critical_us, *others_us = slices(desk)
    assert critical_us == LONG_US
    assert others_us == [Policy().yielding_slice_us // 2, 3 * Policy().yielding_slice_us // 2]


def test_of_several_best_effort_clients_the_one_that_wants_the_card_is_at_the_floor(make_desk: MakeDesk) -> None:
    desk = with_terms(make_desk, CRITICAL, BEST_EFFORT, BEST_EFFORT)
    desk.follow("c", demand=False)
    desk.pass_time(2 * desk.policy.contested_ns)
    assert slices(desk) == [LONG_US, FLOOR_US, Policy().yielding_slice_us]


def test_best_effort_clients_alone_share_as_others_do(make_desk: MakeDesk) -> None:
    assert slices(with_terms(make_desk, BEST_EFFORT, BEST_EFFORT)) == [LONG_US, LONG_US]


def test_a_critical_one_beside_a_normal_one_has_a_long_slice_and_its_neighbour_a_short_one(make_desk: MakeDesk) -> None:
    assert slices(with_terms(make_desk, CRITICAL, {})) == [LONG_US, 0]


@pytest.mark.parametrize("mode", [Mode.SERIAL, Mode.OFF])
def test_weights_and_priorities_set_no_slices_where_nothing_is_shared(mode: Mode, make_desk: MakeDesk) -> None:
    desk = with_terms(make_desk, CRITICAL, BEST_EFFORT | {"weight": 300})
    desk.mode(mode)
    assert slices(desk) == [0, 0]
