"""Compute quotas: programs that could keep the card busy get their percentage of their own solo speed."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from nvshare.cli.bench.kinds_of_work import KINDS_OF_WORK
from nvshare.cli.bench.mps import running_mps
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
)
from nvshare.cli.bench.shares import capped_shares, error_points
from nvshare.cli.bench.steady import SETTLE_NS, Together, run_settled, settled_bounds, with_room
from nvshare.cli.bench.throughput import common_window
from nvshare.cli.bench.turns import longest_slot_wait_ms
from nvshare.cli.bench.workload import Answer, Workload, numbered

SECONDS = 20.0
SOLO_PERCENT = (10, 25, 30, 50, 60, 75, 90)
PAIRS_PERCENT = ((30, 60), (50, 50), (50, 60), (75, 75), (80, 80), (60, 90))


async def run_quota_solo(options: BenchOptions, steps: Steps) -> Findings:
    """A program alone on the card under one cap after the other, between two runs without nvshare; this for each kind
    of work.

    `max_quota_error_points` is the largest difference between its speed over its solo speed and its cap,
    `max_slot_wait_ms` the longest time in which it had work and made no progress. They are over all kinds of work, and
    with a kind's name before them over its runs. With MPS beside, the same caps as a percentage of its threads:
    `mps_max_quota_error_points` and the ratios.
    """
    caps = [(cap_percent,) for cap_percent in options.cores or SOLO_PERCENT]
    return await _run(caps, options, steps)


async def run_quota_pairs(options: BenchOptions, steps: Steps) -> Findings:
    """Two programs, each under a cap; caps that pass 100 % together are scaled in proportion.

    `max_quota_error_points` and `max_slot_wait_ms` as in quota-solo; `sum_ratio` the least sum of two whose caps leave
    nothing idle, over the solo speed.
    """
    return await _run(PAIRS_PERCENT, options, steps)


async def _run(caps_percent: Sequence[tuple[int, ...]], options: BenchOptions, steps: Steps) -> Findings:
    steps.expect((2 + len(caps_percent) * (2 if options.mps else 1)) * len(options.work))
    async with temporary_node(node_options(with_room(options), mode="auto")) as node:
        found = [await _run_kind(node, kind, caps_percent, options, steps) for kind in options.work]
        rows = [row for one in found for row in one.rows(node)]
        return Findings(hardware_words(node.gpus), tuple(rows), quota_summary(found))


async def _run_kind(
    node: BenchNode, kind: str, caps_percent: Sequence[tuple[int, ...]], options: BenchOptions, steps: Steps
) -> "KindFound":
    """One of the kinds: alone, under all caps, alone again."""
    program = KINDS_OF_WORK[kind]
    bounds = settled_bounds(options, SECONDS)
    single = Job(program, bounds)
    steps.step(f"{kind} alone, without nvshare")
    alone = [await run_alone(node, options, single, managed=False)]
    capped: list[Capped] = []
    for caps in caps_percent:
        steps.step(f"{kind} under {_words(caps)}")
        pairs = zip(numbered(program, len(caps)), caps, strict=True)
        jobs = [Job(one, bounds, core_limit_percent=cap) for one, cap in pairs]
        capped.append((caps, await run_settled(node, options, jobs, managed=True)))
    under_mps = await _run_under_mps(node, program, caps_percent, options, steps) if options.mps else []
    steps.step(f"{kind} alone again, without nvshare")
    alone.append(await run_alone(node, options, single, managed=False))
    return KindFound(kind, tuple(alone), tuple(capped), tuple(under_mps))


async def _run_under_mps(
    node: BenchNode, program: Workload, caps_percent: Sequence[tuple[int, ...]], options: BenchOptions, steps: Steps
) -> "list[Capped]":
    """The same programs without nvshare, each with its cap as what MPS lets it use of the card at the same time."""
    capped: list[Capped] = []
    bounds = settled_bounds(options, SECONDS)
    async with running_mps(node.gpus, node.logs) as mps:
        for caps in caps_percent:
            steps.step(f"{program.name} under {_words(caps)}, MPS")
            pairs = zip(numbered(program, len(caps)), caps, strict=True)
            jobs = [mps.of(Job(one, bounds), cap) for one, cap in pairs]
            capped.append((caps, await run_settled(node, options, jobs, managed=False)))
    return capped


Capped = tuple[tuple[int, ...], Together]
"""The caps of programs, and their run under them."""


@dataclass(frozen=True)
class KindFound:
    """The runs of programs of one kind of work: alone without nvshare, and together under caps; and these under MPS."""

    kind: str
    alone: tuple[Answer, ...]
    capped: tuple[Capped, ...]
    under_mps: tuple[Capped, ...] = ()

    @property
    def solo_speed(self) -> float:
        """Iterations per second of one alone."""
        return fmean(answer.iterations_per_second for answer in self.alone)

    def ratios(self, runs: Sequence[Capped]) -> list[tuple[tuple[int, ...], list[float]]]:
        """The caps of each of these runs, and the speeds under them over the solo speed."""
        return [(caps, [speed / self.solo_speed for speed in together.speeds]) for caps, together in runs]

    def error_points(self, runs: Sequence[Capped]) -> float:
        """The largest difference between a speed over the solo speed and its cap."""
        return max(error_points(ratios, capped_shares(caps)) for caps, ratios in self.ratios(runs))

    def longest_wait_ms(self) -> float:
        """The longest wait of a program while all of its run did."""
        waits_ms = []
        for _, together in self.capped:
            runs = [answer.progress for answer in together.answers]
            window = common_window(runs, SETTLE_NS)
            waits_ms += [longest_slot_wait_ms(progress, window, self.solo_speed) for progress in runs]
        return max(waits_ms)

    def rows(self, node: BenchNode) -> list[Row]:
        """A line for each program of each run."""
        gpu = gpu_words(node.gpus[0])
        rows = [
            Row(f"{self.kind} alone", gpu, one.status, one.seconds, one.iterations_per_second) for one in self.alone
        ]
        for caps, together in self.capped:
            rows += together.rows(node, f"under {_words(caps)}", [self.solo_speed] * len(caps))
        for caps, together in self.under_mps:
            rows += together.rows(node, f"under {_words(caps)} MPS", [self.solo_speed] * len(caps))
        return rows


def quota_summary(found: Sequence[KindFound]) -> dict[str, float]:
    """The worst figures of all kinds of work, then those of each."""
    summary = {
        "max_quota_error_points": max(one.error_points(one.capped) for one in found),
        "max_slot_wait_ms": max(one.longest_wait_ms() for one in found),
    }
    whole = [sum(ratios) for one in found for caps, ratios in one.ratios(one.capped) if sum(caps) >= 100]
    if whole:
        summary["sum_ratio"] = min(whole)
    for one in found:
        summary[f"{one.kind}_max_quota_error_points"] = one.error_points(one.capped)
        summary[f"{one.kind}_max_slot_wait_ms"] = one.longest_wait_ms()
        summary |= _ratio_figures(one, one.capped, one.kind)
    beside = [one for one in found if one.under_mps]
    if beside:
        summary["mps_max_quota_error_points"] = max(one.error_points(one.under_mps) for one in beside)
    for one in beside:
        summary[f"mps_{one.kind}_max_quota_error_points"] = one.error_points(one.under_mps)
        summary |= _ratio_figures(one, one.under_mps, f"mps_{one.kind}")
    return summary


def _ratio_figures(found: KindFound, runs: Sequence[Capped], prefix: str) -> dict[str, float]:
    return {
        "_".join((prefix, *map(str, caps), "ratio", str(place))): ratio
        for caps, ratios in found.ratios(runs)
        for place, ratio in enumerate(ratios, 1)
    }


def _words(caps: Sequence[int]) -> str:
    return " + ".join(f"{cap} %" for cap in caps)


QUOTA_SOLO = Scenario(
    "quota-solo", "One program under one compute quota after the other (--cores).", run_quota_solo, mps=True
)
QUOTA_PAIRS = Scenario("quota-pairs", "Two programs, each under a compute quota.", run_quota_pairs, mps=True)
