"""What the preloaded library adds to the time of one launch, under an open plan."""

import asyncio
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
from nvshare.cli.errors import CommandError
from nvshare.cli.node_query import fetch_status

SECONDS = 10.0
BATCH_LAUNCHES = 50  # shallower than the queues of driver and emulator; most batches hold no mark
WARM_UP_LAUNCHES = 50
UNTRIMMED = 0.99
INSTANCES = 5
PAUSE_SECONDS = 0.002  # under a core limit, after each pair of batches: so they take a fifth of the card's time at most
REPORT_SECONDS, REPORT_TRIES = 10.0, 100


@dataclass(frozen=True)
class Instance:
    """One process: nanoseconds of a launch, batch by batch, through the library (True) and past it (False); and for how
    long the library kept its gate closed meanwhile."""

    times_ns: Mapping[bool, Sequence[float]]
    gate_wait_us: int = 0

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

    With `--cores` as many processes more are under that limit (the largest, of several): `capped_ns_per_launch` is what
    a quota costs that is there and not used up. `capped_gate_wait_ms` says that it was not: 0.
    """
    seconds = options.seconds or SECONDS
    limits_percent = (0, max(options.cores)) if options.cores else (0,)
    steps.expect(INSTANCES * len(limits_percent))
    found: dict[int, list[Instance]] = {}
    async with temporary_node(node_options(options, mode="auto")) as node:
        program = build(node.directory.path)
        for limit_percent in limits_percent:
            for number in range(1, INSTANCES + 1):
                steps.step(f"process {number}{_words(limit_percent)}: batches of {BATCH_LAUNCHES} launches in turns")
                instance = await _time_instance(node, program, options, seconds / INSTANCES, limit_percent)
                found.setdefault(limit_percent, []).append(instance)
        rows = tuple(
            row
            for limit_percent, instances in found.items()
            for number, instance in enumerate(instances, 1)
            for row in _rows(f"process {number}{_words(limit_percent)}", gpu_words(node.gpus[0]), instance)
        )
        capped = found[limits_percent[-1]] if options.cores else ()
        return Findings(hardware_words(node.gpus), rows, _summary(found[0], capped))


def _summary(instances: Sequence[Instance], capped: Sequence[Instance]) -> dict[str, float]:
    """The figures of the processes under an open plan, and of those under a core limit besides."""
    added_ns = [instance.added_ns for instance in instances]
    summary = {
        "ns_per_launch": median(added_ns),
        "mean_ns_per_launch": median(instance.added_mean_ns for instance in instances),
        "least_ns_per_launch": min(added_ns),
        "most_ns_per_launch": max(added_ns),
        "without_ns": median(median(instance.times_ns[False]) for instance in instances),
        "batches": float(sum(len(instance.times_ns[True]) for instance in instances)),
    }
    if capped:
        summary["capped_ns_per_launch"] = median(instance.added_ns for instance in capped)
        summary["capped_mean_ns_per_launch"] = median(instance.added_mean_ns for instance in capped)
        summary["capped_gate_wait_ms"] = sum(instance.gate_wait_us for instance in capped) / 1000
    return summary


def _words(limit_percent: int) -> str:
    return f" under {limit_percent} %" if limit_percent else ""


def _rows(name: str, gpu: str, instance: Instance) -> list[Row]:
    return [
        Row(
            name=f"{name}, {'through the library' if managed else 'past it'}",
            gpu=gpu,
            status="ok",
            seconds=sum(instance.times_ns[managed]) * BATCH_LAUNCHES / 1e9,
            iterations_per_second=1e9 / median(instance.times_ns[managed]),
            solo_ratio=median(instance.times_ns[False]) / median(instance.times_ns[True]) if managed else None,
        )
        for managed in (False, True)
    ]


async def _time_instance(
    node: BenchNode, program: Path, options: BenchOptions, seconds: float, limit_percent: int
) -> Instance:
    times_ns: dict[bool, list[float]] = {False: [], True: []}
    log = node.logs / "timed_launches.log"
    gpus = [node.gpus[0]]
    async with (
        node.environment("timed-launches", gpus, managed=True, core_limit_percent=limit_percent) as environment,
        timed_launches(program, environment, log, emulated=options.emulated) as instance,
    ):
        await instance.ready()
        waited_us = await _gate_wait_us(node, instance.pid) if limit_percent else 0
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            first = bool(len(times_ns[True]) % 2)
            for managed in (first, not first):
                total_ns = await instance.launch_ns(BATCH_LAUNCHES, WARM_UP_LAUNCHES, direct=not managed)
                times_ns[managed].append(total_ns / BATCH_LAUNCHES)
            if limit_percent:
                await asyncio.sleep(PAUSE_SECONDS)
        waited_us = await _gate_wait_us(node, instance.pid) - waited_us if limit_percent else 0
    return Instance(times_ns, waited_us)


async def _gate_wait_us(node: BenchNode, pid: int) -> int:
    """For how long the program's launches have waited at the gate, as it last reported; the first one's wait for a plan
    is among them. Raises CommandError when no launch is reported in time."""
    for _ in range(REPORT_TRIES):
        status = await fetch_status(node.directory)
        for client in (client for gpu in status.gpus for client in gpu.clients if client.pid == pid):
            if client.launches > 0:
                return client.gate_wait_us
        await asyncio.sleep(REPORT_SECONDS / REPORT_TRIES)
    raise CommandError(f"no launch of timed_launches was reported within {REPORT_SECONDS:g} s")


def trimmed_mean(values: Sequence[float]) -> float:
    """The mean without the largest hundredth: what another process on the core took is no cost of a launch."""
    return fmean(sorted(values)[: max(1, int(len(values) * UNTRIMMED))])


LAUNCH_OVERHEAD = Scenario(
    "launch-overhead", "Time that the library adds to a launch under an open plan.", run_launch_overhead
)
