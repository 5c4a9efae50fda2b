"""B12: several best-effort clients beside others take turns, one at a time at the floor slice."""

from dataclasses import replace
from typing import Any

import pytest
from services.scheduler.tests.conftest import Desk, MakeDesk

from nvshare.scheduler.model import ClientState, Mode, Priority, TimeSharing, Wait
from nvshare.scheduler.policy import Policy

FLOOR_US = Policy().floor_slice_us
TURN_NS = Policy().yielding_turn_ns
BEST_EFFORT: dict[str, Any] = {"priority": Priority.BEST_EFFORT}


def desk_of(
    make_desk: MakeDesk, first: Priority = Priority.LATENCY_CRITICAL, *, weight: int = 100, **desk: Any
) -> Desk:
    """A client `first` of this priority, and two of best effort, `a` and `b` of this weight, that all want the card."""
    made = make_desk(**{"mode": Mode.AUTO, **desk})
    for name, terms in (("first", {"priority": first}), ("a", BEST_EFFORT), ("b", BEST_EFFORT | {"weight": weight})):
        made.join(name)
        allocation = made.programs[name].peer.allocation
        made.allocations[allocation] = replace(made.allocations[allocation], **terms)
        made.relay()
        made.follow(name, demand=True)
    follow_all(made)
    return made


def follow_all(desk: Desk) -> None:
    for name in desk.programs:
        desk.follow(name)


def launching(desk: Desk) -> list[str]:
    return [name for name in desk.programs if desk.grant(name).may_launch]


def turn_ns(desk: Desk, name: str) -> int:
    """How long this one may launch, from now on, while all follow what they are told."""
    begun_ns = desk.now_ns
    while name in launching(desk):
        desk.pass_time(10_000_000)
        follow_all(desk)
    return desk.now_ns - begun_ns


@pytest.mark.parametrize("first", [Priority.LATENCY_CRITICAL, Priority.NORMAL])
def test_one_of_two_may_launch_and_is_at_the_floor(first: Priority, make_desk: MakeDesk) -> None:
    desk = desk_of(make_desk, first)
    assert launching(desk) == ["first", "a"]
    assert desk.grant("a").timeslice_us == FLOOR_US
    assert desk.grant("b").wait == Wait.TURN


def test_the_next_one_may_launch_when_the_last_one_has_nothing_in_flight_any_more(make_desk: MakeDesk) -> None:
    desk = desk_of(make_desk)
    desk.pass_time(TURN_NS)
    assert launching(desk) == ["first"]
    assert desk.grant("a").timeslice_us == 0, "at the floor it would never drain beside a busy one"
    desk.follow("a", state=ClientState.DRAINING)
    assert launching(desk) == ["first"]
    desk.follow("a")
    assert launching(desk) == ["first", "b"]
    assert desk.grant("b").timeslice_us == FLOOR_US


def test_turns_are_as_long_as_the_weights_say(make_desk: MakeDesk) -> None:
    desk = desk_of(make_desk, weight=300)
    turn_ns(desk, "a")
    assert turn_ns(desk, "b") == pytest.approx(3 * turn_ns(desk, "a"), rel=0.05)
    assert turn_ns(desk, "b") + turn_ns(desk, "a") == pytest.approx(2 * TURN_NS, rel=0.05)


def test_who_wants_nothing_gives_its_turn_to_the_next_at_once(make_desk: MakeDesk) -> None:
    desk = desk_of(make_desk)
    desk.follow("a", demand=False)
    desk.follow("a")
    assert launching(desk) == ["first", "b"]


def test_both_may_launch_when_nobody_else_wants_the_card(make_desk: MakeDesk) -> None:
    desk = desk_of(make_desk, Priority.NORMAL)
    desk.follow("first", demand=False)
    desk.pass_time(2 * desk.policy.contested_ns)
    follow_all(desk)
    assert launching(desk) == ["first", "a", "b"]


@pytest.mark.parametrize("sharing", [TimeSharing.DRIVER, TimeSharing.SLOTS])
def test_without_slices_all_may_launch_for_none_is_paused(sharing: TimeSharing, make_desk: MakeDesk) -> None:
    desk = desk_of(make_desk, policy=Policy(time_sharing=sharing))
    assert launching(desk) == ["first", "a", "b"]


def test_where_slices_are_refused_all_may_launch(make_desk: MakeDesk) -> None:
    desk = desk_of(make_desk)
    desk.follow("b", timeslice_failure="refused")
    assert launching(desk) == ["first", "a", "b"]


def test_work_in_flight_is_little_for_who_must_hand_over(make_desk: MakeDesk) -> None:
    desk = desk_of(make_desk)
    assert desk.grant("a").window_us == desk.policy.window_contested_us
