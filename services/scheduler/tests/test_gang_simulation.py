"""Jobs over several simulated GPUs, with real arbiters on one clock: their ranks' work ends together or not at all."""

from collections.abc import Sequence
from random import Random

import pytest

from nvshare.scheduler.history import replay
from nvshare.scheduler.model import Mode, Ruling
from nvshare.scheduler.policy import GIB, MILLISECOND_NS, SECOND_NS
from nvshare.scheduler.simulated_memory import Swapping
from nvshare.scheduler.simulated_node import SimulatedNode
from nvshare.scheduler.simulated_program import Allocate, Compute, Sleep

CAPACITY = 16 * GIB
QUANTUM_NS = 2 * SECOND_NS
WORK_NS = 6 * SECOND_NS
LARGE = (Allocate(12 * GIB), Compute(WORK_NS))
SMALL = (Allocate(6 * GIB), Compute(WORK_NS))


def node(mode: Mode = Mode.AUTO, *, gpus: int = 2, gangs: bool = True, seed: int = 0) -> SimulatedNode:
    return SimulatedNode(gpus, gangs=gangs, mode=mode, capacity_bytes=CAPACITY, quantum_ns=QUANTUM_NS, seed=seed)


def moved_bytes(world: SimulatedNode) -> int:
    return sum(gpu.link.moved_bytes for gpu in world.gpus)


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.SERIAL])
@pytest.mark.parametrize("seed", range(5))
def test_e11_two_jobs_over_the_same_two_gpus_both_finish_in_turns(mode: Mode, seed: int) -> None:
    world = node(mode, seed=seed)
    jobs = [world.start_job("one", LARGE), world.start_job("two", LARGE, gpus=(1, 0))]
    world.run(2 * WORK_NS + 8 * SECOND_NS)
    assert [job.done for job in jobs] == [True, True]
    came_in = [event.allocation for event in world.events if event.kind == "gang-in"]
    assert min(came_in.count("one"), came_in.count("two")) >= 2 * 2  # on two GPUs, again and again


