"""Programs that load side by side, and the first time that their memory leaves the card: pinning host memory takes long
beside moving, so it must be ready by then."""

from statistics import median

import pytest

from nvshare.scheduler.model import Mode
from nvshare.scheduler.policy import GIB, MIB, MILLISECOND_NS, SECOND_NS
from nvshare.scheduler.simulated_memory import Swapping
from nvshare.scheduler.simulated_program import Allocate, Compute, Program, Sleep, Step
from nvshare.scheduler.simulator import Faults, Simulation

CARD = 16 * GIB
PINNING = 4 * GIB  # per second
LARGE = [Allocate(3 * GIB)] * 4
BLOCKS = [Allocate(24 * MIB)] * 512
STEP_NS = MILLISECOND_NS


def start(world: Simulation, *steps: Step, start_ns: int = 0, swapping: Swapping | None = None) -> Program:
    return world.start_program(steps, start_ns=start_ns, swapping=swapping or Swapping(pool_bytes_per_second=PINNING))


def ways_out_ns(world: Simulation, programs: list[Program], duration_ns: int) -> list[list[int]]:
    """Lets time pass. Gives for each program how long a GiB took, each time that it had to leave: from the revocation
    to its last byte that left."""
    found: list[list[int]] = [[] for _ in programs]
    ran = [False] * len(programs)
    revoked_ns, before_bytes, last_ns, last_bytes = ([0] * len(programs) for _ in range(4))
    end_ns = world.now_ns + duration_ns
    while world.now_ns < end_ns:
        world.run(STEP_NS)
        for number, program in enumerate(programs):
            out_bytes = program.memory.swapped_out_bytes
            if ran[number] and not program.may_launch:
                revoked_ns[number], before_bytes[number] = world.now_ns, last_bytes[number]
            if out_bytes > last_bytes[number]:
                last_ns[number], last_bytes[number] = world.now_ns, out_bytes
            moved_bytes = out_bytes - before_bytes[number]
            if program.may_launch and not ran[number] and moved_bytes > 0 and revoked_ns[number]:
                found[number].append((last_ns[number] - revoked_ns[number]) * GIB // moved_bytes)
            ran[number] = program.may_launch
    return found


@pytest.mark.parametrize("quantum_ns", [0, 3 * SECOND_NS])
@pytest.mark.parametrize("loads", [LARGE, BLOCKS], ids=["large", "blocks"])
def test_b2_the_first_way_off_the_card_takes_at_most_twice_as_long_as_later_ones(
    loads: list[Step], quantum_ns: int
) -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=quantum_ns)
    programs = [start(world, *loads, Compute(200 * SECOND_NS)) for _ in range(2)]
    ways_ns = ways_out_ns(world, programs, 120 * SECOND_NS)
    later_ns = [way_ns for ways in ways_ns for way_ns in ways[1:]]
    assert len(later_ns) >= 3
    assert max(ways[0] for ways in ways_ns) <= 2 * median(later_ns)


def test_two_that_load_at_the_same_time_move_nothing_before_the_first_quantum_is_over() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=3 * SECOND_NS)
    programs = [start(world, *BLOCKS, Compute(20 * SECOND_NS)) for _ in range(2)]
    world.run(2900 * MILLISECOND_NS)
    assert world.link.moved_bytes == 0
    assert sorted(program.footprint_bytes for program in programs) == [4 * GIB - 16 * MIB, 12 * GIB]


