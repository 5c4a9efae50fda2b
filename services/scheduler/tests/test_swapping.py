"""Whole scenarios of memory beyond the card, on a virtual clock. The simulated card keeps its own account."""

from collections.abc import Sequence
from functools import partial

import pytest

from nvshare.scheduler.model import Limit, Mode, Wait
from nvshare.scheduler.policy import GIB, MIB, MILLISECOND_NS, SECOND_NS, Policy
from nvshare.scheduler.simulated_memory import Swapping
from nvshare.scheduler.simulated_program import Allocate, Compute, Free, Program, Sleep, Step
from nvshare.scheduler.simulator import Simulation

CARD = 16 * GIB
LINK = 50_000_000_000
LOADING_NS = 2 * SECOND_NS  # up to four that start together and pause for 0.6 s each when they have loaded
SWAP_NS = 2 * 12 * GIB * SECOND_NS // LINK  # 12 GiB out, and in again


def loads(size_bytes: int) -> list[Step]:
    """A program's allocations, in four pieces."""
    return [Allocate(size_bytes // 4)] * 4


def start(world: Simulation, *steps: Step, start_ns: int = 0, swapping: Swapping | None = None) -> Program:
    return world.start_program(steps, start_ns=start_ns, swapping=swapping or Swapping())


def run_to_the_end(world: Simulation, most_ns: int) -> int:
    """Runs until all programs have ended. Gives how long that took."""
    begin_ns = world.now_ns
    while not all(program.done for program in world.programs):
        assert world.now_ns < begin_ns + most_ns, [
            program.footprint_bytes for program in world.programs if program.alive
        ]
        world.run(SECOND_NS // 10)
    return max(program.finished_ns for program in world.programs) - begin_ns


def mode_of(world: Simulation) -> str:
    return world.arbiter.state.mode.name


def spread(programs: Sequence[Program], begin_ns: int) -> float:
    """The largest over the smallest finish time."""
    times = [program.finished_ns - begin_ns for program in programs]
    return max(times) / min(times)


def test_a4_three_of_4_gib_on_16_are_never_moved() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=0)
    duty: list[Step] = [Compute(SECOND_NS), Sleep(SECOND_NS)]
    for _ in range(3):
        start(world, *loads(4 * GIB), *duty * 30)
    took_ns = run_to_the_end(world, 100 * SECOND_NS)
    assert world.link.moved_bytes == 0
    assert took_ns < 60 * SECOND_NS + LOADING_NS
    assert world.arbiter.state.hand_overs == 0
    assert all(program.grant and program.grant.pool_bytes == 0 for program in world.programs)


def test_a4_who_comes_when_another_has_just_ended_moves_nobody() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=SECOND_NS)
    for number in range(12):
        start_ns = (number // 4) * 5 * SECOND_NS + (number % 4) * MILLISECOND_NS
        program = start(world, *loads(4 * GIB), Compute(60 * SECOND_NS), start_ns=start_ns)
        program.keeps_memory_ns = 300 * MILLISECOND_NS
        world.at(start_ns + 5 * SECOND_NS - 10 * MILLISECOND_NS, program.kill)
    world.run(16 * SECOND_NS)
    assert world.link.moved_bytes == 0
    assert all(program.computed_ns > 4600 * MILLISECOND_NS - LOADING_NS for program in world.programs)


@pytest.mark.parametrize("quantum_ns", [0, 10 * SECOND_NS])
@pytest.mark.parametrize("count", [2, 4])
def test_a5_programs_of_12_gib_on_16_take_turns(count: int, quantum_ns: int) -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=quantum_ns)
    begin_ns = world.now_ns
    # Not a multiple of the quantum: who is done at the end of a turn, and who just misses it, are a round apart.
    programs = [start(world, *loads(12 * GIB), Compute(65 * SECOND_NS)) for _ in range(count)]
    world.run(15 * SECOND_NS)
    quantum_ns = world.arbiter.state.quantum_ns
    took_ns = run_to_the_end(world, 500 * SECOND_NS)
    assert took_ns <= 1.05 * count * 65 * SECOND_NS
    assert spread(programs, begin_ns) <= 1.15
    assert world.arbiter.state.hand_overs >= (took_ns - quantum_ns) // (quantum_ns + SWAP_NS) - 1
    longest_ns = max(program.longest_turn_wait_ns for program in programs)
    assert longest_ns <= (count - 1) * (quantum_ns + 2 * SWAP_NS)
    assert longest_ns <= 30 * SECOND_NS + 2 * SWAP_NS
    assert all(program.refusals == [] for program in programs)


def test_only_as_much_leaves_as_the_next_one_needs() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=5 * SECOND_NS)
    first = start(world, *loads(12 * GIB), Compute(60 * SECOND_NS))
    start(world, *loads(6 * GIB), Compute(60 * SECOND_NS), start_ns=SECOND_NS)
    world.run(8 * SECOND_NS)
    assert first.memory.away_bytes == 2 * GIB
    assert first.memory.present_bytes == 10 * GIB


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.SERIAL])
def test_a11_e12_a_program_that_grows_beside_a_large_one_is_never_out_of_memory(mode: Mode) -> None:
    world = Simulation(mode, CARD, quantum_ns=2 * SECOND_NS)
    start(world, *loads(12 * GIB), Compute(20 * SECOND_NS))
    piece: list[Step] = [Compute(SECOND_NS), Allocate(GIB)]
    grows = start(world, Allocate(GIB), *piece * 11, Compute(SECOND_NS))
    run_to_the_end(world, 120 * SECOND_NS)
    assert all(program.refusals == [] for program in world.programs)
    assert grows.done


