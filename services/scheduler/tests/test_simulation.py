"""Whole histories on a virtual clock. What must hold for any order of events is checked by the simulated card itself,
which raises when it is over its capacity, and after each event by the arbiter's own account."""

from functools import partial

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nvshare.scheduler.history import replay
from nvshare.scheduler.model import Mode
from nvshare.scheduler.policy import GIB, MIB, MILLISECOND_NS, SECOND_NS
from nvshare.scheduler.simulated_program import BURST_NS, Allocate, Compute, Free, Sleep, Step
from nvshare.scheduler.simulator import Faults, Simulation

CAPACITY = 4 * GIB
LOSSY = Faults(loss=0.1, duplication=0.2, least_delay_ns=50_000, most_delay_ns=30 * MILLISECOND_NS)
Scripts = list[tuple[int, list[Step]]]
ProgramFaults = list[tuple[int, int, str, int]]
SETTINGS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])

sizes = st.integers(1, 48).map(lambda steps: steps * 64 * MIB)
steps = st.one_of(
    sizes.map(Allocate),
    sizes.map(Free),
    st.integers(1, 800).map(lambda ms: Compute(ms * MILLISECOND_NS)),
    st.integers(1, 1500).map(lambda ms: Sleep(ms * MILLISECOND_NS)),
)
scripts = st.lists(
    st.tuples(st.integers(0, 3000).map(lambda ms: ms * MILLISECOND_NS), st.lists(steps, max_size=7)),
    min_size=1,
    max_size=6,
)
managed_modes = st.sampled_from([Mode.AUTO, Mode.CONCURRENT, Mode.SERIAL])
moments = st.integers(1, 6000).map(lambda ms: ms * MILLISECOND_NS)
faults_of_programs = st.lists(
    st.tuples(moments, st.integers(0, 5), st.sampled_from(["kill", "stop", "disconnect"]), moments), max_size=4
)


def start(world: Simulation, scripts: Scripts) -> None:
    for start_ns, script in scripts:
        world.start_program(script, start_ns=start_ns)


def inflict(world: Simulation, faults: ProgramFaults) -> None:
    for moment, number, kind, duration_ns in faults:
        program = world.programs[number % len(world.programs)]
        program.keeps_memory_ns = duration_ns
        if kind == "kill":
            world.at(moment, program.kill)
        else:
            world.at(moment, partial(program.stop if kind == "stop" else program.disconnect, duration_ns))


@SETTINGS
@given(managed_modes, scripts, st.integers(0, 2**16))
def test_every_program_ends_and_memory_is_never_promised_twice(mode: Mode, scripts: Scripts, seed: int) -> None:
    world = Simulation(mode, CAPACITY, seed)
    world.exclusive = mode == Mode.SERIAL
    start(world, scripts)
    world.run(120 * SECOND_NS)
    assert all(program.done for program in world.programs)
    assert world.card.most_bytes <= CAPACITY


@SETTINGS
@given(managed_modes, scripts, faults_of_programs, st.integers(0, 2**16))
def test_it_holds_with_lost_repeated_and_reordered_messages_and_programs_that_die_or_stop(
    mode: Mode, scripts: Scripts, faults: ProgramFaults, seed: int
) -> None:
    world = Simulation(mode, CAPACITY, seed, LOSSY)
    start(world, scripts)
    inflict(world, faults)
    world.run(240 * SECOND_NS)
    assert all(program.done or not program.alive for program in world.programs)


@SETTINGS
@given(managed_modes, scripts, faults_of_programs, st.lists(moments, min_size=1, max_size=3), st.integers(0, 2**16))
def test_nothing_is_promised_twice_over_restarts_of_the_scheduler(
    mode: Mode, scripts: Scripts, faults: ProgramFaults, restarts: list[int], seed: int
) -> None:
    world = Simulation(mode, CAPACITY, seed)
    start(world, scripts)
    inflict(world, faults)
    for moment in restarts:
        world.at(moment, world.kill_scheduler)
        world.at(moment + 700 * MILLISECOND_NS, world.start_scheduler)
    world.run(240 * SECOND_NS)
    assert all(program.done or not program.alive for program in world.programs)


@SETTINGS
@given(scripts, st.lists(st.tuples(moments, st.sampled_from(list(Mode))), max_size=6), st.integers(0, 2**16))
def test_no_change_of_mode_loses_a_program(scripts: Scripts, changes: list[tuple[int, Mode]], seed: int) -> None:
    world = Simulation(Mode.SERIAL, CAPACITY, seed)
    start(world, scripts)
    for moment, mode in changes:
        world.at(moment, partial(world.change_mode, mode))
    world.run(240 * SECOND_NS)
    assert all(program.done for program in world.programs)


