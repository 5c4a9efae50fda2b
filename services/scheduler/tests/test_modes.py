"""Modes are changed while programs run; off means unmanaged."""

from services.scheduler.tests.conftest import MakeDesk

from nvshare.scheduler.model import Mode
from nvshare.scheduler.policy import GIB, SECOND_NS


def test_off_lets_everybody_have_the_card(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.SERIAL)
    for name in ("a", "b"):
        desk.join(name)
        desk.follow(name, demand=True)
    assert desk.mode(Mode.OFF) == ""
    for name in ("a", "b"):
        grant = desk.grant(name)
        assert (grant.may_launch, grant.limit_bytes, grant.ceiling_bytes) == (True, 0, 64 * GIB)


def test_off_is_refused_with_the_sums_when_more_than_fits_waits(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    assert desk.allocate("a", 12 * GIB)
    desk.join("b", wanted_bytes=12 * GIB, allocation_waits=True)
    refusal = desk.mode(Mode.OFF)
    assert "have 12.0 GiB and want 12.0 GiB more" in refusal
    assert "24.0 GiB, and 16.0 GiB fit" in refusal
    assert desk.grant("a").mode == Mode.CONCURRENT


def test_switching_back_on_promises_nothing_before_the_whole_cards_promise_is_given_back(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.OFF)
    desk.join("a")
    desk.follow("a", footprint_bytes=6 * GIB)
    desk.join("b")
    desk.follow("b", footprint_bytes=6 * GIB)
    assert desk.mode(Mode.CONCURRENT) == ""
    desk.follow("b", wanted_bytes=9 * GIB, allocation_waits=True)
    assert desk.grant("b").ceiling_bytes == 6 * GIB
    desk.follow("a")
    desk.pass_time(2 * SECOND_NS)
    assert desk.grant("b").ceiling_bytes >= 9 * GIB
    assert desk.arbiter.state.promised_bytes <= 16 * GIB


def test_switching_off_and_on_loses_nobody(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.CONCURRENT)
    for name in ("a", "b"):
        desk.join(name)
        assert desk.allocate(name, 3 * GIB)
        desk.follow(name, demand=True)
    for mode in (Mode.OFF, Mode.SERIAL, Mode.OFF, Mode.AUTO):
        assert desk.mode(mode) == ""
        for name in ("a", "b", "a"):
            desk.follow(name)
    assert all(desk.grant(name).may_launch for name in ("a", "b"))
    assert all(desk.grant(name).ceiling_bytes >= 3 * GIB for name in ("a", "b"))


def test_an_unspecified_mode_changes_nothing_and_is_answered(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.SERIAL)
    assert desk.mode(Mode.UNSPECIFIED) == ""
    assert desk.arbiter.state.mode == Mode.SERIAL