def test_a_program_that_loads_in_pieces_beside_a_large_one_loses_no_turn_with_each_piece() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=10 * SECOND_NS)
    start(world, *loads(12 * GIB), Compute(60 * SECOND_NS))
    loading = start(world, *[Allocate(GIB // 4)] * 48, Compute(SECOND_NS), start_ns=SECOND_NS)
    world.run(14 * SECOND_NS)
    assert loading.done


def test_two_that_load_in_pieces_at_the_same_time_do_not_wait_a_quantum_for_each_other() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=60 * SECOND_NS)
    piece: list[Step] = [Allocate(3 * GIB), Sleep(10 * MILLISECOND_NS)]
    for _ in range(2):
        start(world, *piece * 4, Compute(SECOND_NS))
    assert run_to_the_end(world, 30 * SECOND_NS) < 8 * SECOND_NS


def test_a10_e10_idle_programs_that_fit_are_never_serialised() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=0)
    for number in range(3):
        duty: list[Step] = [Compute(100 * MILLISECOND_NS), Sleep(900 * MILLISECOND_NS)]
        start(world, *loads(4 * GIB), *duty * 20, start_ns=number * MILLISECOND_NS)
    took_ns = run_to_the_end(world, 60 * SECOND_NS)
    assert took_ns < 20 * SECOND_NS + LOADING_NS
    assert max(program.longest_turn_wait_ns for program in world.programs) < 10 * MILLISECOND_NS


def test_a10_an_idle_program_gives_its_place_up_as_soon_as_somebody_waits() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=60 * SECOND_NS)
    start(world, *loads(12 * GIB), Compute(SECOND_NS), Sleep(600 * SECOND_NS))
    second = start(world, *loads(12 * GIB), Compute(SECOND_NS), start_ns=SECOND_NS // 2)
    world.run(4 * SECOND_NS)
    assert second.done


def test_an_idle_program_is_moved_only_when_somebody_needs_the_room_and_the_longest_idle_first() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=60 * SECOND_NS)
    older = start(world, *loads(6 * GIB), Compute(SECOND_NS), Sleep(600 * SECOND_NS))
    newer = start(world, *loads(6 * GIB), Compute(2 * SECOND_NS), Sleep(600 * SECOND_NS))
    world.run(10 * SECOND_NS)
    assert world.link.moved_bytes == 0
    start(world, *loads(8 * GIB), Compute(SECOND_NS))
    world.run(3 * SECOND_NS)
    assert older.memory.away_bytes == 4 * GIB
    assert newer.memory.away_bytes == 0


def test_what_is_away_comes_back_by_itself_when_it_has_fitted_for_five_seconds() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=60 * SECOND_NS)
    idle = start(world, *loads(12 * GIB), Compute(SECOND_NS), Sleep(600 * SECOND_NS))
    neighbour = start(world, *loads(12 * GIB), Compute(600 * SECOND_NS), start_ns=2 * SECOND_NS)
    world.run(10 * SECOND_NS)
    assert idle.memory.away_bytes == 8 * GIB
    neighbour.kill()
    world.run(4 * SECOND_NS)
    assert idle.memory.away_bytes == 8 * GIB
    world.run(2 * SECOND_NS)
    assert idle.memory.all_present


def test_jobs_that_follow_each_other_move_an_idle_program_out_once() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=60 * SECOND_NS)
    idle = start(world, *loads(12 * GIB), Compute(SECOND_NS), Sleep(600 * SECOND_NS))
    for number in range(4):
        start(world, *loads(8 * GIB), Compute(3 * SECOND_NS), start_ns=(2 + 5 * number) * SECOND_NS)
    world.run(20 * SECOND_NS)
    assert idle.memory.swapped_out_bytes == 4 * GIB
    world.run(10 * SECOND_NS)
    assert idle.memory.all_present


