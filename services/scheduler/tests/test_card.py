"""Dead clients' memory, processes that are no clients, and what contexts take."""

from dataclasses import replace

from services.scheduler.tests.conftest import Desk, MakeDesk

from nvshare.scheduler.model import MemorySampled, Mode, ProcessMemory
from nvshare.scheduler.policy import GIB, MIB, MILLISECOND_NS, SECOND_NS


def dead_with_memory(make_desk: MakeDesk) -> Desk:
    """A client with 12 GiB has just died; another one waits for 8 GiB."""
    desk = make_desk()
    desk.join("dead")
    assert desk.allocate("dead", 12 * GIB)
    desk.sample(12 * GIB, {1000: 12 * GIB})
    desk.pass_time(2 * SECOND_NS)
    desk.join("next", wanted_bytes=8 * GIB, allocation_waits=True)
    desk.kill("dead")
    return desk


def test_a_dead_clients_memory_is_not_promised_before_the_driver_shows_it_free(make_desk: MakeDesk) -> None:
    desk = dead_with_memory(make_desk)
    assert desk.grant("next").ceiling_bytes < 8 * GIB
    desk.now_ns += MILLISECOND_NS
    desk.sample(0)
    assert desk.grant("next").ceiling_bytes >= 8 * GIB
    assert "memory-freed" in desk.kinds()


def test_a_sample_that_began_before_the_death_proves_nothing(make_desk: MakeDesk) -> None:
    desk = dead_with_memory(make_desk)
    desk.sample(0, started_ns=desk.now_ns - 1)
    assert desk.grant("next").ceiling_bytes < 8 * GIB


def test_memory_that_a_dead_clients_children_keep_is_named_and_stays_charged(make_desk: MakeDesk) -> None:
    desk = dead_with_memory(make_desk)
    desk.now_ns += SECOND_NS
    desk.sample(12 * GIB, {})
    assert desk.grant("next").ceiling_bytes < 8 * GIB
    assert [ghost.pid for ghost in desk.arbiter.state.card.ghosts] == [1000]
    desk.sample(0, {})
    assert desk.grant("next").ceiling_bytes >= 8 * GIB


def test_memory_that_the_driver_lists_under_the_dead_pid_stays_charged(make_desk: MakeDesk) -> None:
    desk = dead_with_memory(make_desk)
    desk.now_ns += SECOND_NS
    desk.sample(12 * GIB, {1000: 12 * GIB})
    assert desk.grant("next").ceiling_bytes < 8 * GIB


def test_memory_given_back_in_part_is_promised_in_part(make_desk: MakeDesk) -> None:
    desk = dead_with_memory(make_desk)
    desk.now_ns += SECOND_NS
    desk.sample(5 * GIB, {1000: 5 * GIB})
    assert desk.arbiter.state.card.ghost_bytes == 5 * GIB
    assert desk.grant("next").ceiling_bytes >= 8 * GIB


