"""A program that grows from 1 to 12 GB beside one of 12 GB: what it allocates late waits for its turn, and comes."""

from dataclasses import replace

from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.oversubscribed import (
    GRACE_SECONDS,
    oversubscribed_node,
    run_from_start,
)
from nvshare.cli.bench.result import Row
from nvshare.cli.bench.scenario import Findings, Job, Scenario, Steps, gpu_words, hardware_words
from nvshare.cli.bench.turns import finish_spread, longest_wait_seconds
from nvshare.cli.bench.workload import LARGE, Bounds, Workload

SECONDS = 30.0
GROWN_BYTES = 12 * 10**9
FIRST = Workload("grower", memory_bytes=4 * 4 * 7_900**2, kernel_ns=180_000, side=7_900)


async def run_growth(options: BenchOptions, steps: Steps) -> Findings:
    """A large program alone without nvshare; then the same work beside one that grows, in twelve steps.

    Each step is written to, and all of them are read again at the end. Both must end right: nobody runs out of memory.
    """
    steps.expect(2)
    seconds = options.seconds or SECONDS
    limit_seconds = 3 * seconds + GRACE_SECONDS
    large = LARGE
    grows_to = str(GROWN_BYTES)
    grower = replace(FIRST, options=("--grow-to-bytes", grows_to))
    async with oversubscribed_node(options) as node:
        steps.step("the large one alone, without nvshare")
        before = await run_from_start(
            node, options, [Job(large, Bounds(seconds=seconds))], managed=False, limit_seconds=limit_seconds
        )
        solo = before.answers[0]
        jobs = [Job(large, Bounds(iterations=solo.iterations)), Job(grower, Bounds(seconds=seconds))]
        steps.step("the large one beside one that grows, under nvshare")
        run = await run_from_start(node, options, jobs, managed=True, limit_seconds=2 * limit_seconds)
        gpu = gpu_words(node.gpus[0])
        rows = [Row(f"{large.name} alone", gpu, solo.status, before.total_seconds, solo.iterations_per_second)]
        for name, answer, expected in zip(run.names, run.answers, (solo.checksum, None), strict=True):
            checksum_ok = None if expected is None else answer.checksum == expected
            rows.append(
                Row(
                    name=name,
                    gpu=gpu,
                    status="checksum differs" if checksum_ok is False else answer.status,
                    seconds=run.seconds(answer),
                    iterations_per_second=answer.iterations_per_second,
                    hand_overs=run.observed(name).hand_overs,
                    waited_seconds=run.observed(name).waited_us / 1e6,
                    checksum=answer.checksum,
                    checksum_ok=checksum_ok,
                )
            )
        summary = {
            "total_seconds": run.total_seconds,
            "handovers": float(run.gpu.hand_overs),
            "swap_bytes": float(run.gpu.swapped_bytes),
            "finish_spread": finish_spread(run.start_ns, [answer.finished_ns for answer in run.answers]),
            "max_wait_seconds": max(longest_wait_seconds(run.start_ns, answer.progress) for answer in run.answers),
        }
        return Findings(hardware_words(node.gpus), tuple(rows), summary)


GROW_AFTER_ADMISSION = Scenario(
    "grow-after-admission", "A program that grows from 1 to 12 GB beside one of 12 GB.", run_growth
)
