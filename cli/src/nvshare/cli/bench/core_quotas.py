"""Compute quotas: programs that could keep the card busy get their percentage of their own solo speed."""

from collections.abc import Sequence
from dataclasses import replace
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
from nvshare.cli.bench.steady import SETTLE_NS, Together, run_settled, settled_bounds, with_room
from nvshare.cli.bench.throughput import common_window
from nvshare.cli.bench.turns import longest_slot_wait_ms
from nvshare.cli.bench.workload import SMALL, numbered

BUSY = replace(SMALL, options=("--progress-ms", "0"))  # a point after each batch of 11 ms: a wait is seen
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
    solo speed; `max_slot_wait_ms` the longest time in which one with work made no progress.
    """
    return await _run(PAIRS_PERCENT, options, steps)


async def _run(caps_percent: Sequence[tuple[int, ...]], options: BenchOptions, steps: Steps) -> Findings:
    steps.expect(2 + len(caps_percent))
    rows: list[Row] = []
    found: list[tuple[tuple[int, ...], Together]] = []
    bounds = settled_bounds(options, SECONDS)
    single = Job(BUSY, bounds)
    async with temporary_node(node_options(with_room(options), mode="auto")) as node:
        gpu = gpu_words(node.gpus[0])
        steps.step("alone, without nvshare")
        alone = [await run_alone(node, options, single, managed=False)]
        for caps in caps_percent:
            words = " + ".join(f"{cap} %" for cap in caps)
            steps.step(f"under {words}")
            programs = zip(numbered(BUSY, len(caps)), caps, strict=True)
            jobs = [Job(program, bounds, core_limit_percent=cap) for program, cap in programs]
            together = await run_settled(node, options, jobs, managed=True)
            rows += together.rows(node, f"under {words}", [None] * len(jobs))
            found.append((caps, together))
        steps.step("alone again, without nvshare")
        alone.append(await run_alone(node, options, single, managed=False))
        solo_speed = fmean(answer.iterations_per_second for answer in alone)
        rows += [Row("alone", gpu, one.status, one.seconds, one.iterations_per_second) for one in alone]
        ratios = [(caps, [speed / solo_speed for speed in together.speeds]) for caps, together in found]
        summary = {
            "max_quota_error_points": max(error_points(got, capped_shares(caps)) for caps, got in ratios),
            "max_slot_wait_ms": max(_longest_wait_ms(together, solo_speed) for _, together in found),
        }
        whole = [sum(got) for caps, got in ratios if sum(caps) >= 100]
        if whole:
            summary["sum_ratio"] = min(whole)
        for caps, got in ratios:
            summary |= {f"{'_'.join(map(str, caps))}_ratio_{place}": one for place, one in enumerate(got, 1)}
        return Findings(hardware_words(node.gpus), tuple(rows), summary)


def _longest_wait_ms(together: Together, solo_speed: float) -> float:
    """The longest wait of any of them while all ran."""
    runs = [answer.progress for answer in together.answers]
    window = common_window(runs, SETTLE_NS)
    return max(longest_slot_wait_ms(progress, window, solo_speed) for progress in runs)


QUOTA_SOLO = Scenario("quota-solo", "One program under one compute quota after the other (--cores).", run_quota_solo)
QUOTA_PAIRS = Scenario("quota-pairs", "Two programs, each under a compute quota.", run_quota_pairs)
