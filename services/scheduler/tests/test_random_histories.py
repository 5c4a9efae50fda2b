"""Random histories of arrivals, growth, idleness, quota changes and faults, with memory that moves.

The judge is what happened, not what the arbiter believes. The simulated card keeps its own account of who has what; it
raises as soon as it is over its capacity, when more is there than the arbiter counts with, and when somebody frees what
it has not. The programs note for how long they waited, what was refused, and who computed beside them. The arbiter's
counters themselves are looked at only for being below zero (E3).

NVSHARE_TEST_HISTORIES is how many histories run; a long run takes 10000.
"""

import os
from collections.abc import Callable
from functools import partial
from random import Random

import pytest

from nvshare.scheduler.model import Limit, Mode
from nvshare.scheduler.policy import GIB, MIB, MILLISECOND_NS, SECOND_NS
from nvshare.scheduler.simulated_memory import Swapping
from nvshare.scheduler.simulated_program import BURST_NS, Allocate, Compute, Free, Sleep, Step
from nvshare.scheduler.simulator import Faults, Simulation

HISTORIES = int(os.environ.get("NVSHARE_TEST_HISTORIES", "20"))
pytestmark = pytest.mark.timeout(60 + HISTORIES)
CAPACITY = 4 * GIB
LINK = 50_000_000_000
LOSSY = Faults(loss=0.1, duplication=0.2, least_delay_ns=50_000, most_delay_ns=30 * MILLISECOND_NS)
LONGEST_NS = 240 * SECOND_NS
FREED_NS = 10 * SECOND_NS  # the driver has freed what the last of the dead had, and the arbiter has seen it


def some_steps(random: Random) -> list[Step]:
    steps: list[Step] = []
    for _ in range(random.randint(2, 7)):
        match random.choices(["allocate", "free", "compute", "sleep"], [40, 10, 35, 15])[0]:
            case "allocate":
                steps.append(Allocate(random.randint(4, 48) * 64 * MIB))
            case "free":
                steps.append(Free(random.randint(1, 24) * 64 * MIB))
            case "compute":
                steps.append(Compute(random.randint(50, 1500) * MILLISECOND_NS))
            case "sleep":
                steps.append(Sleep(random.randint(1, 2000) * MILLISECOND_NS))
    return steps


def some_library(random: Random) -> Swapping:
    """Most can move all of their memory; some have pinned memory, little host memory, or cannot move any."""
    match random.choices(["free", "pinned", "confined", "staying"], [60, 10, 15, 15])[0]:
        case "pinned":
            return Swapping(pinned_bytes=random.randint(1, 8) * 64 * MIB)
        case "confined":
            return Swapping(host_room_bytes=random.randint(0, 40) * 64 * MIB)
        case "staying":
            return Swapping(swaps=False)
    return Swapping()


def some_world(random: Random, seed: int, faults: Faults | None, all_move: bool) -> Simulation:
    mode = random.choice([Mode.AUTO, Mode.AUTO, Mode.CONCURRENT, Mode.SERIAL])
    quantum_ns = random.choice([0, 100 * MILLISECOND_NS, 500 * MILLISECOND_NS])
    world = Simulation(mode, CAPACITY, seed, faults, quantum_ns=quantum_ns, link_bytes_per_second=LINK)
    for _ in range(random.randint(2, 6)):
        library = Swapping() if all_move else some_library(random)
        start_ns = random.randint(0, 1500) * MILLISECOND_NS
        world.start_program(some_steps(random), start_ns=start_ns, swapping=library)
    for _ in range(random.choice([0, 0, random.randint(1, 4)])):
        program = random.choice(world.programs)
        limit_bytes = random.choice([0, random.randint(1, 40) * 64 * MIB])
        world.at(random.randint(1, 6000) * MILLISECOND_NS, partial(world.change_quota, program.allocation, limit_bytes))
    return world