def test_e1_a_survivor_is_back_within_the_time_of_the_copy() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=10 * SECOND_NS)
    first = start(world, *loads(12 * GIB), Compute(100 * SECOND_NS))
    second = start(world, *loads(12 * GIB), Compute(100 * SECOND_NS), start_ns=SECOND_NS)
    world.run(15 * SECOND_NS)
    assert first.memory.away_bytes > 0
    floor_ns = first.memory.away_bytes * SECOND_NS // LINK
    computed_ns = first.computed_ns
    second.kill()
    world.run(floor_ns + 500 * MILLISECOND_NS)
    assert first.memory.all_present
    assert first.computed_ns >= computed_ns + 400 * MILLISECOND_NS


def test_one_way_out_overlaps_the_next_way_in() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=5 * SECOND_NS)
    programs = [start(world, *loads(16 * GIB), Compute(60 * SECOND_NS)) for _ in range(2)]
    world.run(32 * SECOND_NS)
    serial_ns = 2 * 16 * GIB * SECOND_NS // LINK
    waited_ns = max(program.longest_turn_wait_ns for program in programs)  # a quantum, and a switch on each side of it
    assert 5 * SECOND_NS < waited_ns < 5 * SECOND_NS + 2 * 0.6 * serial_ns


def test_what_could_neither_stay_nor_leave_is_refused_and_who_runs_is_untouched() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=2 * SECOND_NS)
    runs = start(world, *loads(12 * GIB), Compute(10 * SECOND_NS))
    confined = start(
        world, *loads(12 * GIB), Compute(SECOND_NS), start_ns=SECOND_NS, swapping=Swapping(host_room_bytes=2 * GIB)
    )
    run_to_the_end(world, 60 * SECOND_NS)
    assert confined.refusals == [Limit.HOST_ROOM, Limit.HOST_ROOM]
    assert runs.refusals == []
    refusal = next(event.text for event in world.events if event.kind == "memory-refused")
    assert "7.0 GiB of it could not be moved to host memory" in refusal
    assert "12.0 GiB" in refusal


def test_a_refusal_because_of_others_ends_when_they_do() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=2 * SECOND_NS)
    start(world, *loads(12 * GIB), Compute(SECOND_NS))
    confined = Swapping(host_room_bytes=0)
    later = start(
        world,
        Sleep(500 * MILLISECOND_NS),
        Allocate(8 * GIB),
        Sleep(5 * SECOND_NS),
        Allocate(8 * GIB),
        swapping=confined,
    )
    run_to_the_end(world, 60 * SECOND_NS)
    assert later.refusals == [Limit.HOST_ROOM]
    assert later.memory.footprint_bytes == 8 * GIB


def test_the_overcommit_cap_refuses_with_the_sums() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=2 * SECOND_NS, policy=Policy(overcommit_percent=150))
    programs = [
        start(world, *loads(12 * GIB), Compute(9 * SECOND_NS), start_ns=number * MILLISECOND_NS) for number in range(3)
    ]
    run_to_the_end(world, 60 * SECOND_NS)
    refusals = [limit for program in programs for limit in program.refusals]
    assert set(refusals) == {Limit.OVERCOMMIT}
    assert "24.0 GiB may be promised in all" in next(e.text for e in world.events if e.kind == "memory-refused")


def test_serial_the_holder_alone_must_be_resident() -> None:
    world = Simulation(Mode.SERIAL, CARD, quantum_ns=2 * SECOND_NS)
    world.exclusive = True
    programs = [start(world, *loads(size * GIB), Compute(10 * SECOND_NS)) for size in (12, 12, 3)]
    took_ns = run_to_the_end(world, 120 * SECOND_NS)
    assert took_ns < 1.2 * 30 * SECOND_NS
    assert max(program.longest_turn_wait_ns for program in programs) < 2 * (2 * SECOND_NS + 2 * SWAP_NS)


def test_a_client_that_waits_for_room_waits_for_memory() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=10 * SECOND_NS)
    first = start(world, *loads(12 * GIB), Compute(60 * SECOND_NS))
    start(world, *loads(12 * GIB), Compute(60 * SECOND_NS), start_ns=SECOND_NS)
    world.run(15 * SECOND_NS)
    assert first.grant is not None
    assert (first.grant.may_launch, first.grant.wait) == (False, Wait.MEMORY)


def test_a_victim_that_does_not_leave_is_named_and_others_make_room() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=6 * SECOND_NS)
    stays = start(world, *loads(6 * GIB), Compute(60 * SECOND_NS), swapping=Swapping(fails=True))
    moves = start(world, *loads(6 * GIB), Compute(60 * SECOND_NS), start_ns=10 * MILLISECOND_NS)
    comes = start(world, *loads(9 * GIB), Compute(9 * SECOND_NS), start_ns=2 * SECOND_NS)
    world.run(40 * SECOND_NS)
    assert comes.done
    assert moves.memory.swapped_out_bytes > 0
    assert stays.memory.away_bytes == 0
    assert [event.client for event in world.events if event.kind == "client-stays"] == [stays.client]