def test_programs_that_outgrew_the_card_while_sharing_was_off_are_shared_again() -> None:
    world = Simulation(Mode.OFF, CAPACITY)
    again: list[Step] = [Free(512 * MIB), Allocate(512 * MIB), Compute(3 * MILLISECOND_NS)]
    for _ in range(2):
        world.start_program([Allocate(3 * GIB), *again * 60])
    world.at(50 * MILLISECOND_NS, partial(world.change_mode, Mode.AUTO))
    world.run(30 * SECOND_NS)
    assert world.card.most_bytes > CAPACITY
    assert all(program.done for program in world.programs)


@SETTINGS
@given(
    st.lists(st.lists(st.integers(1, 400).map(lambda ms: Compute(ms * MILLISECOND_NS)), min_size=1), max_size=6),
    st.sampled_from([50 * MILLISECOND_NS, 300 * MILLISECOND_NS]),
)
def test_who_wants_the_gpu_runs_within_waiters_times_a_quantum_and_two_switches(
    programs: list[list[Step]], quantum_ns: int
) -> None:
    world = Simulation(Mode.SERIAL, CAPACITY, quantum_ns=quantum_ns)
    world.exclusive = True
    for program in programs:
        world.start_program(program)
    world.run(60 * SECOND_NS)
    switch_ns = BURST_NS + 8 * Faults().most_delay_ns
    longest_ns = len(programs) * (quantum_ns + 2 * switch_ns)
    assert all(program.done for program in world.programs)
    assert all(program.longest_turn_wait_ns <= longest_ns for program in world.programs)


@SETTINGS
@given(managed_modes, scripts, faults_of_programs, st.integers(0, 2**16))
def test_a_replay_gives_identical_commands(mode: Mode, scripts: Scripts, faults: ProgramFaults, seed: int) -> None:
    world = Simulation(mode, CAPACITY, seed, LOSSY)
    start(world, scripts)
    inflict(world, faults)
    world.run(15 * SECOND_NS)
    assert world.recorded is not None
    entries, differences = replay(world.recorded.lines())
    assert entries > 15
    assert differences == []


def test_three_programs_of_seven_gib_share_sixteen_in_turns() -> None:
    world = Simulation(Mode.SERIAL, 16 * GIB, quantum_ns=500 * MILLISECOND_NS)
    world.exclusive = True
    load = [Allocate(7 * GIB // 3), Allocate(7 * GIB // 3), Allocate(7 * GIB // 3)]
    for number in range(3):
        world.start_program([*load, Compute(3 * SECOND_NS)], start_ns=number * MILLISECOND_NS)
    world.run(60 * SECOND_NS)
    assert all(program.done for program in world.programs)
    assert all(program.refusals == [] for program in world.programs)


def test_a_killed_holder_makes_room_for_the_next_within_milliseconds() -> None:
    world = Simulation(Mode.SERIAL, CAPACITY, quantum_ns=10 * SECOND_NS)
    first = world.start_program([Compute(60 * SECOND_NS)])
    second = world.start_program([Sleep(SECOND_NS), Compute(SECOND_NS)])
    world.run(SECOND_NS + 500 * MILLISECOND_NS)
    assert not second.may_launch
    first.kill()
    world.run(2 * MILLISECOND_NS)
    assert second.may_launch


def test_memory_that_forked_children_keep_is_waited_for() -> None:
    world = Simulation(Mode.AUTO, CAPACITY)
    first = world.start_program([Allocate(3 * GIB), Compute(60 * SECOND_NS)], keeps_memory_ns=5 * SECOND_NS)
    second = world.start_program([Sleep(2 * SECOND_NS), Allocate(3 * GIB)])
    world.run(3 * SECOND_NS)
    first.kill()
    world.run(4 * SECOND_NS)
    assert second.footprint_bytes == 0
    world.run(SECOND_NS + 200 * MILLISECOND_NS)
    assert second.done


def test_a_program_of_an_earlier_scheduler_that_is_stopped_keeps_its_memory_promised() -> None:
    world = Simulation(Mode.AUTO, CAPACITY)
    stopped = world.start_program([Allocate(2 * GIB), Sleep(SECOND_NS), Allocate(512 * MIB), Sleep(60 * SECOND_NS)])
    grows = world.start_program([Sleep(500 * MILLISECOND_NS)] + [Allocate(64 * MIB), Sleep(100 * MILLISECOND_NS)] * 60)
    world.run(900 * MILLISECOND_NS)
    stopped.stop(20 * SECOND_NS)
    world.kill_scheduler()
    world.run(5 * SECOND_NS)
    world.start_scheduler()
    world.run(60 * SECOND_NS)
    assert grows.footprint_bytes + stopped.footprint_bytes <= CAPACITY
    assert stopped.refusals == []
    assert world.card.most_bytes <= CAPACITY


def test_a_bus_that_loses_nothing_needs_no_resend() -> None:
    world = Simulation(Mode.SERIAL, CAPACITY)
    for _ in range(3):
        world.start_program([Allocate(GIB), Compute(2 * SECOND_NS)])
    world.run(30 * SECOND_NS)
    assert all(program.grant and program.grant.sequence == 1 for program in world.programs)
