"""Who is promised room on the card when memory can move, one message at a time."""

from typing import Any

from services.scheduler.tests.conftest import Desk, MakeDesk

from nvshare.scheduler.model import ClientState, Limit, Mode, Wait
from nvshare.scheduler.policy import GIB, MIB, SECOND_NS

MOVES: dict[str, Any] = {"swaps": True, "host_room_bytes": 1 << 40}


def holding(desk: Desk, name: str, size_bytes: int, **report: Any) -> None:
    """A client joins and gets its memory."""
    desk.join(name, **{**MOVES, **report})
    desk.follow(name, wanted_bytes=size_bytes, allocation_waits=True)
    desk.follow(name, footprint_bytes=size_bytes, resident_bytes=size_bytes, wanted_bytes=0, allocation_waits=False)
    desk.follow(name, demand=True)


def leaves(desk: Desk, name: str, resident_bytes: int) -> None:
    """The client follows its grant, and has so much left on the card."""
    desk.follow(name, state=ClientState.WAITING, resident_bytes=resident_bytes)


def two_of_12(make_desk: MakeDesk) -> Desk:
    """`a` has its place, `b` waits with 4 of its 12 GiB; the quantum is 2 s."""
    desk = make_desk(Mode.AUTO)
    holding(desk, "b", 12 * GIB)
    desk.pass_time(3 * SECOND_NS)
    desk.join("a", **MOVES)
    desk.follow("a", wanted_bytes=12 * GIB, allocation_waits=True)
    leaves(desk, "b", 4 * GIB)
    desk.follow(
        "a", footprint_bytes=12 * GIB, resident_bytes=12 * GIB, wanted_bytes=0, allocation_waits=False, demand=True
    )
    return desk


def test_a_client_that_must_leave_is_told_in_one_grant_what_it_keeps(make_desk: MakeDesk) -> None:
    desk = two_of_12(make_desk)
    grant = desk.grant("b")
    assert (grant.may_launch, grant.ceiling_bytes, grant.wait) == (False, 4 * GIB, Wait.MEMORY)


def test_who_was_evicted_gets_its_room_back_in_steps_and_may_launch_with_the_last(make_desk: MakeDesk) -> None:
    desk = two_of_12(make_desk)
    desk.pass_time(2 * SECOND_NS)
    assert desk.grant("a").ceiling_bytes == 4 * GIB
    assert desk.grant("b").ceiling_bytes == 4 * GIB
    leaves(desk, "a", 12 * GIB - 256 * MIB)
    assert desk.grant("b").ceiling_bytes == 4 * GIB
    leaves(desk, "a", 12 * GIB - 768 * MIB)
    assert desk.grant("b").ceiling_bytes == 4 * GIB + 512 * MIB
    assert not desk.grant("b").may_launch
    leaves(desk, "a", 4 * GIB)
    assert desk.grant("b").ceiling_bytes == 12 * GIB
    assert desk.grant("b").may_launch


def test_room_is_promised_only_when_a_report_under_the_lower_grant_shows_it_free(make_desk: MakeDesk) -> None:
    desk = two_of_12(make_desk)
    desk.pass_time(2 * SECOND_NS)
    desk.report("a", resident_bytes=6 * GIB)
    assert desk.grant("b").ceiling_bytes == 4 * GIB
    leaves(desk, "a", 6 * GIB)
    assert desk.grant("b").ceiling_bytes == 10 * GIB


