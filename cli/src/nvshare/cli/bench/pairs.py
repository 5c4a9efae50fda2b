"""Two programs on one card: side by side in concurrent mode, and in turns in serial mode."""

from dataclasses import replace
from statistics import median

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
from nvshare.cli.bench.throughput import common_speeds
from nvshare.cli.bench.workload import LARGE, SMALL, Answer, Bounds, numbered

SECONDS = 5.0
SERIAL_SECONDS = 10.0
SERIAL_GPU_MEMORY_BYTES = 32 * 2**30


async def run_pair_small(options: BenchOptions, steps: Steps) -> Findings:
    """Solo, two without nvshare, two with it; again and again.

    Speeds of two are taken where both ran. `sum_ratio` is the sum of their speeds with nvshare over the solo speed
    without, `sum_over_unmanaged` over the sum without; medians of all rounds.
    """
    bounds = Bounds(seconds=options.seconds or SECONDS)
    single = Job(SMALL, bounds)
    jobs = [Job(program, bounds) for program in numbered(SMALL, 2)]
    steps.expect(3 * options.pairs)
    rows: list[Row] = []
    over_solo: list[float] = []
    over_unmanaged: list[float] = []
    async with temporary_node(node_options(options, mode="concurrent")) as node:
        for round_number in range(1, options.pairs + 1):
            steps.step(f"round {round_number}: one alone, without nvshare")
            solo = await run_alone(node, options, single, managed=False)
            rows.append(_row(node, f"alone {round_number}", solo, solo.iterations_per_second, None))
            sums: dict[bool, float] = {}
            for managed in (False, True) if round_number % 2 else (True, False):
                steps.step(f"round {round_number}: two {'with' if managed else 'without'} nvshare")
                answers = await run_together(node, options, jobs, managed=managed, wait_for_start=True)
                speeds = common_speeds([answer.progress for answer in answers])
                sums[managed] = sum(speeds)
                for job, answer, speed in zip(jobs, answers, speeds, strict=True):
                    name = f"{job.workload.name} {'with' if managed else 'without'} {round_number}"
                    rows.append(_row(node, name, answer, speed, speed / solo.iterations_per_second))
            over_solo.append(sums[True] / solo.iterations_per_second)
            over_unmanaged.append(sums[True] / sums[False])
        summary = {"sum_ratio": median(over_solo), "sum_over_unmanaged": median(over_unmanaged)}
        return Findings(hardware_words(node.gpus), tuple(rows), summary)


async def run_pair_large_serial(options: BenchOptions, steps: Steps) -> Findings:
    """Two large programs one after the other without nvshare, then the same work by both at once in serial mode.

    `total_over_serial` is the time from the first one's first iteration to the last one's last, over the sum of the two
    solo times. Results must be the same bits. Both stay on the card: who waits for its turn keeps its memory there.
    """
    steps.expect(3)
    first, second = numbered(LARGE, 2)
    both_fit = max(options.gpu_memory_bytes, SERIAL_GPU_MEMORY_BYTES)
    async with temporary_node(node_options(replace(options, gpu_memory_bytes=both_fit), mode="serial")) as node:
        steps.step("the first alone, without nvshare")
        bounded = Job(first, Bounds(seconds=options.seconds or SERIAL_SECONDS))
        solo = await run_alone(node, options, bounded, managed=False)
        jobs = [Job(program, Bounds(iterations=solo.iterations)) for program in (first, second)]
        steps.step("the second alone, without nvshare")
        again = await run_alone(node, options, jobs[1], managed=False)
        steps.step("both at once, in serial mode")
        both = await run_together(node, options, jobs, managed=True, wait_for_start=True)
        total_seconds = (max(answer.ended_ns for answer in both) - min(answer.started_ns for answer in both)) / 1e9
        rows = [
            _row(node, f"{program.name} alone", answer, answer.iterations_per_second, None)
            for program, answer in ((first, solo), (second, again))
        ]
        for program, answer, alone in ((first, both[0], solo), (second, both[1], again)):
            equal = answer.checksum == alone.checksum
            row = _row(
                node,
                f"{program.name} shared",
                answer,
                answer.iterations_per_second,
                answer.iterations_per_second / alone.iterations_per_second,
            )
            status = row.status if equal else "checksum differs"
            rows.append(replace(row, checksum=answer.checksum, checksum_ok=equal, status=status))
        summary = {
            "total_over_serial": total_seconds / (solo.seconds + again.seconds),
            "total_seconds": total_seconds,
            "serial_seconds": solo.seconds + again.seconds,
        }
        return Findings(hardware_words(node.gpus), tuple(rows), summary)


def _row(node: BenchNode, name: str, answer: Answer, speed: float, solo_ratio: float | None) -> Row:
    return Row(name, gpu_words(node.gpus[0]), answer.status, answer.seconds, speed, solo_ratio)


PAIR_SMALL = Scenario(
    "pair-small",
    "Two small programs side by side in concurrent mode, against the same two without nvshare.",
    run_pair_small,
)
PAIR_LARGE_SERIAL = Scenario(
    "pair-large-serial", "Two large programs in serial mode, against one after the other.", run_pair_large_serial
)
