"""Programs that keep the card busy side by side: what they lose together, and whether each gets its share."""

from dataclasses import replace
from functools import partial
from statistics import fmean

from nvshare.cli.bench.node import temporary_node
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
)
from nvshare.cli.bench.shares import error_points, of_sum, weighted_shares
from nvshare.cli.bench.steady import run_settled, settled_bounds, with_room
from nvshare.cli.bench.workload import SMALL, numbered

SECONDS = 10.0
# One wait in 54 ms: a slice longer than what a program launches before it waits weighs nothing (decision 0011).
LONG_BURSTS = replace(SMALL, options=("--batch-iterations", "100"))
WEIGHTS = ((100, 100), (100, 200), (100, 400))


async def run_busy(count: int, options: BenchOptions, steps: Steps) -> Findings:
    """One alone without nvshare, `count` at once without it and with it, one alone again.

    `sum_ratio` is the sum of the speeds with nvshare over the solo speed, `unmanaged_sum_ratio` the same without it;
    `fairness_error_points` how far the share of one is from an equal one. The first three seconds are left out.
    """
    steps.expect(4)
    bounds = settled_bounds(options, SECONDS)
    async with temporary_node(node_options(with_room(options), mode="auto")) as node:
        single = Job(SMALL, bounds)
        jobs = [Job(program, bounds) for program in numbered(SMALL, count)]
        steps.step("one alone, without nvshare")
        before = await run_alone(node, options, single, managed=False)
        steps.step(f"{count} at once, without nvshare")
        unmanaged = await run_settled(node, options, jobs, managed=False)
        steps.step(f"{count} at once, with nvshare")
        managed = await run_settled(node, options, jobs, managed=True)
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
        solos = [before.iterations_per_second] * count
        rows = (*alone, *unmanaged.rows(node, "without", solos), *managed.rows(node, "with", solos))
        return Findings(hardware_words(node.gpus), rows, summary)


async def run_weights(options: BenchOptions, steps: Steps) -> Findings:
    """Two that keep the card busy, and wait for their work each 54 ms, with weights 1 : 1, 1 : 2 and 1 : 4.

    `fairness_error_points` is the largest difference between a share and what the weights say; `sum_ratio` the least
    sum of their speeds over the solo speed without nvshare.
    """
    steps.expect(1 + len(WEIGHTS))
    bounds = settled_bounds(options, SECONDS)
    async with temporary_node(node_options(with_room(options), mode="auto")) as node:
        steps.step("one alone, without nvshare")
        solo = await run_alone(node, options, Job(LONG_BURSTS, bounds), managed=False)
        gpu = gpu_words(node.gpus[0])
        rows = [Row("alone", gpu, solo.status, solo.seconds, solo.iterations_per_second)]
        errors, sums = [], []
        for weights in WEIGHTS:
            words = " : ".join(str(weight) for weight in weights)
            steps.step(f"two with weights {words}")
            programs = zip(numbered(LONG_BURSTS, 2), weights, strict=True)
            jobs = [Job(program, bounds, weight=weight) for program, weight in programs]
            found = await run_settled(node, options, jobs, managed=True)
            rows += found.rows(node, words, [solo.iterations_per_second] * len(jobs))
            errors.append(error_points(of_sum(found.speeds), weighted_shares(weights)))
            sums.append(sum(found.speeds) / solo.iterations_per_second)
        summary = {"fairness_error_points": max(errors), "sum_ratio": min(sums)}
        return Findings(hardware_words(node.gpus), tuple(rows), summary)


PAIR_SMALL_AUTO = Scenario(
    "pair-small-auto", "Two small programs that keep the card busy, side by side.", partial(run_busy, 2)
)
QUAD_SMALL_AUTO = Scenario("quad-small-auto", "Four of them.", partial(run_busy, 4))
WEIGHTED = Scenario("weights", "Two busy programs with weights 1 : 1, 1 : 2 and 1 : 4.", run_weights)
