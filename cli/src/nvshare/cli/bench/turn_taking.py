"""Large programs that do not fit on the card together: all finish, by taking turns, and how much that costs."""

from dataclasses import replace
from functools import partial
from statistics import fmean, median

from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.oversubscribed import (
    GRACE_SECONDS,
    SharedRun,
    oversubscribed_node,
    run_from_start,
)
from nvshare.cli.bench.result import Row
from nvshare.cli.bench.scenario import Findings, Job, Scenario, Steps, gpu_words, hardware_words
from nvshare.cli.bench.throughput import common_speeds
from nvshare.cli.bench.turns import finish_spread, longest_wait_seconds, switches
from nvshare.cli.bench.workload import LARGE, Answer, Bounds, numbered

SECONDS = 60.0
FEWEST_OF_QUANTA = 0.5  # hand-overs over quanta that passed while somebody waited


async def run_turns(count: int, options: BenchOptions, steps: Steps) -> Findings:
    """One program alone without nvshare, twice, before and after; between them `count` of them at once under it.

    Times are from a common start, with the card in use but no memory on it, until the results are checked.
    `total_over_serial` is the time of all over `count` times that of one alone; `sum_ratio` the sum of their speeds,
    while all of them ran, over one alone. `handovers`, `swap_bytes` and `quantum_seconds` (the longest) are the
    scheduler's. `max_wait_seconds` is the longest time that a program made no progress, from the start on.
    """
    steps.expect(3)
    program = replace(LARGE, options=("--progress-ms", "0"))
    async with oversubscribed_node(options) as node:
        steps.step("one alone, without nvshare")
        bounded = Job(program, Bounds(seconds=options.seconds or SECONDS))
        limit_seconds = 3 * (options.seconds or SECONDS) + GRACE_SECONDS
        before = await run_from_start(node, options, [bounded], managed=False, limit_seconds=limit_seconds)
        solo = before.answers[0]
        bounds = Bounds(iterations=solo.iterations)
        jobs = [Job(one, bounds) for one in numbered(program, count)]
        steps.step(f"{count} at once, under nvshare")
        shared = await run_from_start(node, options, jobs, managed=True, limit_seconds=count * limit_seconds)
        steps.step("one alone again, without nvshare")
        after = await run_from_start(node, options, [Job(program, bounds)], managed=False, limit_seconds=limit_seconds)
        alone_seconds = fmean((before.total_seconds, after.total_seconds))
        speed = solo.iterations / fmean((solo.seconds, after.answers[0].seconds))
        gpu = gpu_words(node.gpus[0])
        rows = [
            Row(f"{program.name} alone, {when}", gpu, run.answers[0].status, run.total_seconds, answer_speed)
            for when, run in (("before", before), ("after", after))
            for answer_speed in (run.answers[0].iterations_per_second,)
        ]
        rows += [
            _shared_row(gpu, shared, name, answer, solo, speed)
            for name, answer in zip(shared.names, shared.answers, strict=True)
        ]
        return Findings(hardware_words(node.gpus), tuple(rows), _summary(shared, alone_seconds, speed))


def _shared_row(gpu: str, run: SharedRun, name: str, answer: Answer, solo: Answer, speed: float) -> Row:
    observed = run.observed(name)
    seconds = run.seconds(answer)
    equal = answer.checksum == solo.checksum
    status = answer.status
    if not equal:
        status = "checksum differs"
    elif answer.correct and not took_turns(run):
        status = "did not take turns"
    return Row(
        name=name,
        gpu=gpu,
        status=status,
        seconds=seconds,
        iterations_per_second=answer.iterations / seconds,
        solo_ratio=answer.iterations / seconds / speed,
        hand_overs=observed.hand_overs,
        waited_seconds=observed.waited_us / 1e6,
        checksum=answer.checksum,
        checksum_ok=equal,
    )


def took_turns(run: SharedRun) -> bool:
    """Whether the card went round about once for each quantum that passed while somebody waited."""
    *_, last_but_one = sorted([run.start_ns, *(answer.finished_ns for answer in run.answers)])[:-1]
    contended_seconds = (last_but_one - run.start_ns) / 1e9
    quanta = int(contended_seconds / (run.gpu.longest_quantum_us / 1e6)) if run.gpu.longest_quantum_us else 0
    return run.gpu.hand_overs >= FEWEST_OF_QUANTA * quanta


def _summary(run: SharedRun, alone_seconds: float, speed: float) -> dict[str, float]:
    runs = [((run.start_ns, 0), *answer.progress) for answer in run.answers]
    by_allocation = dict(zip(run.allocations, (answer.progress for answer in run.answers), strict=True))
    seconds = [one.seconds for one in switches(by_allocation, run.timeline.grants)]
    summary = {
        "sum_ratio": sum(common_speeds(runs)) / speed,
        "total_over_serial": run.total_seconds / (len(run.answers) * alone_seconds),
        "total_seconds": run.total_seconds,
        "alone_seconds": alone_seconds,
        "handovers": float(run.gpu.hand_overs),
        "quantum_seconds": run.gpu.longest_quantum_us / 1e6,
        "finish_spread": finish_spread(run.start_ns, [answer.finished_ns for answer in run.answers]),
        "max_wait_seconds": max(longest_wait_seconds(run.start_ns, answer.progress) for answer in run.answers),
        "swap_bytes": float(run.gpu.swapped_bytes),
    }
    return summary | ({"switch_seconds": median(seconds)} if seconds else {})


PAIR_LARGE_AUTO = Scenario(
    "pair-large-auto",
    "Two large programs that do not fit together, in turns, against one alone.",
    partial(run_turns, 2),
)
QUAD_LARGE_AUTO = Scenario(
    "quad-large-auto", "Four large programs of which one fits, in turns, against one alone.", partial(run_turns, 4)
)