def test_a_neighbours_memory_does_not_keep_a_ghost(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("neighbour")
    assert desk.allocate("neighbour", 2 * GIB)
    desk.join("dead")
    assert desk.allocate("dead", 3 * GIB)
    desk.sample(5 * GIB, {1000: 2 * GIB, 1001: 3 * GIB})
    desk.kill("dead")
    desk.now_ns += MILLISECOND_NS
    desk.sample(2 * GIB, {1000: 2 * GIB})
    assert desk.arbiter.state.card.ghosts == []


def test_a_process_replaced_by_exec_leaves_no_ghost_behind_its_own_pid(make_desk: MakeDesk) -> None:
    desk = make_desk()
    program = desk.join("before")
    assert desk.allocate("before", 3 * GIB)
    desk.sample(3 * GIB, {1000: 3 * GIB})
    program.peer = replace(program.peer, client="1000-after")
    desk.relay()
    assert desk.arbiter.state.card.ghost_bytes > 0
    desk.now_ns += MILLISECOND_NS
    desk.sample(0)
    assert desk.arbiter.state.card.ghosts == []


def test_the_card_is_read_often_after_a_death_and_while_dead_clients_have_memory(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("dead")
    assert desk.allocate("dead", 3 * GIB)
    assert desk.arbiter.sample_interval_ns(desk.now_ns) == SECOND_NS
    desk.kill("dead")
    assert desk.arbiter.sample_interval_ns(desk.now_ns) == 5 * MILLISECOND_NS
    assert desk.arbiter.sample_interval_ns(desk.now_ns + 2 * SECOND_NS) == 100 * MILLISECOND_NS


def whole_card(make_desk: MakeDesk) -> Desk:
    """A card of 64 GiB shared as a whole."""
    desk = make_desk(Mode.CONCURRENT)
    desk.arbiter.state.card.logical_capacity_bytes = 0
    return desk


def test_a_process_that_is_no_client_lowers_the_capacity_and_is_named(make_desk: MakeDesk) -> None:
    desk = whole_card(make_desk)
    desk.join("a")
    before = desk.arbiter.state.capacity_bytes(desk.policy)
    desk.sample(20 * GIB, {77: 20 * GIB})
    assert desk.arbiter.state.capacity_bytes(desk.policy) == before - 20 * GIB
    assert "process 77 has 20.0 GiB" in desk.text("unmanaged-process")


def test_what_a_client_has_beside_its_footprint_lowers_the_capacity(make_desk: MakeDesk) -> None:
    desk = whole_card(make_desk)
    desk.join("a")
    assert desk.allocate("a", 2 * GIB)
    before = desk.arbiter.state.capacity_bytes(desk.policy)
    for _ in range(2):
        desk.sample(2 * GIB + 500 * MIB, {1000: 2 * GIB + 500 * MIB})
    assert desk.arbiter.state.capacity_bytes(desk.policy) == before - 500 * MIB


def test_pids_of_another_namespace_are_not_taken_for_strangers(make_desk: MakeDesk) -> None:
    desk = whole_card(make_desk)
    desk.join("a")
    assert desk.allocate("a", 2 * GIB)
    for _ in range(2):
        desk.sample(2 * GIB + 500 * MIB, {424242: 2 * GIB + 500 * MIB})
    assert desk.arbiter.state.card.strangers == []
    assert desk.arbiter.state.capacity_bytes(desk.policy) == 64 * GIB - desk.policy.reserve_bytes - 500 * MIB


def test_a_logical_capacity_is_not_lowered_by_contexts_that_fit_beside_it(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    desk.sample(20 * GIB, {77: 20 * GIB})
    assert desk.arbiter.state.capacity_bytes(desk.policy) == 16 * GIB


def test_a_dead_client_that_the_relay_still_names_does_not_hide_a_ghost(make_desk: MakeDesk) -> None:
    desk = make_desk()
    for name in ("ghost", "dead"):
        desk.join(name)
        assert desk.allocate(name, 3 * GIB)
    desk.sample(6 * GIB, {1000: 3 * GIB, 1001: 3 * GIB})
    desk.kill("ghost")
    desk.now_ns += MILLISECOND_NS
    desk.sample(3 * GIB, {1000: 3 * GIB})
    assert desk.arbiter.state.card.ghost_bytes == 3 * GIB


def test_what_looks_like_overhead_of_a_lost_report_stays_charged_after_death(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    for _ in range(2):
        desk.sample(GIB, {1000: GIB})
    desk.kill("a")
    desk.now_ns += MILLISECOND_NS
    desk.sample(GIB, {1000: GIB})
    assert desk.arbiter.state.card.ghost_bytes == GIB


def test_memory_of_a_process_that_died_before_the_scheduler_started_is_not_promised(make_desk: MakeDesk) -> None:
    desk = make_desk()
    dead = ProcessMemory(999, 12 * GIB, alive=False)
    desk.take(desk.arbiter.handle(MemorySampled(desk.now_ns, 64 * GIB, 12 * GIB, (dead,)), desk.now_ns))
    desk.join("a", wanted_bytes=8 * GIB, allocation_waits=True)
    assert desk.grant("a").ceiling_bytes == 0
    desk.now_ns += MILLISECOND_NS
    desk.sample(0)
    assert desk.grant("a").ceiling_bytes >= 8 * GIB


def test_what_a_client_tells_of_its_contexts_does_not_hide_what_the_driver_shows(make_desk: MakeDesk) -> None:
    desk = whole_card(make_desk)
    desk.join("liar", external_bytes=1)
    before = desk.arbiter.state.capacity_bytes(desk.policy)
    desk.sample(12 * GIB, {1000: 12 * GIB})
    state = desk.arbiter.state
    assert before - state.capacity_bytes(desk.policy) + state.promised_bytes >= 12 * GIB


def test_what_a_client_tells_of_its_contexts_is_believed_within_what_the_driver_shows(make_desk: MakeDesk) -> None:
    desk = whole_card(make_desk)
    desk.join("liar", external_bytes=60 * GIB)
    before = desk.arbiter.state.capacity_bytes(desk.policy)
    desk.sample(500 * MIB, {1000: 500 * MIB})
    assert desk.arbiter.state.capacity_bytes(desk.policy) == before - 500 * MIB


def test_a_footprint_that_changes_with_each_sample_hides_nothing(make_desk: MakeDesk) -> None:
    desk = whole_card(make_desk)
    desk.join("liar")
    before = desk.arbiter.state.capacity_bytes(desk.policy)
    for footprint_bytes in range(1, 6):
        desk.follow("liar", footprint_bytes=footprint_bytes)
        desk.sample(12 * GIB, {1000: 12 * GIB})
    state = desk.arbiter.state
    assert before - state.capacity_bytes(desk.policy) + state.promised_bytes >= 12 * GIB


def test_a_footprint_beyond_every_grant_that_the_driver_does_not_show_is_not_charged(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("honest")
    desk.sample(64 * MIB, {1000: 64 * MIB})
    desk.join("liar", footprint_bytes=16 * GIB)
    desk.sample(128 * MIB, {1000: 64 * MIB, 1001: 64 * MIB})
    assert desk.allocate("honest", 8 * GIB)


def test_a_footprint_beyond_every_grant_that_the_driver_shows_is_charged(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("honest")
    desk.sample(12 * GIB + 64 * MIB, {1000: 64 * MIB, 1001: 12 * GIB})
    desk.join("ran-without-nvshare", footprint_bytes=12 * GIB)
    assert desk.arbiter.state.promised_bytes >= 12 * GIB
    assert not desk.allocate("honest", 8 * GIB)


def test_a_context_that_a_neighbour_made_meanwhile_keeps_no_ghost(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("neighbour")
    desk.join("dead")
    assert desk.allocate("dead", 3 * GIB)
    for _ in range(2):
        desk.sample(3 * GIB, {424242: 3 * GIB})
    assert desk.arbiter.state.card.lists_our_pids is False
    desk.kill("dead")
    desk.report("neighbour", external_bytes=500 * MIB)
    desk.now_ns += MILLISECOND_NS
    desk.sample(500 * MIB, {434343: 500 * MIB})
    assert desk.arbiter.state.card.ghosts == []


def test_memory_of_no_process_that_stays_becomes_the_drivers_own(make_desk: MakeDesk) -> None:
    desk = whole_card(make_desk)
    desk.join("dead")
    assert desk.allocate("dead", 12 * GIB)
    desk.sample(12 * GIB, {1000: 12 * GIB})
    desk.kill("dead")
    desk.now_ns += MILLISECOND_NS
    desk.sample(12 * GIB, {})
    desk.now_ns += desk.policy.ghost_lasting_ns
    desk.sample(12 * GIB, {})
    assert desk.arbiter.state.card.ghosts == []
    assert desk.arbiter.state.card.baseline_bytes == 12 * GIB
    assert "memory-freed" not in desk.kinds()
    desk.sample(0, {})
    assert desk.arbiter.state.card.baseline_bytes == 0


def test_a_ghost_that_stays_does_not_keep_a_deadlock_from_being_resolved(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("dead")
    assert desk.allocate("dead", 4 * GIB)
    desk.sample(4 * GIB, {1000: 4 * GIB})
    desk.pass_time(2 * SECOND_NS)
    desk.join("only", wanted_bytes=14 * GIB, allocation_waits=True)
    desk.kill("dead")
    desk.now_ns += MILLISECOND_NS
    desk.sample(4 * GIB, {})
    desk.pass_time(desk.policy.ghost_falling_ns - SECOND_NS)
    desk.sample(4 * GIB, {})
    assert "memory-refused" not in desk.kinds()
    for _ in range(5):
        desk.pass_time(SECOND_NS // 2)
        desk.sample(4 * GIB, {})
    assert "memory-refused" in desk.kinds()


def test_a_sample_says_nothing_about_what_was_reported_after_it_began(make_desk: MakeDesk) -> None:
    """History 1339 of those with faults: two samples that were on their way took new memory for the dead one's."""
    desk = make_desk()
    for name in ("new", "dead"):
        desk.join(name)
    assert desk.allocate("dead", 3 * GIB)
    desk.kill("dead")
    began_ns = desk.now_ns = desk.now_ns + MILLISECOND_NS
    desk.now_ns += MILLISECOND_NS
    assert desk.allocate("new", 2 * GIB)
    for _ in range(2):
        desk.sample(3 * GIB, {1001: 3 * GIB}, started_ns=began_ns)
    assert desk.arbiter.state.card.ghost_bytes == 3 * GIB
