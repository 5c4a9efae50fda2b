"""A program alone on the card, with and without nvshare in turns: what the layer itself costs."""

from functools import partial
from statistics import median

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
from nvshare.cli.bench.workload import LARGE, SMALL, Answer, Bounds, Workload

SECONDS = 5.0


async def run_solo(workload: Workload, options: BenchOptions, steps: Steps) -> Findings:
    """Pairs of runs, each first in every other pair; `solo_ratio` is the median of the pairs' ratios of speed."""
    job = Job(workload, Bounds(seconds=options.seconds or SECONDS))
    steps.expect(2 * options.pairs)
    rows: list[Row] = []
    ratios: list[float] = []
    async with temporary_node(node_options(options, mode="auto")) as node:
        for pair in range(1, options.pairs + 1):
            answers: dict[bool, Answer] = {}
            for managed in (False, True) if pair % 2 else (True, False):
                steps.step(f"pair {pair}: {workload.name} {'with' if managed else 'without'} nvshare")
                answers[managed] = await run_alone(node, options, job, managed=managed)
            ratio = answers[True].iterations_per_second / answers[False].iterations_per_second
            ratios.append(ratio)
            for managed, answer in sorted(answers.items()):
                rows.append(
                    Row(
                        name=f"{workload.name} {'with' if managed else 'without'} {pair}",
                        gpu=gpu_words(node.gpus[0]),
                        status=answer.status,
                        seconds=answer.seconds,
                        iterations_per_second=answer.iterations_per_second,
                        solo_ratio=ratio if managed else None,
                    )
                )
        return Findings(hardware_words(node.gpus), tuple(rows), {"solo_ratio": median(ratios)})


SOLO_LARGE = Scenario(
    "solo-large", "The large program alone, with and without nvshare in turns.", partial(run_solo, LARGE)
)
SOLO_SMALL = Scenario(
    "solo-small", "The small program alone, with and without nvshare in turns.", partial(run_solo, SMALL)
)
