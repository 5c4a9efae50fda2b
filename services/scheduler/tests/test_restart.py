"""The scheduler dies and comes back; clients and the relay's journal tell it what was."""

from typing import Any

from services.scheduler.tests.conftest import MakeDesk

from nvshare.scheduler.model import ClientState, Link, Mode
from nvshare.scheduler.policy import GIB, SECOND_NS

JOURNALED: dict[str, Any] = {"journaled": True, "journal_resident_bytes": 6 * GIB, "journal_promised_bytes": 7 * GIB}
RUNNING_BEFORE: dict[str, Any] = {"generation": 1, "epoch": 9, "state": ClientState.RUNNING, "demand": True}


def test_a_stopped_client_stays_charged_with_what_the_journal_says_as_long_as_it_lives(make_desk: MakeDesk) -> None:
    desk = make_desk(generation=2)
    desk.start("stopped", **JOURNALED)
    desk.join("b")
    assert not desk.allocate("b", 10 * GIB)
    desk.pass_time(60 * SECOND_NS)
    assert desk.arbiter.state.clients[next(iter(desk.arbiter.state.clients))].charge_bytes == 7 * GIB
    assert not desk.allocate("b", 10 * GIB)
    assert desk.allocate("b", 9 * GIB)
    assert "client-silent" in desk.kinds()


def test_a_disconnected_journaled_client_is_charged_and_not_waited_for(make_desk: MakeDesk) -> None:
    desk = make_desk(generation=2)
    desk.start("away", link=Link.DISCONNECTED, **JOURNALED)
    assert not desk.arbiter.state.settling
    assert desk.arbiter.state.promised_bytes == 7 * GIB


def test_while_journaled_clients_have_not_spoken_no_newcomer_is_admitted(make_desk: MakeDesk) -> None:
    desk = make_desk(generation=2)
    desk.start("old", **JOURNALED)
    desk.join("new", wanted_bytes=GIB, allocation_waits=True)
    assert desk.grant("new").ceiling_bytes == 0
    desk.report("old", generation=1, epoch=9, footprint_bytes=6 * GIB)
    assert desk.grant("new").ceiling_bytes >= GIB


def test_settling_ends_after_its_time(make_desk: MakeDesk) -> None:
    desk = make_desk(generation=2)
    desk.start("old", **JOURNALED)
    desk.join("new", wanted_bytes=GIB, allocation_waits=True)
    desk.pass_time(desk.policy.settle_ns)
    assert desk.grant("new").ceiling_bytes >= GIB


def test_a_client_keeps_what_it_was_promised(make_desk: MakeDesk) -> None:
    desk = make_desk(generation=2)
    desk.start("old", **JOURNALED)
    desk.report("old", generation=1, epoch=9, footprint_bytes=6 * GIB)
    assert desk.grant("old").ceiling_bytes >= 7 * GIB


def test_the_journal_counts_until_the_client_reports_a_grant_of_this_generation(make_desk: MakeDesk) -> None:
    desk = make_desk(generation=2)
    desk.start("old", **JOURNALED)
    desk.report("old", generation=1, epoch=9, footprint_bytes=1 * GIB)
    client = next(iter(desk.arbiter.state.clients.values()))
    desk.join("b", wanted_bytes=15 * GIB, allocation_waits=True)
    desk.pass_time(2 * SECOND_NS)
    assert client.charge_bytes >= 7 * GIB
    desk.follow("old")
    assert client.charge_bytes == 1 * GIB


def test_a_client_that_runs_keeps_the_lock(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.SERIAL, generation=2)
    desk.start("waits", **JOURNALED)
    desk.start("runs", **JOURNALED)
    desk.report("waits", generation=1, epoch=9, state=ClientState.WAITING, demand=True)
    assert not desk.grant("waits").may_launch
    desk.report("runs", **RUNNING_BEFORE)
    assert desk.grant("runs").may_launch
    assert not desk.grant("waits").may_launch


def test_a_silent_client_may_hold_the_lock_and_is_waited_for_until_settled(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.SERIAL, generation=2)
    desk.start("silent", **JOURNALED)
    desk.start("waits", **JOURNALED)
    desk.report("waits", generation=1, epoch=9, state=ClientState.WAITING, demand=True)
    desk.pass_time(desk.policy.settle_ns - 1)
    assert not desk.grant("waits").may_launch
    desk.pass_time(1)
    assert desk.grant("waits").may_launch


def test_a_silent_client_that_comes_back_running_is_revoked(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.SERIAL, generation=2)
    desk.start("silent", **JOURNALED)
    desk.start("waits", **JOURNALED)
    desk.report("waits", generation=1, epoch=9, state=ClientState.WAITING, demand=True)
    desk.pass_time(desk.policy.settle_ns)
    desk.follow("waits")
    desk.report("silent", **RUNNING_BEFORE)
    assert not desk.grant("silent").may_launch
    assert desk.grant("waits").may_launch


def test_two_that_ran_together_go_on_together(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.CONCURRENT, generation=2)
    for name in ("a", "b"):
        desk.start(name, **JOURNALED)
        desk.report(name, **RUNNING_BEFORE, footprint_bytes=6 * GIB)
    assert desk.grant("a").may_launch
    assert desk.grant("b").may_launch
    assert desk.arbiter.state.promised_bytes <= 16 * GIB


def test_a_relay_that_restarts_changes_nothing_for_who_lives(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    assert desk.allocate("a", 3 * GIB)
    before = desk.grant("a")
    desk.connect("a", Link.DISCONNECTED)
    desk.connect("a", Link.CONNECTED)
    desk.report("a")
    assert desk.grant("a") == before


def test_a_client_that_the_relay_lost_for_a_moment_is_served_again(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("neighbour")
    program = desk.join("a")
    assert desk.allocate("a", 3 * GIB)
    desk.follow("a")
    before = desk.grant("a")
    desk.kill("a")
    desk.programs["a"] = program
    desk.relay()
    desk.report("a")
    assert (desk.grant("a").generation, desk.grant("a").may_launch) == (before.generation, True)
    assert desk.grant("a").epoch > before.epoch
    assert desk.allocate("a", 5 * GIB)


def test_a_lost_client_is_not_taken_at_its_old_word(make_desk: MakeDesk) -> None:
    desk = make_desk()
    program = desk.join("a")
    assert desk.allocate("a", 3 * GIB)
    desk.kill("a")
    desk.programs["a"] = program
    desk.relay()
    desk.report("a")
    desk.report("a")
    client = next(iter(desk.arbiter.state.clients.values()))
    assert not client.agreed
    desk.follow("a")
    assert client.agreed


def test_a_report_of_an_epoch_that_nobody_was_sent_is_refused(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.start("liar")
    desk.report("liar", generation=1, epoch=2**64 - 1)
    assert desk.programs["liar"].grant is None
    assert desk.arbiter.state.refused_reports == 1
