"""Three programs whose memory fits together: they run side by side, and nothing is ever moved."""

from dataclasses import replace
from statistics import median

from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.oversubscribed import (
    GRACE_SECONDS,
    oversubscribed_node,
    run_from_start,
)
from nvshare.cli.bench.result import Row
from nvshare.cli.bench.scenario import (
    Findings,
    Job,
    Scenario,
    Steps,
    gpu_words,
    hardware_words,
    run_alone,
    run_together,
)
from nvshare.cli.bench.watch import watching
from nvshare.cli.bench.workload import SMALL, Bounds, Workload, numbered

COUNT = 3
FIT_SECONDS = 60.0
IDLE_SECONDS = 5.0
BURST_ITERATIONS = 500  # a quarter of a second of work, and as long a pause: each at most twice that
BURST_PAUSE_MS = 250
IDLE_PAUSE_MS = 145  # on average, after 20 or 40 iterations of 0.54 ms: a tenth of the time is work


async def run_trio_small_fit(options: BenchOptions, steps: Steps) -> Findings:
    """Three programs work and pause at random; `swap_bytes` and `handovers` must be exactly 0."""
    steps.expect(1)
    seconds = options.seconds or FIT_SECONDS
    jobs = [
        Job(switching(program, seed), Bounds(seconds=seconds)) for seed, program in enumerate(numbered(SMALL, COUNT), 1)
    ]
    async with oversubscribed_node(options) as node:
        steps.step("three at once that fit, working and pausing at random")
        run = await run_from_start(node, options, jobs, managed=True, limit_seconds=seconds + GRACE_SECONDS)
        rows = tuple(
            Row(
                name=name,
                gpu=gpu_words(node.gpus[0]),
                status=answer.status if run.gpu.swapped_bytes == 0 else "memory was moved",
                seconds=answer.seconds,
                iterations_per_second=answer.iterations_per_second,
                hand_overs=run.observed(name).hand_overs,
                waited_seconds=run.observed(name).waited_us / 1e6,
                checksum=answer.checksum,
            )
            for name, answer in zip(run.names, run.answers, strict=True)
        )
        summary = {
            "swap_bytes": float(run.gpu.swapped_bytes),
            "handovers": float(run.gpu.hand_overs),
            "max_wait_seconds": max(run.observed(name).longest_wait_us for name in run.names) / 1e6,
            "total_seconds": run.total_seconds,
        }
        return Findings(hardware_words(node.gpus), rows, summary)


def switching(program: Workload, seed: int) -> Workload:
    """The program with bursts and pauses of random length."""
    rhythm = ("--burst-iterations", BURST_ITERATIONS, "--pause-ms", BURST_PAUSE_MS, "--rhythm-seed", seed)
    return replace(program, options=tuple(map(str, rhythm)))


async def run_trio_idle(options: BenchOptions, steps: Steps) -> Findings:
    """Three mostly idle programs, each alone without nvshare, then at once with and without it, again and again.

    Each has a rhythm of its own: programs that pause for the same time and start at the same moment would all work in
    the same tenth of the time, for ever. Together each does as many iterations as it did alone, with the same pauses.
    `min_solo_ratio` is the speed of the slowest of the three over its solo speed, median of the rounds;
    `unmanaged_min_solo_ratio` the same without nvshare.
    """
    seconds = options.seconds or IDLE_SECONDS
    programs = [idle(program, seed) for seed, program in enumerate(numbered(SMALL, COUNT), 1)]
    steps.expect((COUNT + 2) * options.pairs)
    rows: list[Row] = []
    slowest: dict[bool, list[float]] = {False: [], True: []}
    async with oversubscribed_node(options) as node, watching(node.directory) as watch:
        gpu = gpu_words(node.gpus[0])
        for number in range(1, options.pairs + 1):
            solos = []
            for program in programs:
                steps.step(f"round {number}: {program.name} alone, without nvshare")
                solo = await run_alone(node, options, Job(program, Bounds(seconds=seconds)), managed=False)
                solos.append(solo)
                name = f"{program.name} alone {number}"
                rows.append(Row(name, gpu, solo.status, solo.seconds, solo.iterations_per_second))
            jobs = [
                Job(program, Bounds(iterations=solo.iterations)) for program, solo in zip(programs, solos, strict=True)
            ]
            for managed in (False, True) if number % 2 else (True, False):
                word = "with" if managed else "without"
                steps.step(f"round {number}: three {word} nvshare")
                answers = await run_together(node, options, jobs, managed=managed, wait_for_start=True)
                ratios = [
                    answer.iterations_per_second / solo.iterations_per_second
                    for answer, solo in zip(answers, solos, strict=True)
                ]
                slowest[managed].append(min(ratios))
                rows += [
                    Row(
                        name=f"{job.workload.name} {word} {number}",
                        gpu=gpu,
                        status=answer.status,
                        seconds=answer.seconds,
                        iterations_per_second=answer.iterations_per_second,
                        solo_ratio=ratio,
                    )
                    for job, answer, ratio in zip(jobs, answers, ratios, strict=True)
                ]
    summary = {
        "min_solo_ratio": median(slowest[True]),
        "unmanaged_min_solo_ratio": median(slowest[False]),
        "swap_bytes": float(watch.first_gpu.swapped_bytes),
        "handovers": float(watch.first_gpu.hand_overs),
    }
    return Findings(hardware_words(node.gpus), tuple(rows), summary)


def idle(program: Workload, seed: int) -> Workload:
    """The program with pauses, so that it works for a tenth of the time."""
    return replace(program, options=tuple(map(str, ("--pause-ms", IDLE_PAUSE_MS, "--rhythm-seed", seed))))


TRIO_SMALL_FIT = Scenario(
    "trio-small-fit",
    "Three small programs that fit, with demand that comes and goes: nothing moves.",
    run_trio_small_fit,
)
TRIO_IDLE = Scenario(
    "trio-idle", "Three programs that work a tenth of the time, against each alone and without nvshare.", run_trio_idle
)
