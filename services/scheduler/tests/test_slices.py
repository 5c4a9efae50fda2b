"""Hardware time slices: long ones where all that share the card keep it busy, else the driver's own."""

import pytest
from services.scheduler.tests.conftest import Desk, MakeDesk

from nvshare.scheduler.model import Mode
from nvshare.scheduler.policy import Policy

LONG_US = Policy().busy_slice_us
BUSY, BURSTY, IDLE = 990, 600, 100


def desk_of(make_desk: MakeDesk, *busy_permille: int, mode: Mode = Mode.AUTO) -> Desk:
    """Clients `a`, `b`, … that want the card, with so much of the time on it."""
    desk = make_desk(mode)
    for name, busy in zip("abcd", busy_permille, strict=False):
        desk.join(name)
        desk.follow(name, demand=True, busy_permille=busy)
    for name in "abcd"[: len(busy_permille)]:
        desk.follow(name)
    return desk


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
    desk.pass_time(2 * desk.policy.contested_ns)
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
