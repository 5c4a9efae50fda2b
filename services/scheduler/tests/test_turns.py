"""Who runs when."""

from services.scheduler.tests.conftest import Desk, MakeDesk

from nvshare.scheduler.model import ClientState, Link, Mode, Wait
from nvshare.scheduler.policy import GIB, MILLISECOND_NS, SECOND_NS


def two_that_want(make_desk: MakeDesk) -> Desk:
    """Serial mode, `a` runs, `b` waits for its turn."""
    desk = make_desk(Mode.SERIAL)
    desk.join("a")
    desk.follow("a", demand=True)
    desk.follow("a")
    desk.join("b")
    desk.follow("b", demand=True)
    return desk


def test_e10_idle_clients_that_fit_all_may_launch(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.AUTO)
    for name in ("a", "b", "c"):
        desk.join(name)
    assert all(desk.grant(name).may_launch for name in ("a", "b", "c"))


def test_serial_a_lone_client_holds_the_lock_before_it_wants_it(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.SERIAL)
    desk.join("a")
    assert desk.grant("a").may_launch


def test_serial_one_holds_the_lock_and_the_other_waits_for_its_turn(make_desk: MakeDesk) -> None:
    desk = two_that_want(make_desk)
    assert desk.grant("a").may_launch
    assert not desk.grant("b").may_launch
    assert desk.grant("b").wait == Wait.TURN


def test_the_quantum_ends_a_turn_only_when_somebody_waits(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.SERIAL)
    desk.join("a")
    desk.follow("a", demand=True)
    desk.pass_time(10 * SECOND_NS)
    assert desk.grant("a").may_launch
    desk.join("b")
    desk.follow("b", demand=True)
    assert not desk.grant("a").may_launch


def test_e14_between_two_turns_the_gpu_is_being_handed_over(make_desk: MakeDesk) -> None:
    desk = two_that_want(make_desk)
    assert not desk.arbiter.hands_over()
    desk.pass_time(2 * SECOND_NS)
    assert desk.arbiter.hands_over(), "a must stop, and b may not launch yet"
    desk.follow("a", state=ClientState.WAITING)
    assert not desk.arbiter.hands_over()


def test_e14_a_gpu_that_nobody_wants_is_not_handed_over(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.SERIAL)
    desk.join("a")
    desk.join("b")
    assert not desk.arbiter.hands_over()


def test_the_next_may_launch_only_when_the_last_one_is_quiet(make_desk: MakeDesk) -> None:
    desk = two_that_want(make_desk)
    desk.pass_time(2 * SECOND_NS)
    assert not desk.grant("a").may_launch
    assert not desk.grant("b").may_launch
    desk.follow("a", state=ClientState.DRAINING)
    assert not desk.grant("b").may_launch
    desk.follow("a", state=ClientState.WAITING)
    assert desk.grant("b").may_launch


def test_a_holder_of_many_seconds_is_waited_for_like_any_other(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.SERIAL)
    desk.join("a")
    desk.follow("a", demand=True)
    desk.pass_time(2 * desk.policy.drain_limit_ns)
    desk.join("b")
    desk.follow("b", demand=True)
    assert not desk.grant("a").may_launch
    assert not desk.grant("b").may_launch
    assert "client-stuck" not in desk.kinds()


def test_an_idle_holder_makes_room_at_once(make_desk: MakeDesk) -> None:
    desk = two_that_want(make_desk)
    desk.follow("a", demand=False)
    assert not desk.grant("a").may_launch
    desk.follow("a")
    assert desk.grant("b").may_launch


def test_an_idle_holder_gives_up_beside_an_active_neighbour_so_that_a_wish_is_granted_at_once(
    make_desk: MakeDesk,
) -> None:
    desk = two_that_want(make_desk)
    desk.follow("b", demand=False)
    desk.follow("a", demand=False)
    desk.follow("a")
    assert not desk.grant("a").may_launch
    desk.follow("b", demand=True)
    assert desk.grant("b").may_launch


def test_an_idle_holder_keeps_the_lock_beside_a_neighbour_that_wants_nothing(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.SERIAL)
    desk.join("sleeper")
    desk.join("a")
    desk.follow("sleeper")
    desk.follow("a", demand=True)
    desk.follow("sleeper")
    desk.follow("a", demand=False)
    assert desk.grant("a").may_launch


def test_turns_are_first_come_first_served(make_desk: MakeDesk) -> None:
    desk = two_that_want(make_desk)
    desk.join("c")
    desk.now_ns += MILLISECOND_NS
    desk.follow("c", demand=True)
    order = []
    for _ in range(6):
        desk.pass_time(2 * SECOND_NS)
        for name in ("a", "b", "c"):
            desk.follow(name)
        order += [name for name in ("a", "b", "c") if desk.grant(name).may_launch]
    assert order == ["b", "c", "a", "b", "c", "a"]


def test_a_holder_that_dies_hands_the_lock_over_at_once(make_desk: MakeDesk) -> None:
    desk = two_that_want(make_desk)
    desk.kill("a")
    assert desk.grant("b").may_launch


def test_a_holder_that_leaves_hands_the_lock_over_at_once(make_desk: MakeDesk) -> None:
    desk = two_that_want(make_desk)
    desk.follow("a", leaving=True, demand=False, state=ClientState.WAITING)
    assert desk.grant("b").may_launch


def test_a_stuck_client_is_passed_over_and_keeps_its_memory(make_desk: MakeDesk) -> None:
    desk = two_that_want(make_desk)
    desk.follow("a", footprint_bytes=GIB)
    desk.pass_time(2 * SECOND_NS)
    desk.follow("a", state=ClientState.STUCK)
    desk.follow("a", state=ClientState.STUCK)
    assert desk.grant("b").may_launch
    assert desk.kinds().count("client-stuck") == 1
    assert desk.arbiter.state.promised_bytes >= GIB