def crowded_world(random: Random, seed: int) -> Simulation:
    """Programs that want the GPU for much longer than a quantum, and do not fit together."""
    mode = random.choice([Mode.AUTO, Mode.CONCURRENT, Mode.SERIAL])
    quantum_ns = random.choice([100, 300]) * MILLISECOND_NS
    world = Simulation(mode, CAPACITY, seed, quantum_ns=quantum_ns, link_bytes_per_second=LINK)
    for _ in range(random.randint(3, 5)):
        sizes = [random.randint(4, 16) * 64 * MIB for _ in range(random.randint(1, 3))]
        computes = Compute(random.randint(1500, 6000) * MILLISECOND_NS)
        steps: list[Step] = [*map(Allocate, sizes), computes, Allocate(512 * MIB), Compute(500 * MILLISECOND_NS)]
        world.start_program(steps, start_ns=random.randint(0, 500) * MILLISECOND_NS, swapping=Swapping())
    return world


def inflict(world: Simulation, random: Random) -> None:
    """Programs are killed, stopped and cut off, and the scheduler restarts."""
    for _ in range(random.randint(0, 4)):
        program = random.choice(world.programs)
        moment_ns, duration_ns = (random.randint(1, 6000) * MILLISECOND_NS for _ in range(2))
        program.keeps_memory_ns = duration_ns
        faults: list[Callable[[], None]] = [
            program.kill,
            partial(program.stop, duration_ns),
            partial(program.disconnect, duration_ns),
        ]
        world.at(moment_ns, random.choice(faults))
    for _ in range(random.choice([0, 0, random.randint(1, 3)])):
        moment_ns = random.randint(1, 6000) * MILLISECOND_NS
        world.at(moment_ns, world.kill_scheduler)
        world.at(moment_ns + 700 * MILLISECOND_NS, world.start_scheduler)


def run_to_the_end(world: Simulation, seed: int) -> int:
    """Runs until every program has ended, or is dead, and the card is empty by its own account and by the arbiter's.
    Gives the longest quantum that was in force."""
    end_ns = world.now_ns + LONGEST_NS
    world.run(6 * SECOND_NS)  # everything has begun by then
    quantum_ns = 0
    while not all(program.done or not program.alive for program in world.programs):
        left = [(p.pid, p.footprint_bytes, p.memory) for p in world.programs if p.alive]
        assert world.now_ns < end_ns, f"history {seed}: {left}"
        world.run(SECOND_NS)
        quantum_ns = max(quantum_ns, world.arbiter.state.quantum_ns)
    world.run(FREED_NS)
    assert (world.card.used_bytes, world.arbiter.state.promised_bytes) == (0, 0), f"history {seed}: {world.card.held}"
    return max(quantum_ns, world.arbiter.state.quantum_ns)


def test_everybody_ends_and_the_card_is_never_over_its_capacity() -> None:
    moved = 0
    for seed in range(HISTORIES):
        random = Random(seed)
        world = some_world(random, seed, None, all_move=False)
        world.exclusive = world.mode == Mode.SERIAL
        run_to_the_end(world, seed)
        assert all(program.done for program in world.programs), seed
        moved += world.link.moved_bytes > 0
    assert moved > HISTORIES // 4, "these histories would prove nothing"


def test_nobody_waits_longer_than_waiters_times_a_quantum_and_two_switches() -> None:
    switch_ns = 2 * CAPACITY * SECOND_NS // LINK + BURST_NS + 20 * Faults().most_delay_ns
    for seed in range(HISTORIES):
        random = Random(1_000_000 + seed)
        world = some_world(random, seed, None, all_move=True) if seed % 2 else crowded_world(random, seed)
        world.exclusive = world.mode == Mode.SERIAL
        longest_ns = run_to_the_end(world, seed)
        idle_ns = world.arbiter.policy.idle_ns  # who has just gone idle may come back, and does not give way at once
        bound_ns = len(world.programs) * (longest_ns + 2 * switch_ns + idle_ns)
        for program in world.programs:
            waited_ns = max(program.longest_turn_wait_ns, program.longest_allocation_wait_ns)
            assert waited_ns <= bound_ns, f"history {seed}: {program.pid} waited {waited_ns / 1e9} s, {bound_ns / 1e9}"
            # What can be moved is refused for being too large by itself, never because of others.
            assert {*program.refusals} <= {Limit.QUOTA, Limit.CARD}, f"history {seed}: {program.refusals}"


def test_it_holds_with_lost_repeated_and_late_messages_deaths_stops_and_restarts() -> None:
    for seed in range(HISTORIES // 2):
        random = Random(2_000_000 + seed)
        world = some_world(random, seed, random.choice([None, LOSSY]), all_move=False)
        inflict(world, random)
        run_to_the_end(world, seed)