def test_a_stopped_resident_keeps_its_memory_and_those_that_fit_go_on() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=SECOND_NS)
    stopped = start(world, *loads(10 * GIB), Compute(5 * SECOND_NS))
    needs = start(world, *loads(10 * GIB), Compute(5 * SECOND_NS), start_ns=4 * SECOND_NS)
    fits = start(world, *loads(4 * GIB), Compute(5 * SECOND_NS), start_ns=8 * SECOND_NS)
    world.run(3 * SECOND_NS)
    stopped.stop(20 * SECOND_NS)
    world.run(15 * SECOND_NS)
    assert fits.done
    assert not needs.done
    run_to_the_end(world, 60 * SECOND_NS)


def test_pinned_memory_is_not_waited_for() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=SECOND_NS)
    start(world, *loads(8 * GIB), Compute(5 * SECOND_NS), swapping=Swapping(pinned_bytes=8 * GIB))
    refused = start(world, *loads(12 * GIB), Compute(SECOND_NS), start_ns=SECOND_NS)
    run_to_the_end(world, 60 * SECOND_NS)
    assert refused.refusals == [Limit.HOST_ROOM, Limit.HOST_ROOM]


def test_who_loses_its_place_while_it_frees_memory_comes_back_with_what_is_left() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=SECOND_NS)
    start(world, *loads(12 * GIB), Compute(3 * SECOND_NS), Free(6 * GIB), Compute(3 * SECOND_NS))
    start(world, *loads(12 * GIB), Compute(3 * SECOND_NS), Free(9 * GIB), Compute(3 * SECOND_NS))
    assert run_to_the_end(world, 60 * SECOND_NS) < 13 * SECOND_NS


def test_nothing_is_promised_twice_when_the_scheduler_restarts_in_the_middle_of_a_switch() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=2 * SECOND_NS)
    for number in range(3):
        start(world, *loads(12 * GIB), Compute(10 * SECOND_NS), start_ns=number * 100 * MILLISECOND_NS)
    for moment in range(2000, 12000, 1370):
        world.at(moment * MILLISECOND_NS, world.kill_scheduler)
        world.at((moment + 400) * MILLISECOND_NS, world.start_scheduler)
    run_to_the_end(world, 120 * SECOND_NS)
    assert world.card.most_bytes <= CARD


def test_switching_off_is_refused_while_not_everything_fits_and_brings_everything_back_else() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=SECOND_NS)
    first = start(world, *loads(12 * GIB), Compute(2 * SECOND_NS), Sleep(60 * SECOND_NS))
    second = start(world, *loads(12 * GIB), Compute(SECOND_NS), Free(9 * GIB), Sleep(60 * SECOND_NS))
    world.run(3 * SECOND_NS // 2)
    world.change_mode(Mode.OFF)
    assert mode_of(world) == "AUTO"
    world.run(8 * SECOND_NS)
    world.change_mode(Mode.OFF)
    assert mode_of(world) == "OFF"
    world.run(SECOND_NS)
    assert first.memory.all_present
    assert second.memory.all_present


def test_b10_a_quota_below_use_refuses_more_until_use_falls_and_then_grants_again() -> None:
    world = Simulation(Mode.AUTO, CARD)
    program = start(
        world, Allocate(4 * GIB), Sleep(SECOND_NS), Allocate(GIB), Free(3 * GIB), Allocate(MIB), Sleep(SECOND_NS)
    )
    world.at(SECOND_NS // 2, partial(world.change_quota, program.allocation, 2 * GIB))
    run_to_the_end(world, 10 * SECOND_NS)
    assert program.refusals == [Limit.QUOTA]
    assert program.footprint_bytes == GIB + MIB


def test_serial_a_holder_for_which_there_is_no_room_gives_the_lock_up_at_once() -> None:
    world = Simulation(Mode.SERIAL, CARD, quantum_ns=SECOND_NS)
    large = start(world, *loads(15 * GIB), Compute(3 * SECOND_NS), Sleep(SECOND_NS), Compute(SECOND_NS))
    pins = start(world, *loads(8 * GIB), Compute(6 * SECOND_NS), start_ns=SECOND_NS // 2)
    world.at(3 * SECOND_NS // 2, partial(setattr, pins.memory.swapping, "pinned_bytes", 4 * GIB))
    world.run(8 * SECOND_NS)
    assert pins.done
    assert "memory-held" in {event.kind for event in world.events}
    run_to_the_end(world, 20 * SECOND_NS)
    assert large.done
