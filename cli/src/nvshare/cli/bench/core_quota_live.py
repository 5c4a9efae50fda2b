"""A compute quota that changes while its program runs: how soon the program follows, and how exactly."""

import asyncio
import time
from dataclasses import replace
from statistics import fmean

from nvshare.cli.bench.cap_changes import CappedRun, Phase, phases
from nvshare.cli.bench.node import BenchNode, temporary_node
from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.result import Row
from nvshare.cli.bench.scenario import (
    Findings,
    Job,
    Scenario,
    Steps,
    gpu_words,
    hardware_words,
    node_options,
    run_alone,
    started,
)
from nvshare.cli.bench.steady import SETTLE_NS
from nvshare.cli.bench.workload import SMALL, Answer, Bounds
from nvshare.cli.quota import Quota, set_quota

SECONDS = 40.0
CAPS_PERCENT = (60, 30, 90, 60)
# A point of progress each 2 ms: what lies between two points is 2 % of a period.
FINE = replace(SMALL, options=("--batch-iterations", "4", "--progress-ms", "0"))


async def run_quota_live(options: BenchOptions, steps: Steps) -> Findings:
    """A busy program whose cap goes from 60 to 30, 90 and 60 %, between two runs without nvshare.

    `effect_seconds` is the longest time from a request until the speed over a period of 100 ms is within 10 points of
    the new cap, `settled_seconds` until the speed over any 2 s from then on is within 1 point and a batch;
    `max_quota_error_points` the largest difference in the second half of the time under each cap.
    """
    steps.expect(2 + len(CAPS_PERCENT))
    phase_seconds = (options.seconds or SECONDS) / len(CAPS_PERCENT)
    whole = Bounds(seconds=SETTLE_NS / 1e9 + len(CAPS_PERCENT) * phase_seconds)
    single = Job(FINE, Bounds(seconds=2 * phase_seconds))
    async with temporary_node(node_options(options, mode="auto")) as node:
        gpu = gpu_words(node.gpus[0])
        steps.step("alone, without nvshare")
        alone = [await run_alone(node, options, single, managed=False)]
        capped = Job(FINE, whole, core_limit_percent=CAPS_PERCENT[0])
        answer, found = await _run_with_changes(node, options, capped, phase_seconds, steps)
        steps.step("alone again, without nvshare")
        alone.append(await run_alone(node, options, single, managed=False))
    solo_speed = fmean(one.iterations_per_second for one in alone)
    run = CappedRun(answer.progress, solo_speed)
    changed = found[1:]  # the first cap was there from the start
    summary = {
        "effect_seconds": max(run.effect_seconds(phase) for phase in changed),
        "settled_seconds": max(run.settled_seconds(phase) for phase in changed),
        "max_quota_error_points": max(run.settled_error_points(phase) for phase in found),
    }
    rows = [Row("alone", gpu, one.status, one.seconds, one.iterations_per_second) for one in alone]
    for phase in found:
        ratio = run.ratio(phase.settled_ns, phase.ended_ns)
        name = f"under {phase.cap_percent} %, second half"
        rows.append(Row(name, gpu, answer.status, phase.seconds / 2, ratio * solo_speed, solo_ratio=ratio))
    return Findings(hardware_words(node.gpus), tuple(rows), summary)


async def _run_with_changes(
    node: BenchNode, options: BenchOptions, job: Job, phase_seconds: float, steps: Steps
) -> tuple[Answer, list[Phase]]:
    """Run a program through all caps, each for so long; what it said, and when which cap was asked for."""
    async with started(node, options, [job], managed=True, wait="--wait-for-start") as (program,):
        steps.step(f"under {CAPS_PERCENT[0]} %")
        first_ns = time.monotonic_ns() + SETTLE_NS
        changes = [(CAPS_PERCENT[0], first_ns)]
        for number, cap_percent in enumerate(CAPS_PERCENT[1:], 1):
            due_ns = first_ns + round(number * phase_seconds * 1e9)
            await asyncio.sleep((due_ns - time.monotonic_ns()) / 1e9)
            steps.step(f"under {cap_percent} %")
            changes.append((cap_percent, time.monotonic_ns()))
            await set_quota(node.directory, program.allocation, Quota(core_limit_percent=cap_percent))
        answer = await program.answer()
    return answer, phases(changes, answer.ended_ns)


QUOTA_LIVE = Scenario("quota-live", "A busy program whose compute quota changes while it runs.", run_quota_live)
