"""Programs that keep the card busy side by side: what they lose together, and whether each gets its share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

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
    run_together,
)
from nvshare.cli.bench.shares import error_points, of_sum, weighted_shares
from nvshare.cli.bench.throughput import common_speeds
from nvshare.cli.bench.workload import SMALL, Bounds, numbered

SECONDS = 10.0
SETTLE_NS = 3_000_000_000  # until all are known to be busy: a report comes each second
MEMORY_FOR_ALL_BYTES = 32 * 2**30  # four small programs fit
# One wait in 54 ms: a slice longer than what a program launches before it waits weighs nothing (decision 0011).
LONG_BURSTS = replace(SMALL, options=("--batch-iterations", "100"))
WEIGHTS = ((100, 100), (100, 200), (100, 400))


@dataclass(frozen=True)
class Together:
    """Programs that ran at the same time: a line for each, and their speeds, in order, where all of them ran."""

    rows: tuple[Row, ...]
    speeds: tuple[float, ...]


async def run_busy(count: int, options: BenchOptions, steps: Steps) -> Findings:
    """One alone without nvshare, `count` at once without it and with it, one alone again.

    `sum_ratio` is the sum of the speeds with nvshare over the solo speed, `unmanaged_sum_ratio` the same without it;
    `fairness_error_points` how far the share of one is from an equal one. The first three seconds are left out.
    """
    steps.expect(4)
    async with temporary_node(node_options(with_room(options), mode="auto")) as node:
        single = Job(SMALL, _bounds(options))
        jobs = [Job(program, _bounds(options)) for program in numbered(SMALL, count)]
        steps.step("one alone, without nvshare")
        before = await run_alone(node, options, single, managed=False)
        steps.step(f"{count} at once, without nvshare")
        unmanaged = await _together(node, options, jobs, before.iterations_per_second, "without", managed=False)
        steps.step(f"{count} at once, with nvshare")
        managed = await _together(node, options, jobs, before.iterations_per_second, "with", managed=True)
        steps.step("one alone again, without nvshare")
        after = await run_alone(node, options, single, managed=False)
        solo_speed = fmean((before.iterations_per_second, after.iterations_per_second))
        gpu = gpu_words(node.gpus[0])
        alone = tuple(
            Row(f"alone, {when}", gpu, answer.status, answer.seconds, answer.iterations_per_second)
            for when, answer in (("before", before), ("after", after))
        )
        summary = {
            "sum_ratio": sum(managed.speeds) / solo_speed,
            "unmanaged_sum_ratio": sum(unmanaged.speeds) / solo_speed,
            "fairness_error_points": error_points(of_sum(managed.speeds), weighted_shares([1] * count)),
        }
        return Findings(hardware_words(node.gpus), (*alone, *unmanaged.rows, *managed.rows), summary)


async def run_weights(options: BenchOptions, steps: Steps) -> Findings:
    """Two that keep the card busy, and wait for their work each 54 ms, with weights 1 : 1, 1 : 2 and 1 : 4.

    `fairness_error_points` is the largest difference between a share and what the weights say; `sum_ratio` the least
    sum of their speeds over the solo speed without nvshare.
    """
    steps.expect(1 + len(WEIGHTS))
    async with temporary_node(node_options(with_room(options), mode="auto")) as node:
        steps.step("one alone, without nvshare")
        solo = await run_alone(node, options, Job(LONG_BURSTS, _bounds(options)), managed=False)
        gpu = gpu_words(node.gpus[0])
        rows = [Row("alone", gpu, solo.status, solo.seconds, solo.iterations_per_second)]
        errors, sums = [], []
        for weights in WEIGHTS:
            words = " : ".join(str(weight) for weight in weights)
            steps.step(f"two with weights {words}")
            programs = zip(numbered(LONG_BURSTS, 2), weights, strict=True)
            jobs = [Job(program, _bounds(options), weight=weight) for program, weight in programs]
            found = await _together(node, options, jobs, solo.iterations_per_second, words, managed=True)
            rows += found.rows
            errors.append(error_points(of_sum(found.speeds), weighted_shares(weights)))
            sums.append(sum(found.speeds) / solo.iterations_per_second)
        summary = {"fairness_error_points": max(errors), "sum_ratio": min(sums)}
        return Findings(hardware_words(node.gpus), tuple(rows), summary)


def with_room(options: BenchOptions) -> BenchOptions:
    """The options, with memory for all programs of these scenarios: nothing has to move."""
    return replace(options, gpu_memory_bytes=max(options.gpu_memory_bytes, MEMORY_FOR_ALL_BYTES))


async def _together(
    node: BenchNode, options: BenchOptions, jobs: Sequence[Job], solo_speed: float, words: str, *, managed: bool
) -> Together:
    answers = await run_together(node, options, jobs, managed=managed, wait_for_start=True)
    speeds = common_speeds([answer.progress for answer in answers], SETTLE_NS)
    rows = tuple(
        Row(
            name=f"{job.workload.name} {words}",
            gpu=gpu_words(*job.on(node)),
            status=answer.status,
            seconds=answer.seconds,
            iterations_per_second=speed,
            solo_ratio=speed / solo_speed,
        )
        for job, answer, speed in zip(jobs, answers, speeds, strict=True)
    )
    return Together(rows, tuple(speeds))


def _bounds(options: BenchOptions) -> Bounds:
    return Bounds(seconds=(options.seconds or SECONDS) + SETTLE_NS / 1e9)


PAIR_SMALL_AUTO = Scenario(
    "pair-small-auto", "Two small programs that keep the card busy, side by side.", partial(run_busy, 2)
)
QUAD_SMALL_AUTO = Scenario("quad-small-auto", "Four of them.", partial(run_busy, 4))
WEIGHTED = Scenario("weights", "Two busy programs with weights 1 : 1, 1 : 2 and 1 : 4.", run_weights)
