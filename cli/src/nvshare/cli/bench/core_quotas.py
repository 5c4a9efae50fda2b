"""Compute quotas: programs that could keep the card busy get their percentage of their own solo speed."""

from collections.abc import Sequence
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
from nvshare.cli.bench.shares import capped_shares, error_points
from nvshare.cli.bench.steady import run_settled, settled_bounds, with_room
from nvshare.cli.bench.workload import SMALL, numbered

SECONDS = 20.0
SOLO_PERCENT = (10, 25, 30, 50, 60, 75, 90)
PAIRS_PERCENT = ((30, 60), (50, 50), (50, 60), (75, 75), (80, 80), (60, 90))


async def run_quota_solo(options: BenchOptions, steps: Steps) -> Findings:
    """A program alone on the card under one cap after the other, between two runs without nvshare.

    `max_quota_error_points` is the largest difference between its speed over its solo speed and its cap.
    """
    caps = [(cap_percent,) for cap_percent in options.cores or SOLO_PERCENT]
    return await _run(caps, options, steps)


async def run_quota_pairs(options: BenchOptions, steps: Steps) -> Findings:
    """Two programs, each under a cap; caps that pass 100 % together are scaled in proportion.

    `max_quota_error_points` as in quota-solo; `sum_ratio` the least sum of two whose caps leave nothing idle, over the
    solo speed.
    """
    return await _run(PAIRS_PERCENT, options, steps)


async def _run(caps_percent: Sequence[tuple[int, ...]], options: BenchOptions, steps: Steps) -> Findings:
    steps.expect(2 + len(caps_percent))
    rows: list[Row] = []
    found: list[tuple[tuple[int, ...], tuple[float, ...]]] = []
    bounds = settled_bounds(options, SECONDS)
    single = Job(SMALL, bounds)
    async with temporary_node(node_options(with_room(options), mode="auto")) as node:
        gpu = gpu_words(node.gpus[0])
        steps.step("alone, without nvshare")
        alone = [await run_alone(node, options, single, managed=False)]
        for caps in caps_percent:
            words = " + ".join(f"{cap} %" for cap in caps)
            steps.step(f"under {words}")
            programs = zip(numbered(SMALL, len(caps)), caps, strict=True)
            jobs = [Job(program, bounds, core_limit_percent=cap) for program, cap in programs]
            together = await run_settled(node, options, jobs, managed=True)
            rows += together.rows(node, f"under {words}", [None] * len(jobs))
            found.append((caps, together.speeds))
        steps.step("alone again, without nvshare")
        alone.append(await run_alone(node, options, single, managed=False))
        solo_speed = fmean(answer.iterations_per_second for answer in alone)
        rows += [Row("alone", gpu, one.status, one.seconds, one.iterations_per_second) for one in alone]
        ratios = [(caps, [speed / solo_speed for speed in speeds]) for caps, speeds in found]
        summary = {"max_quota_error_points": max(error_points(got, capped_shares(caps)) for caps, got in ratios)}
        whole = [sum(got) for caps, got in ratios if sum(caps) >= 100]
        if whole:
            summary["sum_ratio"] = min(whole)
        for caps, got in ratios:
            summary |= {f"{'_'.join(map(str, caps))}_ratio_{place}": one for place, one in enumerate(got, 1)}
        return Findings(hardware_words(node.gpus), tuple(rows), summary)


QUOTA_SOLO = Scenario("quota-solo", "One program under one compute quota after the other (--cores).", run_quota_solo)
QUOTA_PAIRS = Scenario("quota-pairs", "Two programs, each under a compute quota.", run_quota_pairs)
