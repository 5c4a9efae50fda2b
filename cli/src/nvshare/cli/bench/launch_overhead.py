"""What the preloaded library adds to the time of one launch, under an open plan."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from nvshare.cli.bench.node import BenchNode, temporary_node
from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.result import Row
from nvshare.cli.bench.scenario import Findings, Scenario, Steps, gpu_words, hardware_words, node_options
from nvshare.cli.bench.timed_launches import build, timed_launches

SECONDS = 10.0
BATCH_LAUNCHES = 50  # shallower than the queues of driver and emulator; most batches hold no mark
WARM_UP_LAUNCHES = 50
UNTRIMMED = 0.99
INSTANCES = 5


@dataclass(frozen=True)
class Instance:
    """One process: nanoseconds of a launch, batch by batch, through the library (True) and past it (False)."""

    times_ns: Mapping[bool, Sequence[float]]

    @property
    def added_ns(self) -> float:
        """Difference of the medians: without the marks, which few batches hold."""
        return median(self.times_ns[True]) - median(self.times_ns[False])

    @property
    def added_mean_ns(self) -> float:
        """Difference of the means: with the marks, at their true weight."""
        return trimmed_mean(self.times_ns[True]) - trimmed_mean(self.times_ns[False])


async def run_launch_overhead(options: BenchOptions, steps: Steps) -> Findings:
    """A preloaded C program launches empty kernels, batch by batch in turns through the library and past it; then
    another process of it, and so on.

    Both ways are timed in one process, because two differ by hundreds of nanoseconds by chance; several processes,
    because where one's memory happens to lie makes a difference of tens. `ns_per_launch` and `mean_ns_per_launch` are
    the medians over the processes of what the library added without and with its marks; the least and the most stand
    beside them.
    """
    seconds = options.seconds or SECONDS
    steps.expect(INSTANCES)
    instances: list[Instance] = []
    async with temporary_node(node_options(options, mode="auto")) as node:
        program = build(node.directory.path)
        for number in range(1, INSTANCES + 1):
            steps.step(f"process {number}: batches of {BATCH_LAUNCHES} launches in turns")
            instances.append(await _time_instance(node, program, options, seconds / INSTANCES))
        rows = tuple(
            Row(
                name=f"process {number}, {'through the library' if managed else 'past it'}",
                gpu=gpu_words(node.gpus[0]),
                status="ok",
                seconds=sum(instance.times_ns[managed]) * BATCH_LAUNCHES / 1e9,
                iterations_per_second=1e9 / median(instance.times_ns[managed]),
                solo_ratio=median(instance.times_ns[False]) / median(instance.times_ns[True]) if managed else None,
            )
            for number, instance in enumerate(instances, 1)
            for managed in (False, True)
        )
        added_ns = [instance.added_ns for instance in instances]
        summary = {
            "ns_per_launch": median(added_ns),
            "mean_ns_per_launch": median(instance.added_mean_ns for instance in instances),
            "least_ns_per_launch": min(added_ns),
            "most_ns_per_launch": max(added_ns),
            "without_ns": median(median(instance.times_ns[False]) for instance in instances),
            "batches": float(sum(len(instance.times_ns[True]) for instance in instances)),
        }
        return Findings(hardware_words(node.gpus), rows, summary)


async def _time_instance(node: BenchNode, program: Path, options: BenchOptions, seconds: float) -> Instance:
    times_ns: dict[bool, list[float]] = {False: [], True: []}
    log = node.logs / "timed_launches.log"
    async with (
        node.environment("timed-launches", [node.gpus[0]], managed=True) as environment,
        timed_launches(program, environment, log, emulated=options.emulated) as instance,
    ):
        await instance.ready()
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            first = bool(len(times_ns[True]) % 2)
            for managed in (first, not first):
                total_ns = await instance.launch_ns(BATCH_LAUNCHES, WARM_UP_LAUNCHES, direct=not managed)
                times_ns[managed].append(total_ns / BATCH_LAUNCHES)
    return Instance(times_ns)


def trimmed_mean(values: Sequence[float]) -> float:
    """The mean without the largest hundredth: what another process on the core took is no cost of a launch."""
    return fmean(sorted(values)[: max(1, int(len(values) * UNTRIMMED))])


LAUNCH_OVERHEAD = Scenario(
    "launch-overhead", "Time that the library adds to a launch under an open plan.", run_launch_overhead
)