def test_two_that_have_an_eighth_each_load_side_by_side() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=3 * SECOND_NS)
    programs = [start(world, *[Allocate(GIB // 2)] * 4, Compute(SECOND_NS)) for _ in range(2)]
    world.run(900 * MILLISECOND_NS)
    assert max(program.longest_allocation_wait_ns for program in programs) < 2 * MILLISECOND_NS
    assert min(program.computed_ns for program in programs) > 800 * MILLISECOND_NS


def test_who_fits_beside_one_that_loads_waits_little_more_than_half_a_second_after_it() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=60 * SECOND_NS)
    programs = [start(world, *[Allocate(GIB)] * 7, Compute(SECOND_NS)) for _ in range(2)]
    world.run(2 * SECOND_NS)
    assert all(program.done for program in programs)
    assert max(program.longest_allocation_wait_ns for program in programs) < 650 * MILLISECOND_NS
    assert world.link.moved_bytes == 0


def test_a_program_that_grows_for_ever_holds_nobody_up() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=60 * SECOND_NS)
    grows: list[Step] = [Allocate(8 * MIB), Compute(100 * MILLISECOND_NS)]
    start(world, *grows * 600)
    waits = start(world, Allocate(8 * GIB), Compute(SECOND_NS), start_ns=100 * MILLISECOND_NS)
    world.run(4 * SECOND_NS)
    assert waits.done


def test_small_programs_that_come_again_and_again_hold_nobody_up() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=60 * SECOND_NS)
    for number in range(100):
        start(world, Allocate(8 * MIB), Compute(90 * MILLISECOND_NS), start_ns=number * 50 * MILLISECOND_NS)
    waits = start(world, Allocate(8 * GIB), Compute(SECOND_NS), start_ns=SECOND_NS)
    world.run(3 * SECOND_NS)
    assert waits.done


def test_a_quantum_ends_although_host_memory_cannot_be_pinned() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=3 * SECOND_NS)
    never = Swapping(pool_bytes_per_second=MIB)
    first, _ = [start(world, *LARGE, Compute(60 * SECOND_NS), swapping=never) for _ in range(2)]
    world.run(2 * SECOND_NS)
    assert first.may_launch
    world.run(4 * SECOND_NS)
    assert not first.may_launch


def test_a_slow_pool_lengthens_no_quantum_beyond_five_seconds_and_the_time_of_pinning() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=3 * SECOND_NS)
    slow = Swapping(pool_bytes_per_second=GIB // 4)
    programs = [start(world, *LARGE, Compute(60 * SECOND_NS), swapping=slow) for _ in range(2)]
    world.run(8 * SECOND_NS)
    assert world.link.moved_bytes == 0
    world.run(3 * SECOND_NS)
    assert world.link.moved_bytes > 0
    assert any(not program.may_launch for program in programs)


def as_pytorch_loads(size_bytes: int) -> list[Step]:
    """Four tensors, with the half second that a first kernel takes."""
    piece = Allocate(size_bytes // 4)
    return [piece, Sleep(500 * MILLISECOND_NS), piece, Compute(4 * MILLISECOND_NS), piece, piece]


def test_b2_of_four_that_load_at_once_the_first_has_all_its_memory_before_anything_moves() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=10 * SECOND_NS)
    slow = Swapping(pool_bytes_per_second=GIB)
    steps = [*as_pytorch_loads(12 * GIB), Compute(60 * SECOND_NS)]
    programs = [start(world, *steps, start_ns=number * 100 * MILLISECOND_NS, swapping=slow) for number in range(4)]
    world.run(SECOND_NS)
    assert programs[0].footprint_bytes == 12 * GIB
    world.run(8 * SECOND_NS)  # with three that wait its quantum is 9.1 s
    assert world.link.moved_bytes == 0


@pytest.mark.parametrize("rest_ms", [0, 300, 5000])
def test_b2_who_asks_first_loads_first_however_long_the_other_has_been_there(rest_ms: int) -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=3 * SECOND_NS)
    slow = Swapping(pool_bytes_per_second=2 * GIB)
    for pause_ms in (rest_ms + 5, rest_ms):
        steps = [Sleep(pause_ms * MILLISECOND_NS), *as_pytorch_loads(14 * GIB), Compute(60 * SECOND_NS)]
        start(world, *steps, swapping=slow)
    world.run(4 * SECOND_NS + rest_ms * MILLISECOND_NS)
    assert world.link.moved_bytes == 0