def test_headroom_that_was_used_while_it_was_taken_back_stays_with_who_has_a_place(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    holding(desk, "a", 11 * GIB)
    desk.follow("a")
    desk.pass_time(SECOND_NS)
    assert desk.grant("a").ceiling_bytes >= 11 * GIB + 512 * MIB
    desk.join("b", **MOVES)
    desk.follow("b", wanted_bytes=5 * GIB - 256 * MIB, allocation_waits=True)
    assert desk.grant("a").ceiling_bytes < 11 * GIB + 512 * MIB
    desk.report("a", footprint_bytes=11 * GIB + 512 * MIB, resident_bytes=11 * GIB + 512 * MIB)
    assert desk.grant("a").ceiling_bytes == 11 * GIB + 512 * MIB
    assert desk.grant("a").may_launch
    assert desk.grant("b").ceiling_bytes < 5 * GIB - 256 * MIB


def test_a_quantum_ends_only_when_somebody_waits(make_desk: MakeDesk) -> None:
    desk = two_of_12(make_desk)
    desk.follow("b", demand=False)
    desk.pass_time(60 * SECOND_NS)
    assert desk.grant("a").ceiling_bytes >= 12 * GIB
    assert desk.grant("a").may_launch


def test_nothing_is_taken_before_enough_can_be_freed(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    holding(desk, "a", 6 * GIB)
    desk.pass_time(SECOND_NS)
    holding(desk, "b", 6 * GIB)
    desk.pass_time(SECOND_NS)
    desk.join("c", **MOVES)
    desk.follow("c", wanted_bytes=12 * GIB, allocation_waits=True)
    assert [desk.grant(name).may_launch for name in ("a", "b")] == [True, True]
    desk.pass_time(SECOND_NS)
    assert [desk.grant(name).may_launch for name in ("a", "b")] == [False, False]
    assert sorted(desk.grant(name).ceiling_bytes for name in ("a", "b")) == [0, 4 * GIB]


def test_nobody_overtakes_the_first_with_room_that_it_will_need(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    holding(desk, "a", 12 * GIB)
    desk.join("large", **MOVES)
    desk.follow("large", wanted_bytes=16 * GIB, allocation_waits=True)
    desk.join("small", **MOVES)
    desk.follow("small", wanted_bytes=2 * GIB, allocation_waits=True)
    assert desk.grant("small").ceiling_bytes < 2 * GIB


def test_who_fits_beside_the_first_that_waits_is_served(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    holding(desk, "a", 12 * GIB)
    desk.join("large", **MOVES)
    desk.follow("large", wanted_bytes=12 * GIB, allocation_waits=True)
    desk.join("small", **MOVES)
    desk.follow("small", wanted_bytes=2 * GIB, allocation_waits=True)
    assert desk.grant("small").ceiling_bytes == 2 * GIB
    desk.pass_time(2 * SECOND_NS)
    assert desk.grant("a").ceiling_bytes == 2 * GIB


def test_several_threads_that_ask_within_the_limit_one_by_one_are_not_left_waiting(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    desk.join("a", limit_bytes=6 * GIB, **MOVES)
    desk.follow("a", wanted_bytes=10 * GIB, allocation_waits=True)
    desk.pass_time(SECOND_NS)
    assert desk.grant("a").ceiling_bytes == 6 * GIB


def test_a_refusal_for_want_of_host_room_names_its_reason_and_goes_with_the_others(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    holding(desk, "a", 12 * GIB)
    desk.join("confined", swaps=True, host_room_bytes=GIB)
    desk.follow("confined", wanted_bytes=8 * GIB, allocation_waits=True)
    grant = desk.grant("confined")
    assert (grant.limit_bytes, grant.limited_by) == (5 * GIB, Limit.HOST_ROOM)
    assert desk.grant("a").may_launch
    desk.kill("a")
    desk.now_ns += 1
    desk.sample(0)
    assert desk.grant("confined").limited_by == Limit.CARD
    assert desk.grant("confined").ceiling_bytes >= 8 * GIB


def test_host_memory_is_made_ready_before_the_card_is_full(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    holding(desk, "a", 8 * GIB)
    assert desk.grant("a").pool_bytes == 0
    holding(desk, "b", 7 * GIB)
    assert desk.grant("a").pool_bytes == 3 * GIB
    assert desk.grant("b").pool_bytes == 3 * GIB


def test_where_not_everything_fits_each_prepares_for_all_that_may_have_to_leave(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    holding(desk, "a", 12 * GIB)
    assert desk.grant("a").pool_bytes == 0
    desk.pass_time(SECOND_NS)
    desk.join("b", **MOVES)
    desk.follow("b", wanted_bytes=5 * GIB, allocation_waits=True)
    assert desk.grant("a").pool_bytes == 12 * GIB
    assert desk.grant("b").pool_bytes == 5 * GIB
    desk.kill("b")
    assert desk.grant("a").pool_bytes == 0


def test_an_old_library_beside_one_that_moves_keeps_what_it_has(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    desk.join("old")
    assert desk.allocate("old", 3 * GIB)
    desk.follow("old", demand=True)
    holding(desk, "a", 12 * GIB)
    desk.pass_time(3 * SECOND_NS)
    desk.join("b", **MOVES)
    desk.follow("b", wanted_bytes=10 * GIB, allocation_waits=True)
    assert desk.grant("old").may_launch
    assert desk.grant("old").ceiling_bytes >= 3 * GIB
    assert desk.grant("a").ceiling_bytes == 3 * GIB


def test_a_client_that_is_away_after_a_restart_stays_away_until_all_have_spoken(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO, generation=2)
    journal: dict[str, Any] = {
        "journaled": True,
        "journal_resident_bytes": 12 * GIB,
        "journal_promised_bytes": 12 * GIB,
    }
    desk.start("runs", **journal)
    away: dict[str, Any] = {"journaled": True, "journal_resident_bytes": 4 * GIB, "journal_promised_bytes": 4 * GIB}
    desk.start("away", **away)
    desk.report("away", footprint_bytes=12 * GIB, resident_bytes=4 * GIB, demand=True, generation=1, epoch=9, **MOVES)
    grant = desk.grant("away")
    assert (grant.ceiling_bytes, grant.may_launch) == (4 * GIB, False)
    assert desk.arbiter.state.promised_bytes == 16 * GIB


def test_memory_that_leaves_while_the_card_is_sampled_is_not_taken_for_overhead(make_desk: MakeDesk) -> None:
    desk = two_of_12(make_desk)
    desk.arbiter.state.card.logical_capacity_bytes = 0
    for _ in range(2):
        desk.sample(16 * GIB, {1000: 4 * GIB, 1001: 12 * GIB})
    before = desk.arbiter.state.capacity_bytes(desk.policy)
    desk.pass_time(2 * SECOND_NS)
    leaves(desk, "a", 2 * GIB)
    desk.sample(16 * GIB, {1000: 4 * GIB, 1001: 12 * GIB})  # began before it left
    assert desk.arbiter.state.capacity_bytes(desk.policy) == before


def test_who_says_that_it_left_and_is_still_there_is_charged_with_what_the_driver_shows(make_desk: MakeDesk) -> None:
    desk = two_of_12(make_desk)
    desk.arbiter.state.card.logical_capacity_bytes = 0
    before = desk.arbiter.state.capacity_bytes(desk.policy)
    leaves(desk, "b", 0)
    for _ in range(2):
        desk.sample(24 * GIB, {1000: 12 * GIB, 1001: 12 * GIB})
    client = desk.arbiter.state.clients["allocation-b/1000-b"]
    assert before - desk.arbiter.state.capacity_bytes(desk.policy) + client.charge_bytes >= 12 * GIB


def test_who_was_stuck_is_asked_again_as_soon_as_its_work_has_ended(make_desk: MakeDesk) -> None:
    desk = two_of_12(make_desk)
    desk.pass_time(2 * SECOND_NS)
    desk.follow("a", state=ClientState.DRAINING)
    desk.pass_time(desk.policy.leave_limit_ns)
    desk.follow("a", state=ClientState.STUCK)
    desk.pass_time(SECOND_NS)
    assert desk.grant("a").may_launch, "those that fit go on"
    desk.follow("a", state=ClientState.RUNNING)
    desk.pass_time(3 * SECOND_NS)
    assert not desk.grant("a").may_launch
    leaves(desk, "a", 4 * GIB)
    assert desk.grant("b").may_launch