def test_e11_without_gangs_each_of_two_jobs_holds_one_gpu_and_neither_gets_on() -> None:
    """Both switch at the same time, so it stays so."""
    world = node(gangs=False)
    one = world.start_job("one", LARGE, start_ns=(0, SECOND_NS // 10))
    two = world.start_job("two", LARGE, gpus=(1, 0), start_ns=(0, SECOND_NS // 10))
    world.run(20 * QUANTUM_NS)
    assert (one.computed_ns, two.computed_ns) == (0, 0)


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.CONCURRENT])
def test_a4_two_jobs_that_fit_together_run_side_by_side_and_nothing_moves(mode: Mode) -> None:
    world = node(mode)
    jobs = [world.start_job("one", SMALL), world.start_job("two", SMALL, gpus=(1, 0))]
    world.run(WORK_NS + SECOND_NS)
    assert [job.done for job in jobs] == [True, True]
    assert moved_bytes(world) == 0


def test_e11_a_rank_that_starts_seconds_later_joins_its_gang() -> None:
    world = node()
    one = world.start_job("one", LARGE, start_ns=(0, 3 * SECOND_NS))
    two = world.start_job("two", LARGE, gpus=(1, 0), start_ns=(SECOND_NS, 4 * SECOND_NS))
    world.run(2 * WORK_NS + 20 * SECOND_NS)
    assert [one.done, two.done] == [True, True]


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.SERIAL])
def test_a3_ranks_in_allocations_of_their_own_are_a_gang_when_they_have_one_group(mode: Mode) -> None:
    world = node(mode)
    one = world.start_job("one", LARGE, start_ns=(0, SECOND_NS // 10), apart=True, group="default/one")
    two = world.start_job("two", LARGE, gpus=(1, 0), start_ns=(0, SECOND_NS // 10), apart=True, group="default/two")
    world.run(2 * WORK_NS + 8 * SECOND_NS)
    assert [one.done, two.done] == [True, True]
    assert {event.allocation for event in world.events} == {"default/one", "default/two"}


def test_a3_without_a_group_nobody_knows_that_they_belong_together() -> None:
    world = node()
    one = world.start_job("one", LARGE, start_ns=(0, SECOND_NS // 10), apart=True)
    two = world.start_job("two", LARGE, gpus=(1, 0), start_ns=(0, SECOND_NS // 10), apart=True)
    world.run(20 * QUANTUM_NS)
    assert (one.computed_ns, two.computed_ns) == (0, 0)


def test_a_gang_ends_with_its_processes_and_the_next_one_comes_in() -> None:
    world = node()
    one, two = world.start_job("one", LARGE), world.start_job("two", LARGE)
    world.run(3 * SECOND_NS)
    one.kill()
    world.run(WORK_NS + 2 * SECOND_NS)
    assert two.done


def test_a3_a_program_on_two_gpus_that_is_no_gang_takes_its_turns_on_each_by_itself() -> None:
    world = node(Mode.SERIAL)
    both = world.start_job("both", SMALL, collective=False)
    alone = world.gpus[0].start_program(SMALL, swapping=Swapping())
    world.run(WORK_NS + 2 * SECOND_NS)
    assert both.ranks[1].done  # nobody else wants that GPU
    assert not both.ranks[0].done
    world.run(WORK_NS + 2 * SECOND_NS)
    assert both.done
    assert alone.done
    assert all(client.ruling == Ruling.NONE for client in world.gpus[0].arbiter.state.clients.values())


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.SERIAL])
def test_a_gang_and_programs_on_each_of_its_gpus_all_get_their_turns(mode: Mode) -> None:
    world = node(mode)
    gang = world.start_job("gang", LARGE)
    singles = [
        gpu.start_program(LARGE, start_ns=number * SECOND_NS, swapping=Swapping())
        for number, gpu in enumerate(world.gpus, start=1)
    ]
    world.run(2 * WORK_NS + 12 * SECOND_NS)
    assert gang.done
    assert [single.done for single in singles] == [True, True]
    waits_ns = [program.longest_turn_wait_ns for program in (*gang.ranks, *singles)]
    assert max(waits_ns) < 3 * (QUANTUM_NS + 2 * SECOND_NS)


def test_two_gangs_that_share_one_gpu_take_turns_on_all_of_theirs() -> None:
    world = node(gpus=3)
    left, right = world.start_job("left", LARGE, gpus=(0, 1)), world.start_job("right", LARGE, gpus=(1, 2))
    world.run(2 * WORK_NS + 8 * SECOND_NS)
    assert [left.done, right.done] == [True, True]


def test_a10_a_gang_that_rests_gives_its_gpus_up_to_one_that_waits() -> None:
    world = node()
    resting = world.start_job("resting", (Allocate(12 * GIB), Compute(SECOND_NS), Sleep(60 * SECOND_NS)))
    world.run(500 * MILLISECOND_NS)
    other = world.start_job("other", LARGE)
    world.run(WORK_NS + 4 * SECOND_NS)
    assert other.done
    assert not resting.done


def test_e11_a_gang_whose_rank_is_stopped_keeps_its_memory_and_the_others_wait_visibly() -> None:
    world = node()
    one = world.start_job("one", LARGE)
    world.run(SECOND_NS)
    two = world.start_job("two", LARGE)
    one.ranks[0].stop(20 * SECOND_NS)
    world.run(15 * SECOND_NS)
    assert two.computed_ns == 0
    world.run(2 * WORK_NS + 20 * SECOND_NS)
    assert [one.done, two.done] == [True, True]


# 143: one rank launches its part while the other is told to stop, because they become a gang just then.
@pytest.mark.parametrize("seeds", [range(4), range(4, 8), range(8, 12), (143,)])
def test_e11_in_random_histories_every_job_finishes(seeds: Sequence[int]) -> None:
    for seed in seeds:
        random = Random(seed)
        gpus = random.randint(2, 3)
        world = node(random.choice([Mode.AUTO, Mode.SERIAL]), gpus=gpus, seed=seed)
        jobs = []
        for number in range(random.randint(2, 5)):
            indices = random.sample(range(gpus), random.randint(1, gpus))
            size_bytes, work_ns = random.randint(1, 15) * GIB, random.randint(1, 5) * SECOND_NS
            steps = (Allocate(size_bytes), Compute(work_ns))
            starts_ns = [random.randint(0, 3) * SECOND_NS for _ in indices]
            jobs.append(world.start_job(f"job{number}", steps, indices, start_ns=starts_ns))
        for _ in range(120):
            if all(job.done for job in jobs):
                break
            world.run(SECOND_NS)
        assert all(job.done for job in jobs), (seed, [job.computed_ns for job in jobs])


def test_the_history_of_a_gang_replays_to_the_same_plans() -> None:
    world = node()
    world.start_job("one", LARGE)
    world.start_job("two", LARGE)
    world.run(8 * SECOND_NS)
    for gpu in world.gpus:
        assert gpu.recorded is not None
        entries, differences = replay(gpu.recorded.lines())
        assert entries > 100
        assert differences == []
