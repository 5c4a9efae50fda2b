"""Random histories of gangs and single clients over several GPUs, with arbiters as simple as they can be.

The arbiters here do what they are told and no more: they bring in whom the queue names first, take room from those who
have lost their claim to it, and know nothing of other GPUs. What must hold is then the coordinator's doing.
"""

from dataclasses import dataclass, field
from random import Random

import pytest

from nvshare.scheduler.gangs import Coordinator
from nvshare.scheduler.model import Ruling
from nvshare.scheduler.places import Claim, GpuClaims
from nvshare.scheduler.policy import MILLISECOND_NS, SECOND_NS

STEP_NS = 50 * MILLISECOND_NS
SWITCH_NS = 200 * MILLISECOND_NS
QUANTUM_NS = 2 * SECOND_NS
CAPACITY = 16
MOST_HALF_NS = 8 * SWITCH_NS  # an arbiter here brings one client in after another
HISTORIES = 40


@dataclass
class Seat:
    """One client on one GPU."""

    key: str
    needed: int
    placed: bool = False
    coming_ns: int | None = None  # since when its memory comes
    placed_ns: int = 0
    waiting_ns: int | None = None
    quiet_ns: int = 0  # when what it launched has ended
    ruling: Ruling | None = None
    ruled_ns: int = 0


@dataclass
class Job:
    """A gang, or a client that is in none: it works while it may launch on all of its GPUs."""

    name: str
    late: list[str]  # GPUs on which it will have a seat later
    seats: dict[str, Seat]  # by GPU
    work_ns: int
    is_gang: bool
    waits_since_ns: int
    longest_wait_ns: int = 0
    half_since_ns: int | None = None  # since when it may launch on some of its GPUs and not on all
    done: bool = False


@dataclass
class World:
    """GPUs with their simple arbiters, and jobs, on one clock."""

    random: Random
    serial: bool
    gangs: bool
    gpus: list[str]
    now_ns: int = 0
    jobs: list[Job] = field(default_factory=list)
    coordinator: Coordinator = field(default_factory=Coordinator)

    def start(self, name: str, gpus: list[str], needed: int, work_ns: int, late: int = 0) -> Job:
        """A job starts; on the last `late` GPUs it has nothing yet."""
        present = len(gpus) - late
        seats = {gpu: Seat(f"{name}-{gpu}", needed, waiting_ns=self.now_ns) for gpu in gpus[:present]}
        job = Job(name, gpus[present:], seats, work_ns, len(gpus) > 1, self.now_ns)
        self.jobs.append(job)
        return job

    def join(self, job: Job) -> None:
        """The next rank of a job starts, and needs as much as the first."""
        gpu = job.late.pop(0)
        needed = next(iter(job.seats.values())).needed
        job.seats[gpu] = Seat(f"{job.name}-{gpu}", needed, waiting_ns=self.now_ns)
        job.waits_since_ns = self.now_ns

    def step(self) -> None:
        self.now_ns += STEP_NS
        if self.gangs:
            self.rule()
        for gpu in self.gpus:
            self.arbitrate(gpu)
        for job in self.jobs:
            self.work(job)
        self.check()
        self.jobs = [job for job in self.jobs if not job.done]

    def rule(self) -> None:
        for _ in range(2):  # what it says may change what it sees
            claims = {
                gpu: tuple(self.claim(job, job.seats[gpu]) for job in self.jobs if gpu in job.seats)
                for gpu in self.gpus
            }
            gpus = [GpuClaims(gpu, self.serial, CAPACITY, QUANTUM_NS, claims[gpu]) for gpu in self.gpus]
            ruled = {
                member.key: member for of in self.coordinator.rule(gpus, self.now_ns).members.values() for member in of
            }
            for seat in (seat for job in self.jobs for seat in job.seats.values()):
                member = ruled.get(seat.key)
                seat.ruling = member.ruling if member else None
                seat.ruled_ns = member.since_ns if member else 0

    def seats_on(self, gpu: str) -> list[Seat]:
        return [job.seats[gpu] for job in self.jobs if gpu in job.seats]

    def claim(self, job: Job, seat: Seat) -> Claim:
        return Claim(
            seat.key,
            job.name if job.is_gang else "",
            demand=True,
            placed=seat.placed,
            ends_ns=seat.placed_ns + QUANTUM_NS,
            waiting_ns=seat.waiting_ns,
            quiet=not self.may_launch(seat) and self.now_ns >= seat.quiet_ns,
            needed_bytes=seat.needed,
            resident_bytes=seat.needed if seat.placed else 0,
        )

    def may_launch(self, seat: Seat) -> bool:
        return seat.placed and seat.ruling in (None, Ruling.IN)

    def arbitrate(self, gpu: str) -> None:
        seats = self.seats_on(gpu)
        waiting = [seat for seat in seats if not seat.placed and seat.ruling != Ruling.OUT]
        for seat in sorted(waiting, key=lambda seat: (seat.ruling != Ruling.IN, self.since(seat), seat.key)):
            if seat.ruling == Ruling.NEXT or not self.make_room(seat, seats):
                seat.coming_ns = None
                return  # its room is kept for it
            seat.coming_ns = self.now_ns if seat.coming_ns is None else seat.coming_ns
            if self.now_ns < seat.coming_ns + SWITCH_NS:
                return
            seat.placed, seat.placed_ns, seat.coming_ns, seat.waiting_ns = True, self.now_ns, None, None

    def since(self, seat: Seat) -> int:
        return seat.ruled_ns if seat.ruling is not None else seat.waiting_ns or 0

    def make_room(self, comer: Seat, seats: list[Seat]) -> bool:
        """Takes places from those who have lost their claim, if that is enough."""
        present = [seat for seat in seats if seat.placed]
        leavable = [seat for seat in present if self.may_be_moved(seat)]
        kept = [seat for seat in present if seat not in leavable]
        for seat in sorted(leavable, key=lambda seat: (seat.ruling is None, -seat.placed_ns)):
            if self.fit([*kept, seat, comer]):
                kept.append(seat)
        if not self.fit([*kept, comer]):
            return False
        for seat in present:
            if seat not in kept:
                seat.placed, seat.waiting_ns = False, self.now_ns
        return True

    def may_be_moved(self, seat: Seat) -> bool:
        if seat.ruling is not None:
            return seat.ruling in (Ruling.OUT, Ruling.NEXT)
        return self.now_ns >= seat.placed_ns + QUANTUM_NS

    def fit(self, seats: list[Seat]) -> bool:
        return len(seats) <= 1 if self.serial else sum(seat.needed for seat in seats) <= CAPACITY

    def work(self, job: Job) -> None:
        if not job.late and all(self.may_launch(seat) for seat in job.seats.values()):
            for seat in job.seats.values():
                seat.quiet_ns = self.now_ns + self.random.randint(0, 3) * STEP_NS
            job.longest_wait_ns = max(job.longest_wait_ns, self.now_ns - job.waits_since_ns)
            job.waits_since_ns = self.now_ns
            job.work_ns -= STEP_NS
            job.done = job.work_ns <= 0

    def check(self) -> None:
        for gpu in self.gpus:
            placed = [seat for seat in self.seats_on(gpu) if seat.placed]
            assert self.fit(placed), placed
            let_in = [seat for seat in self.seats_on(gpu) if seat.ruling in (Ruling.IN, Ruling.PAUSED)]
            assert self.fit(let_in), let_in
        for job in self.jobs:
            if len({self.may_launch(seat) for seat in job.seats.values()}) == 1:
                job.half_since_ns = None
            elif job.half_since_ns is None:
                job.half_since_ns = self.now_ns
            elif self.gangs:
                assert self.now_ns - job.half_since_ns <= MOST_HALF_NS, f"{job.name} has only some of its GPUs"


