"""Compute quotas on two GPUs at once: each card is shared by its own two programs and knows nothing of the other."""

from collections.abc import Sequence
from statistics import fmean

from nvshare.cli.bench.mps import running_mps
from nvshare.cli.bench.node import temporary_node
from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.scenario import Findings, Job, Scenario, Steps, hardware_words, need_two_gpus, node_options
from nvshare.cli.bench.shares import error_points
from nvshare.cli.bench.steady import Together, run_settled, settled_bounds, with_room
from nvshare.cli.bench.workload import SMALL, named, numbered

SECONDS = 20.0
CAPS = ((0, 30), (0, 60), (1, 30), (1, 60))
"""For each program the position of its GPU in the node's list, and its cap in percent."""


async def run_quota_two_gpus(options: BenchOptions, steps: Steps) -> Findings:
    """Two programs under 30 and 60 % on each of two cards, all four at once, between two runs of one program alone on
    each card without nvshare.

    `max_quota_error_points` is the largest difference between a program's speed over the solo speed of its card and its
    cap. With MPS beside, the same with the caps as percentages of its threads: `mps_max_quota_error_points` and the
    ratios.
    """
    steps.expect(4 if options.mps else 3)
    bounds = settled_bounds(options, SECONDS)
    async with temporary_node(node_options(with_room(options), mode="auto", gpus=2)) as node:
        need_two_gpus(node, "quota-two-gpus")
        singles = [Job(named(SMALL, f"gpu-{card}"), bounds, gpus=(card,)) for card in (0, 1)]
        steps.step("one alone on each card, without nvshare")
        before = await run_settled(node, options, singles, managed=False)
        programs = zip(numbered(SMALL, len(CAPS)), CAPS, strict=True)
        jobs = [Job(program, bounds, gpus=(card,), core_limit_percent=cap) for program, (card, cap) in programs]
        steps.step("two under 30 % and 60 % on each card")
        capped = await run_settled(node, options, jobs, managed=True)
        under_mps: Together | None = None
        if options.mps:
            steps.step("the same without nvshare, under MPS")
            async with running_mps(node.gpus, node.logs) as mps:
                clients = [mps.of(job, job.core_limit_percent) for job in jobs]
                under_mps = await run_settled(node, options, clients, managed=False)
        steps.step("one alone on each card again, without nvshare")
        after = await run_settled(node, options, singles, managed=False)
        solo_speeds = [fmean(speeds) for speeds in zip(before.speeds, after.speeds, strict=True)]
        solos = [solo_speeds[card] for card, _ in CAPS]
        summary = _figures(capped, solos)
        rows = [*before.rows(node, "alone, before", [None, None]), *capped.rows(node, "capped", solos)]
        if under_mps is not None:
            summary |= {f"mps_{name}": figure for name, figure in _figures(under_mps, solos).items()}
            rows += under_mps.rows(node, "capped MPS", solos)
        rows += after.rows(node, "alone, after", [None, None])
        return Findings(hardware_words(node.gpus), tuple(rows), summary)


def _figures(capped: Together, solo_speeds: Sequence[float]) -> dict[str, float]:
    ratios = [speed / solo for speed, solo in zip(capped.speeds, solo_speeds, strict=True)]
    figures = {"max_quota_error_points": error_points(ratios, [cap / 100 for _, cap in CAPS])}
    for number, ((card, cap), ratio) in enumerate(zip(CAPS, ratios, strict=True), 1):
        figures[f"program_{number}_gpu_{card}_{cap}_ratio"] = ratio
    return figures


QUOTA_TWO_GPUS = Scenario(
    "quota-two-gpus", "Two programs under 30 % and 60 % on each of two GPUs, all at once.", run_quota_two_gpus, mps=True
)
