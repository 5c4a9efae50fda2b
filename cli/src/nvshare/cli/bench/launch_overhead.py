"""What the preloaded library adds to the time of one launch, under an open plan."""

import contextlib
import time
from collections.abc import Sequence
from statistics import fmean, median

from nvshare.cli.bench.node import temporary_node
from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.result import Row
from nvshare.cli.bench.scenario import Findings, Scenario, Steps, gpu_words, hardware_words, node_options
from nvshare.cli.bench.timed_launches import build, timed_launches

SECONDS = 10.0
BATCH_LAUNCHES = 50  # shallower than the queues of driver and emulator; most batches hold no mark
WARM_UP_LAUNCHES = 50
UNTRIMMED = 0.99
STEPS = 10


async def run_launch_overhead(options: BenchOptions, steps: Steps) -> Findings:
    """A preloaded C program launches empty kernels, batch by batch in turns through the library and past it.

    `ns_per_launch` is the median of the batches through the library less that of the others, per launch: without the
    marks, which few batches hold. `mean_ns_per_launch` is the same with means, less the slowest hundredth of either:
    with the marks, at their true weight. Both raw medians stand beside them. One process, because two differ by
    hundreds of nanoseconds by chance.
    """
    seconds = options.seconds or SECONDS
    steps.expect(STEPS)
    times_ns: dict[bool, list[float]] = {False: [], True: []}
    async with temporary_node(node_options(options, mode="auto")) as node, contextlib.AsyncExitStack() as stack:
        program = build(node.directory.path)
        environment = await stack.enter_async_context(node.environment("timed-launches", [node.gpus[0]], managed=True))
        log = node.logs / "timed_launches.log"
        instance = await stack.enter_async_context(timed_launches(program, environment, log, emulated=options.emulated))
        await instance.ready()
        started = time.monotonic()
        for step in range(STEPS):
            steps.step(f"batches of {BATCH_LAUNCHES} launches in turns")
            while time.monotonic() - started < seconds * (step + 1) / STEPS:
                first = bool(len(times_ns[True]) % 2)
                for managed in (first, not first):
                    total_ns = await instance.launch_ns(BATCH_LAUNCHES, WARM_UP_LAUNCHES, direct=not managed)
                    times_ns[managed].append(total_ns / BATCH_LAUNCHES)
        rows = tuple(
            Row(
                name="through the library" if managed else "past it",
                gpu=gpu_words(node.gpus[0]),
                status="ok",
                seconds=sum(times_ns[managed]) * BATCH_LAUNCHES / 1e9,
                iterations_per_second=1e9 / median(times_ns[managed]),
                solo_ratio=median(times_ns[False]) / median(times_ns[True]) if managed else None,
            )
            for managed in (False, True)
        )
        summary = {
            "ns_per_launch": median(times_ns[True]) - median(times_ns[False]),
            "mean_ns_per_launch": trimmed_mean(times_ns[True]) - trimmed_mean(times_ns[False]),
            "with_ns": median(times_ns[True]),
            "without_ns": median(times_ns[False]),
            "batches": float(len(times_ns[True])),
        }
        return Findings(hardware_words(node.gpus), rows, summary)


def trimmed_mean(values: Sequence[float]) -> float:
    """The mean without the largest hundredth: what another process on the core took is no cost of a launch."""
    return fmean(sorted(values)[: max(1, int(len(values) * UNTRIMMED))])


LAUNCH_OVERHEAD = Scenario(
    "launch-overhead", "Time that the library adds to a launch under an open plan.", run_launch_overhead
)
