"""Programs that need more memory together than the card has: a node for them, and runs of them from a common start.

An emulated card has eight times its logical capacity, about as an H200 of which 16 GiB are shared. Its data, and the
host memory that it is moved to, are mostly holes: sizes and times are those of the real card, also on a small host.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from nvshare.cli.bench.node import BenchNode, temporary_node
from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.scenario import Job, node_options, started
from nvshare.cli.bench.timeline import Timeline
from nvshare.cli.bench.watch import GpuObservation, Observation, Watch, watching
from nvshare.cli.bench.workload import Answer
from nvshare.cli.errors import CommandError

CARD_OVER_CAPACITY = 8
GRACE_SECONDS = 120.0


@contextlib.asynccontextmanager
async def oversubscribed_node(options: BenchOptions, *, mode: str = "auto", gpus: int = 1) -> AsyncIterator[BenchNode]:
    """A node whose GPUs each share `options.gpu_memory_bytes`."""
    asked = node_options(options, mode=mode, gpus=gpus)
    if not options.emulated:
        async with temporary_node(asked) as node:
            yield node
        return
    card = replace(asked, gpu_memory_bytes=CARD_OVER_CAPACITY * options.gpu_memory_bytes)
    async with temporary_node(card, {"NVSHARE_GPU_MEMORY": str(options.gpu_memory_bytes)}) as node:
        yield node


@dataclass(frozen=True)
class SharedRun:
    """Programs that ran at the same time, and what was seen of them. `start_ns` is their common start."""

    start_ns: int
    answers: tuple[Answer, ...]
    allocations: tuple[str, ...]
    names: tuple[str, ...]
    timeline: Timeline
    watch: Watch

    @property
    def gpu(self) -> GpuObservation:
        """What the scheduler counted for the first GPU."""
        return self.watch.first_gpu

    def observed(self, name: str) -> Observation:
        """What was seen of one program."""
        return self.watch.observations.get(name, Observation())

    def seconds(self, answer: Answer) -> float:
        """From the common start until its results were checked."""
        return (answer.finished_ns - self.start_ns) / 1e9

    @property
    def total_seconds(self) -> float:
        """From the common start to the last one's end."""
        return max(self.seconds(answer) for answer in self.answers)


async def run_from_start(
    node: BenchNode, options: BenchOptions, jobs: Sequence[Job], *, managed: bool, limit_seconds: float
) -> SharedRun:
    """Run programs that all have the card in use, but no memory on it, when they start together.

    Raises CommandError when one fails, or when they are not done `limit_seconds` after the start.
    """
    async with contextlib.AsyncExitStack() as stack:
        timeline = await stack.enter_async_context(Timeline.of(node.directory))
        watch = await stack.enter_async_context(watching(node.directory))
        programs = await stack.enter_async_context(
            started(node, options, jobs, managed=managed, wait="--wait-for-memory")
        )
        start_ns = time.monotonic_ns()
        try:
            async with asyncio.timeout(limit_seconds):
                answers = await asyncio.gather(*(program.answer() for program in programs))
        except TimeoutError:
            raise CommandError(f"the programs are not done after {limit_seconds:.0f} s") from None
    return SharedRun(
        start_ns,
        tuple(answers),
        tuple(program.allocation for program in programs),
        tuple(program.name for program in programs),
        timeline,
        watch,
    )