def test_a6_the_automatic_quantum_knows_nothing_of_the_pinning_that_the_first_ways_waited_for() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=0)
    slow = Swapping(pool_bytes_per_second=GIB // 4)
    steps = [*as_pytorch_loads(12 * GIB), Compute(60 * SECOND_NS)]
    programs = [start(world, *steps, start_ns=number * 100 * MILLISECOND_NS, swapping=slow) for number in range(3)]
    world.run(30 * SECOND_NS)
    assert any(program.memory.swapped_out_bytes > 5 * GIB for program in programs)
    assert world.arbiter.state.quantum_ns < 15 * SECOND_NS


def test_a5_who_loses_its_place_before_its_quantum_is_over_keeps_its_place_in_the_queue() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=10 * SECOND_NS)
    steps = [*as_pytorch_loads(12 * GIB), Compute(60 * SECOND_NS)]
    programs = [start(world, *steps, start_ns=number * 100 * MILLISECOND_NS) for number in range(4)]
    world.run(42 * SECOND_NS)
    assert all(program.computed_ns > 8 * SECOND_NS for program in programs)


def loading(pause_ns: int) -> list[Step]:
    """A program of 12 GiB that asks for one small block after the other."""
    steps: list[Step] = []
    for _ in range(512):
        steps += [Allocate(24 * MIB), Sleep(pause_ns)]
    return steps


def test_who_loads_in_its_own_quantum_keeps_its_headroom_although_another_waits() -> None:
    world = Simulation(Mode.AUTO, CARD, quantum_ns=3 * SECOND_NS)
    first = start(world, *LARGE, Compute(60 * SECOND_NS))
    second = start(world, *loading(2 * MILLISECOND_NS), Compute(60 * SECOND_NS), start_ns=100 * MILLISECOND_NS)
    while first.may_launch or first.grant is None:
        world.run(10 * MILLISECOND_NS)
    epoch = second.grant.epoch if second.grant else 0
    world.run(1500 * MILLISECOND_NS)
    assert second.footprint_bytes == 12 * GIB
    assert second.memory.swapped_out_bytes == 0
    assert second.grant is not None
    assert second.grant.epoch - epoch < 80


def two_that_load(mode: Mode, delay_ns: int) -> tuple[Simulation, list[Program]]:
    """Two that ask for small blocks at the same time, with messages that take `delay_ns` and more."""
    late = Faults(least_delay_ns=delay_ns, most_delay_ns=2 * delay_ns)
    world = Simulation(mode, CARD, quantum_ns=3 * SECOND_NS, faults=late)
    steps = [*loading(MILLISECOND_NS), Compute(60 * SECOND_NS)]
    return world, [start(world, *steps, start_ns=number * 20 * MILLISECOND_NS) for number in range(2)]


def grants(programs: list[Program]) -> int:
    return sum(program.grant.epoch for program in programs if program.grant)


@pytest.mark.parametrize("delay_ns", [100_000, 2 * MILLISECOND_NS])
def test_b2_who_loads_in_small_blocks_makes_others_leave_each_time_that_it_has_doubled(delay_ns: int) -> None:
    world, (first, second) = two_that_load(Mode.AUTO, delay_ns)
    world.run(2900 * MILLISECOND_NS)
    assert world.link.moved_bytes == 0
    before = grants([first])
    world.run(2100 * MILLISECOND_NS)
    assert second.footprint_bytes == 12 * GIB
    assert grants([first]) - before < 20


def test_b2_in_serial_mode_too_who_holds_the_lock_loads_without_a_grant_for_each_block() -> None:
    world, programs = two_that_load(Mode.SERIAL, 2 * MILLISECOND_NS)
    world.run(6 * SECOND_NS)
    assert all(program.footprint_bytes == 12 * GIB for program in programs)
    assert grants(programs) < 250