def test_a_client_that_never_drains_is_passed_over_in_the_end(make_desk: MakeDesk) -> None:
    desk = two_that_want(make_desk)
    desk.pass_time(2 * SECOND_NS)
    desk.follow("a", state=ClientState.DRAINING)
    desk.pass_time(desk.policy.drain_limit_ns)
    assert desk.grant("b").may_launch
    assert "client-stuck" in desk.kinds()


def test_a_stopped_holder_is_passed_over(make_desk: MakeDesk) -> None:
    desk = two_that_want(make_desk)
    for _ in range(8):
        desk.pass_time(SECOND_NS // 2, heartbeats=False)
        desk.report("b")
    assert desk.grant("b").may_launch
    assert "client-silent" in desk.kinds()


def test_a_disconnected_holder_runs_on_and_the_others_wait_visibly(make_desk: MakeDesk) -> None:
    desk = two_that_want(make_desk)
    desk.connect("a", Link.DISCONNECTED)
    for _ in range(20):
        desk.pass_time(SECOND_NS // 2, heartbeats=False)
        desk.report("b")
    assert not desk.grant("b").may_launch
    assert desk.grant("b").wait == Wait.TURN
    desk.connect("a", Link.CONNECTED)
    desk.report("a")
    desk.follow("a")
    assert desk.grant("b").may_launch


def test_a_holder_that_stays_disconnected_is_passed_over_in_the_end(make_desk: MakeDesk) -> None:
    desk = two_that_want(make_desk)
    desk.connect("a", Link.DISCONNECTED)
    limit_ns = desk.policy.drain_limit_ns
    for _ in range(2 * limit_ns // SECOND_NS):
        assert not desk.grant("b").may_launch
        desk.pass_time(SECOND_NS // 2, heartbeats=False)
        desk.report("b")
    assert desk.grant("b").may_launch
    assert desk.kinds().count("client-stuck") == 1
    desk.connect("a", Link.CONNECTED)
    desk.report("a")
    assert not desk.grant("a").may_launch
    assert desk.grant("b").may_launch


def test_a_client_that_never_drains_is_named_once(make_desk: MakeDesk) -> None:
    desk = two_that_want(make_desk)
    desk.join("c")
    desk.pass_time(2 * SECOND_NS)
    desk.follow("a", state=ClientState.DRAINING, demand=False)
    desk.pass_time(desk.policy.drain_limit_ns)
    desk.follow("b")
    for holder, other in (("b", "c"), ("c", "b")) * 2:
        desk.follow("a", state=ClientState.RUNNING)
        desk.follow(other, demand=True)
        desk.follow(holder, demand=False, state=ClientState.WAITING)
        desk.follow(holder)
        assert desk.grant(other).may_launch
        desk.follow(other)
    assert desk.kinds().count("client-stuck") == 1
    desk.follow("a", state=ClientState.WAITING)
    assert "client-stuck" not in desk.arbiter.state.clients["allocation-a/1000-a"].told


def test_e9_who_waits_for_its_turn_is_not_told_that_it_waits_for_memory(make_desk: MakeDesk) -> None:
    desk = two_that_want(make_desk)
    assert desk.allocate("b", 4 * GIB)
    assert desk.grant("b").wait == Wait.TURN


def test_e9_who_waits_for_memory_is_not_told_that_it_waits_for_its_turn(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.SERIAL)
    desk.join("a")
    assert desk.allocate("a", 14 * GIB)
    desk.follow("a", demand=True)
    desk.join("b", wanted_bytes=8 * GIB, allocation_waits=True)
    desk.follow("b")
    assert desk.grant("b").wait == Wait.MEMORY


def test_the_window_stays_large_beside_others_for_whom_nobody_has_to_stop(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.CONCURRENT)
    for name in "ab":
        desk.join(name)
        desk.follow(name, demand=True)
    assert desk.grant("a").window_us == desk.policy.window_alone_us


def test_the_window_is_small_while_another_wants_the_gpu_and_large_again_after(make_desk: MakeDesk) -> None:
    """Where not all fit: one may have to stop for the other."""
    desk = make_desk(Mode.CONCURRENT)
    desk.join("c")
    assert desk.allocate("c", 14 * GIB)
    desk.join("d", wanted_bytes=8 * GIB, allocation_waits=True)
    desk.join("a")
    desk.follow("a", demand=True)
    desk.join("b")
    assert desk.grant("a").window_us == desk.policy.window_alone_us
    desk.follow("b", demand=True)
    assert desk.grant("a").window_us == desk.policy.window_contested_us
    desk.follow("b", demand=False)
    assert desk.grant("a").window_us == desk.policy.window_contested_us
    desk.pass_time(desk.policy.contested_ns)
    assert desk.grant("a").window_us == desk.policy.window_alone_us


def test_switching_to_serial_lets_one_that_runs_go_on_and_revokes_the_others(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.CONCURRENT)
    for name in ("a", "b"):
        desk.join(name)
        desk.follow(name, demand=True)
    assert desk.mode(Mode.SERIAL) == ""
    assert [desk.grant(name).may_launch for name in ("a", "b")] == [True, False]


def test_the_quantum_can_be_changed_while_a_turn_runs(make_desk: MakeDesk) -> None:
    desk = two_that_want(make_desk)
    assert desk.quantum(100 * MILLISECOND_NS) == ""
    desk.pass_time(100 * MILLISECOND_NS)
    assert not desk.grant("a").may_launch


def test_a_quantum_out_of_bounds_is_refused(make_desk: MakeDesk) -> None:
    desk = make_desk(Mode.SERIAL)
    assert "between 0.01 and 3600 seconds" in desk.quantum(1)
