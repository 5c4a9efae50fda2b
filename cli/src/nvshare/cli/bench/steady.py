"""Programs of which none has to leave the card, measured when the plan for them is in force: the first seconds are left
out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nvshare.cli.bench.node import BenchNode
from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.result import Row
from nvshare.cli.bench.scenario import Job, gpu_words, run_together
from nvshare.cli.bench.throughput import common_speeds
from nvshare.cli.bench.workload import Answer, Bounds

SETTLE_NS = 3_000_000_000  # until all are known to be busy: a report comes each second
MEMORY_FOR_ALL_BYTES = 32 * 2**30  # four small programs fit


@dataclass(frozen=True)
class Together:
    """Programs that ran at the same time: their answers, and their speeds where all of them ran, both in order."""

    jobs: tuple[Job, ...]
    answers: tuple[Answer, ...]
    speeds: tuple[float, ...]

    def rows(self, node: BenchNode, words: str, solo_speeds: Sequence[float | None]) -> list[Row]:
        """A line for each, named with `words`; None among the `solo_speeds`: nothing to compare it with."""
        return [
            Row(
                name=f"{job.workload.name} {words}",
                gpu=gpu_words(*job.on(node)),
                status=answer.status,
                seconds=answer.seconds,
                iterations_per_second=speed,
                solo_ratio=None if solo_speed is None else speed / solo_speed,
            )
            for job, answer, speed, solo_speed in zip(self.jobs, self.answers, self.speeds, solo_speeds, strict=True)
        ]


def with_room(options: BenchOptions) -> BenchOptions:
    """The options, with memory for all programs of these scenarios: nothing has to move."""
    return replace(options, gpu_memory_bytes=max(options.gpu_memory_bytes, MEMORY_FOR_ALL_BYTES))


def settled_bounds(options: BenchOptions, default_seconds: float) -> Bounds:
    """So long as the options say, beside the time that is left out."""
    return Bounds(seconds=(options.seconds or default_seconds) + SETTLE_NS / 1e9)


async def run_settled(node: BenchNode, options: BenchOptions, jobs: Sequence[Job], *, managed: bool) -> Together:
    """Run programs from a common start to their ends. Raises CommandError when one fails."""
    answers = await run_together(node, options, jobs, managed=managed, wait_for_start=True)
    speeds = common_speeds([answer.progress for answer in answers], SETTLE_NS)
    return Together(tuple(jobs), tuple(answers), tuple(speeds))