def random_world(seed: int) -> World:
    random = Random(seed)
    world = World(random, random.random() < 0.3, True, [f"GPU-{index}" for index in range(random.randint(2, 4))])
    for number in range(random.randint(2, 7)):
        width = random.choice([1, 2, len(world.gpus)])
        gpus = random.sample(world.gpus, width)
        late = random.randint(0, width - 1) if random.random() < 0.3 else 0
        world.start(f"job{number}", gpus, random.randint(1, CAPACITY), random.randint(1, 6) * SECOND_NS, late)
        for _ in range(random.randint(0, 30)):
            world.step()
        if world.jobs and random.random() < 0.2:
            world.jobs.remove(random.choice(world.jobs))  # it is killed
    for job in world.jobs:
        while job.late:
            world.step()
            world.join(job)
    return world


@pytest.mark.parametrize("part", range(4))
def test_e11_in_random_histories_no_two_gangs_hold_one_gpu_each_and_everybody_gets_its_turn(part: int) -> None:
    for seed in range(part * HISTORIES // 4, (part + 1) * HISTORIES // 4):
        world = random_world(seed)
        jobs = list(world.jobs)
        while world.jobs:
            world.step()
            longest_ns = max((job.longest_wait_ns for job in jobs), default=0)
            waits_ns = [world.now_ns - job.waits_since_ns for job in world.jobs]
            assert max([longest_ns, *waits_ns]) <= len(jobs) * (2 * QUANTUM_NS + 4 * SWITCH_NS), (seed, jobs)


def test_e11_without_the_coordinator_two_jobs_over_the_same_two_gpus_hold_one_each_for_ever() -> None:
    world = World(Random(1), False, False, ["GPU-0", "GPU-1"])
    one = world.start("one", ["GPU-0", "GPU-1"], 12, SECOND_NS)
    two = world.start("two", ["GPU-1", "GPU-0"], 12, SECOND_NS)
    one.seats["GPU-1"].waiting_ns = two.seats["GPU-0"].waiting_ns = 1
    worked = []
    for _ in range(20 * QUANTUM_NS // STEP_NS):
        world.step()
        worked.append(SECOND_NS - one.work_ns)
    assert worked[-1] == 0
