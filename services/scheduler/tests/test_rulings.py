"""What an arbiter makes of the coordinator's rulings about its clients (A3, E11)."""

from typing import Any

from services.scheduler.tests.conftest import Desk, MakeDesk

from nvshare.scheduler.model import GangRuling, GangsRuled, Mode, Ruling, Wait
from nvshare.scheduler.policy import GIB, SECOND_NS

MOVES: dict[str, Any] = {"swaps": True, "host_room_bytes": 1 << 40}


def holding(desk: Desk, name: str, size_bytes: int) -> None:
    """A client joins, gets its memory, and wants to run."""
    desk.join(name, **MOVES)
    desk.follow(name, wanted_bytes=size_bytes, allocation_waits=True)
    desk.follow(name, footprint_bytes=size_bytes, resident_bytes=size_bytes, wanted_bytes=0, allocation_waits=False)
    desk.follow(name, demand=True)


def waiting(desk: Desk, name: str, size_bytes: int) -> None:
    """A client joins, and waits for its memory."""
    desk.join(name, **MOVES)
    desk.follow(name, wanted_bytes=size_bytes, allocation_waits=True)


def rule(desk: Desk, **rulings: Ruling) -> None:
    """The coordinator speaks about these clients; they wait since now."""
    members = []
    for name, ruling in rulings.items():
        peer = desk.programs[name].peer
        members.append(GangRuling(f"{peer.allocation}/{peer.client}", f"gang-{name}", ruling, desk.now_ns))
    desk.take(desk.arbiter.handle(GangsRuled(tuple(members)), desk.now_ns))


def test_a_paused_client_launches_nothing_and_keeps_its_memory_although_another_waits(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    holding(desk, "a", 12 * GIB)
    rule(desk, a=Ruling.PAUSED)
    waiting(desk, "b", 12 * GIB)
    desk.pass_time(10 * SECOND_NS)
    grant = desk.grant("a")
    assert (grant.may_launch, grant.ceiling_bytes >= 12 * GIB, grant.wait) == (False, True, Wait.TURN)


def test_a_client_that_is_in_keeps_its_place_beyond_its_quantum(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    holding(desk, "a", 12 * GIB)
    rule(desk, a=Ruling.IN)
    waiting(desk, "b", 12 * GIB)
    desk.pass_time(20 * SECOND_NS)
    assert desk.grant("a").may_launch


def test_a_client_that_is_out_makes_room_at_once_and_only_when_it_is_needed(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    holding(desk, "a", 12 * GIB)
    rule(desk, a=Ruling.OUT)
    assert not desk.grant("a").may_launch
    assert desk.grant("a").ceiling_bytes >= 12 * GIB
    waiting(desk, "b", 8 * GIB)
    assert desk.grant("a").ceiling_bytes == 8 * GIB


def test_nobody_who_came_later_takes_the_room_of_a_client_that_is_next(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    holding(desk, "a", 12 * GIB)
    waiting(desk, "b", 12 * GIB)
    rule(desk, b=Ruling.NEXT)
    waiting(desk, "later", 8 * GIB)
    waiting(desk, "small", 2 * GIB)
    desk.pass_time(10 * SECOND_NS)
    assert desk.grant("a").may_launch
    assert desk.grant("later").ceiling_bytes < 8 * GIB
    assert desk.grant("small").ceiling_bytes >= 2 * GIB  # fits beside what `b` will need
    rule(desk, b=Ruling.IN)
    desk.pass_time(SECOND_NS)
    assert not desk.grant("a").may_launch


def test_a_client_that_is_in_comes_before_those_that_waited_for_longer(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    holding(desk, "a", 12 * GIB)
    waiting(desk, "longer", 12 * GIB)
    waiting(desk, "b", 12 * GIB)
    rule(desk, b=Ruling.IN)
    desk.pass_time(3 * SECOND_NS)
    desk.follow("a", resident_bytes=4 * GIB)
    assert desk.grant("b").ceiling_bytes == 12 * GIB
    assert desk.grant("longer").ceiling_bytes == 0


def test_in_serial_mode_the_lock_is_kept_taken_away_and_given_as_the_coordinator_says(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.SERIAL)
    for name in ("a", "b"):
        holding(desk, name, 4 * GIB)
    rule(desk, a=Ruling.IN, b=Ruling.NEXT)
    desk.pass_time(20 * SECOND_NS)
    assert (desk.grant("a").may_launch, desk.grant("b").may_launch) == (True, False)
    rule(desk, a=Ruling.PAUSED, b=Ruling.NEXT)
    desk.follow("a")
    desk.pass_time(SECOND_NS)
    assert (desk.grant("a").may_launch, desk.grant("b").may_launch) == (False, False)
    rule(desk, a=Ruling.NEXT, b=Ruling.IN)
    assert (desk.grant("a").may_launch, desk.grant("b").may_launch) == (False, True)


def test_in_serial_mode_nobody_who_came_later_gets_the_lock_before_a_client_that_is_next(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.SERIAL)
    for name in ("a", "b", "later"):
        holding(desk, name, 2 * GIB)
        desk.pass_time(SECOND_NS // 10)
    desk.follow("later", demand=False)
    rule(desk, b=Ruling.NEXT)
    desk.pass_time(SECOND_NS)
    desk.follow("later", demand=True)
    desk.pass_time(20 * SECOND_NS)
    assert desk.grant("a").may_launch


def test_who_is_named_no_more_is_in_no_gang(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    holding(desk, "a", 12 * GIB)
    rule(desk, a=Ruling.OUT)
    rule(desk)
    assert desk.grant("a").may_launch
