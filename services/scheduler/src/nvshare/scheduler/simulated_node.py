"""Several simulated GPUs on one clock, with the coordinator of the gangs above their arbiters, and jobs of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nvshare.scheduler.coordination import Coordination
from nvshare.scheduler.model import Event, PublishEvent
from nvshare.scheduler.simulated_memory import Swapping
from nvshare.scheduler.simulated_program import BURST_NS, Program, Step
from nvshare.scheduler.simulator import Simulation


class SimulatedGpu(Simulation):
    """One GPU of a simulated node."""

    def __init__(self, node: SimulatedNode, gpu: str, **options: Any) -> None:
        self._node = node
        super().__init__(gpu=gpu, **options)

    @property
    def next_ns(self) -> int | None:
        """When something happens here next."""
        return self._queue[0][0] if self._queue else None

    def tell(self, event: Event) -> None:
        """The arbiter hears of an event, but not yet the coordinator."""
        super()._tell(event)

    def add(self, program: Program, start_ns: int) -> None:
        """A program that was made elsewhere starts here after `start_ns`."""
        self.programs.append(program)
        self.at(start_ns, program.start)

    def _tell(self, event: Event) -> None:
        super()._tell(event)
        self._node.coordinate()


class SimulatedNode:
    """GPUs that are all alike; `options` are those of Simulation."""

    def __init__(self, gpus: int = 2, *, gangs: bool = True, **options: Any) -> None:
        self.gpus: list[SimulatedGpu] = []
        self.events: list[PublishEvent] = []  # about gangs
        self._coordination = Coordination(gangs=gangs)
        self._wake_ns: int | None = None
        seed = options.pop("seed", 0)
        for index in range(gpus):
            self.gpus.append(SimulatedGpu(self, f"GPU-{index}", seed=seed * 100 + index, **options))

    @property
    def now_ns(self) -> int:
        return self.gpus[0].now_ns

    def run(self, duration_ns: int) -> None:
        """Lets time pass, the same on all GPUs."""
        end_ns = self.now_ns + duration_ns
        while True:
            times_ns = [(gpu.next_ns, index) for index, gpu in enumerate(self.gpus) if gpu.next_ns is not None]
            time_ns, index = min(times_ns, default=(end_ns, 0))
            step_ns = min(time_ns, end_ns) - self.now_ns
            for place, gpu in enumerate(self.gpus):
                if place != index:
                    gpu.now_ns += step_ns
            self.gpus[index].run(step_ns)
            if time_ns >= end_ns:
                return

    def coordinate(self) -> None:
        """The coordinator looks at all arbiters, and tells them what is new."""
        arbiters = {gpu.gpu: gpu.recorded.arbiter for gpu in self.gpus if gpu.recorded is not None}
        by_name = {gpu.gpu: gpu for gpu in self.gpus}
        for name, ruled in self._coordination.news(arbiters, self.now_ns):
            by_name[name].tell(ruled)
        self.events += [event for _, event in self._coordination.take_events()]
        wake_ns = self._coordination.wake_ns
        if wake_ns is not None and wake_ns != self._wake_ns:
            self._wake_ns = wake_ns
            self.gpus[0].at(max(0, wake_ns - self.now_ns), self.coordinate)

    def start_job(
        self,
        name: str,
        steps: Sequence[Step],
        gpus: Sequence[int] = (0, 1),
        *,
        start_ns: Sequence[int] = (),
        collective: bool = True,
        apart: bool = False,
        group: str = "",
    ) -> Job:
        """A job with a rank on each of the GPUs, all with the same steps, whose bursts of work end together; without
        `collective` each is for itself. `start_ns` is when each starts; else at once. With `apart` each rank is in an
        allocation of its own, all of them in `group`, and nothing that a rank does shows that it is tied to the others.
        """
        job = Job(len(gpus))
        for place, index in enumerate(gpus):
            world = self.gpus[index]
            allocation = f"{name}-{place}" if apart else name
            world.groups[allocation] = group
            rank = Rank(world, allocation, 1000 + len(world.programs), steps, job if collective else None)
            rank.gang = rank.gang and not apart
            job.ranks.append(rank)
            world.add(rank, start_ns[place] if start_ns else 0)
        return job


@dataclass
class Job:
    """The ranks of one job. Work that several launch together ends when all have launched theirs."""

    size: int
    ranks: list[Rank] = field(default_factory=list)
    _launched: list[Rank] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return all(rank.done for rank in self.ranks)

    @property
    def connected(self) -> bool:
        """Whether all ranks have come so far that they use the GPU together."""
        return sum(rank.ready for rank in self.ranks) == self.size

    def came(self) -> None:
        """A rank has come so far."""
        if self.connected:
            for rank in self.ranks:
                rank.go_on()

    @property
    def computed_ns(self) -> int:
        return min(rank.computed_ns for rank in self.ranks)

    def kill(self) -> None:
        """All of its processes die."""
        for rank in self.ranks:
            rank.kill()

    def launched(self, rank: Rank) -> None:
        """One rank has launched its part of the work."""
        self._launched.append(rank)
        if len(self._launched) == self.size:
            together, self._launched = self._launched, []
            for one in together:
                one.end_burst_later()


class Rank(Program):
    """A process whose work on the GPU waits for that of the others of its job, as a collective does."""

    def __init__(self, world: SimulatedGpu, name: str, pid: int, steps: Sequence[Step], job: Job | None) -> None:
        super().__init__(world, name, pid, steps, 1_000_000, Swapping())
        self.gang = job is not None
        self.ready = False
        self._job = job

    def go_on(self) -> None:
        """What it waited for has come."""
        self._advance()

    def end_burst_later(self) -> None:
        """The others have launched theirs, too."""
        self._later(BURST_NS, self._burst_ends)

    def _compute(self, duration_ns: int) -> bool:
        if self._job is not None and not self.ready:
            self.ready = True
            self._later(0, self._job.came)
        if self._job is not None and not self._job.connected:
            return False
        return super()._compute(duration_ns)

    def _begin_burst(self) -> None:
        if self._job is None:
            super()._begin_burst()
        else:
            self._job.launched(self)
