"""Who is promised memory."""

from services.scheduler.tests.conftest import MakeDesk

from nvshare.scheduler.model import Link, Mode, Wait
from nvshare.scheduler.policy import GIB, MIB, MILLISECOND_NS, SECOND_NS


def test_nothing_is_promised_before_the_relay_has_spoken(make_desk: MakeDesk) -> None:
    desk = make_desk()
    assert desk.arbiter.tick(desk.now_ns) == []
    assert desk.arbiter.next_deadline_ns() is None


def test_while_memory_is_plentiful_a_newcomer_has_headroom_before_it_asks(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    assert desk.grant("a").ceiling_bytes == GIB


def test_growing_within_the_headroom_needs_no_grant(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    desk.follow("a")
    grants = len(desk.programs["a"].sent)
    for step in range(1, 8):
        desk.follow("a", footprint_bytes=step * 64 * MIB)
    assert len(desk.programs["a"].sent) == grants


def test_headroom_is_topped_up_before_it_is_used_up(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    desk.follow("a", footprint_bytes=768 * MIB)
    assert desk.grant("a").ceiling_bytes == 768 * MIB + GIB


def test_e12_memory_allocated_after_admission_is_admitted_again(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    assert desk.allocate("a", 748 * MIB)
    desk.join("b")
    assert desk.allocate("b", 748 * MIB)
    desk.pass_time(2 * SECOND_NS)
    assert desk.allocate("a", 11968 * MIB)
    desk.pass_time(2 * SECOND_NS)
    assert not desk.allocate("b", 11968 * MIB)
    assert desk.grant("b").wait == Wait.MEMORY
    assert desk.arbiter.state.promised_bytes <= 16 * GIB


def test_headroom_of_others_is_taken_back_when_somebody_waits(make_desk: MakeDesk) -> None:
    desk = make_desk(capacity_bytes=4 * GIB)
    desk.join("a")
    desk.follow("a")
    desk.join("b")
    desk.follow("b")
    assert desk.grant("a").headroom_bytes > 0
    assert desk.allocate("b", 4 * GIB)
    assert desk.grant("a").ceiling_bytes == 0


def test_headroom_is_free_only_when_its_client_reports_the_smaller_grant(make_desk: MakeDesk) -> None:
    desk = make_desk(capacity_bytes=4 * GIB)
    desk.join("a")
    desk.follow("a")
    desk.join("b")
    desk.follow("b", wanted_bytes=4 * GIB, allocation_waits=True)
    assert desk.grant("a").ceiling_bytes == 0
    desk.pass_time(SECOND_NS)
    assert desk.grant("b").ceiling_bytes < 4 * GIB
    desk.follow("a")
    assert desk.grant("b").ceiling_bytes == 4 * GIB


def test_a_newcomer_does_not_overtake_one_that_waits_for_more(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("holder")
    assert desk.allocate("holder", 12 * GIB)
    desk.pass_time(2 * SECOND_NS)
    desk.join("large", wanted_bytes=8 * GIB, allocation_waits=True)
    desk.join("small", wanted_bytes=1 * GIB, allocation_waits=True)
    assert desk.grant("small").ceiling_bytes == 0
    assert desk.grant("small").wait == Wait.MEMORY
    desk.kill("holder")
    desk.now_ns += MILLISECOND_NS
    desk.sample(0)
    assert desk.grant("large").ceiling_bytes >= 8 * GIB
    desk.follow("large", footprint_bytes=8 * GIB, wanted_bytes=0, allocation_waits=False)
    desk.pass_time(2 * SECOND_NS)
    assert desk.grant("small").ceiling_bytes >= 1 * GIB


def test_a_younger_client_waits_while_an_older_one_loads_and_half_is_taken(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("old")
    assert desk.allocate("old", 6 * GIB)
    desk.join("young")
    assert not desk.allocate("young", 6 * GIB)
    assert desk.grant("young").wait == Wait.MEMORY
    desk.pass_time(desk.policy.loading_quiet_ns)
    assert desk.grant("young").ceiling_bytes >= 6 * GIB


def test_three_that_load_in_pieces_do_not_block_each_other(make_desk: MakeDesk) -> None:
    desk = make_desk()
    names = ("a", "b", "c")
    target = 7 * GIB
    for name in names:
        desk.join(name)
    for piece in range(1, 8):
        for name in names:
            desk.allocate(name, min(target, piece * GIB))
    for _ in range(40):
        desk.pass_time(SECOND_NS // 4)
        for name in names:
            footprint = desk.programs[name].report.footprint_bytes
            if footprint < target:
                desk.allocate(name, footprint + GIB)
    loaded = [name for name in names if desk.programs[name].report.footprint_bytes == target]
    assert loaded == ["a", "b"]
    assert "memory-refused" not in desk.kinds()


def test_the_allocations_limit_is_the_limit_of_all_its_clients_together(make_desk: MakeDesk) -> None:
    desk = make_desk()
    for name in ("a", "b", "c"):
        desk.join(name, allocation="shared", limit_bytes=4 * GIB)
    assert desk.allocate("a", 2 * GIB)
    assert desk.allocate("b", 2 * GIB)
    desk.follow("c", wanted_bytes=2 * GIB, allocation_waits=True)
    assert desk.grant("c").limit_bytes < 2 * GIB
    promised = sum(client.charge_bytes for client in desk.arbiter.state.clients.values())
    assert promised <= 4 * GIB


def test_a_wish_beyond_the_card_is_beyond_the_limit(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a", wanted_bytes=17 * GIB, allocation_waits=True)
    assert desk.grant("a").limit_bytes == 16 * GIB
    assert desk.grant("a").wait == Wait.NONE


def test_a_disconnected_client_is_promised_nothing_and_keeps_its_charge(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    assert desk.allocate("a", 3 * GIB)
    charged = desk.arbiter.state.promised_bytes
    desk.connect("a", Link.DISCONNECTED)
    desk.pass_time(10 * SECOND_NS, heartbeats=False)
    assert desk.arbiter.state.promised_bytes == charged


def test_a_deadlock_refuses_the_youngest_that_waits_and_says_the_sums(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    assert desk.allocate("a", 7 * GIB)
    desk.pass_time(2 * SECOND_NS)
    desk.join("b")
    assert desk.allocate("b", 7 * GIB)
    desk.pass_time(2 * SECOND_NS)
    assert not desk.allocate("a", 12 * GIB)
    assert not desk.allocate("b", 12 * GIB)
    desk.pass_time(2 * SECOND_NS)
    assert desk.grant("b").limit_bytes == 7 * GIB
    assert desk.grant("a").limit_bytes == 16 * GIB
    assert "14.0 GiB of 16.0 GiB" in desk.text("memory-refused")
    assert desk.kinds().count("memory-refused") == 1
    desk.follow("b", wanted_bytes=0, allocation_waits=False)
    assert desk.grant("b").limit_bytes == 16 * GIB


def test_it_is_no_deadlock_while_somebody_runs(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    assert desk.allocate("a", 7 * GIB)
    desk.follow("a", demand=True)
    desk.pass_time(2 * SECOND_NS)
    desk.join("b")
    assert desk.allocate("b", 7 * GIB)
    desk.pass_time(2 * SECOND_NS)
    assert not desk.allocate("b", 12 * GIB)
    desk.pass_time(60 * SECOND_NS)
    assert "memory-refused" not in desk.kinds()


def test_it_is_no_deadlock_while_a_stopped_client_has_memory(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("stopped")
    assert desk.allocate("stopped", 7 * GIB)
    desk.pass_time(2 * SECOND_NS)
    desk.join("b")
    assert desk.allocate("b", 7 * GIB)
    desk.pass_time(2 * SECOND_NS)
    assert not desk.allocate("b", 12 * GIB)
    for _ in range(60):
        desk.pass_time(SECOND_NS, heartbeats=False)
        desk.report("b")
    assert "memory-refused" not in desk.kinds()


def test_clients_that_fit_are_never_told_to_wait(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    for name in ("a", "b", "c"):
        desk.join(name)
        desk.allocate(name, 4 * GIB)
        desk.pass_time(2 * SECOND_NS)
        assert desk.allocate(name, 4 * GIB)
    assert all(desk.grant(name).may_launch for name in ("a", "b", "c"))
    assert all(desk.grant(name).wait == Wait.NONE for name in ("a", "b", "c"))
