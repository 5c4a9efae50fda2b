"""The demonstration: three programs that do not fit on one card together share it, and compute the same as alone."""

import time
from dataclasses import replace

from nvshare.cli.bench.node import temporary_node
from nvshare.cli.bench.options import GIB, BenchOptions
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
from nvshare.cli.bench.watch import Observation, watching
from nvshare.cli.bench.workload import Answer, Bounds, Workload

QUANTUM_SECONDS = 0.5
MEMORY_BYTES = 7 * GIB
SIDE = 21_676  # of a PyTorch program of as much memory
KERNEL_NS = 2_000_000
ITERATIONS = {"short": 800, "long": 1600, "middle": 1200}  # 1.6, 3.2 and 2.4 s of the card's time
SHARED_QUANTA = 3  # who ran beside another for as many quanta must have had the lock more than once


def overlap_seconds(answer: Answer, others: list[Answer]) -> float:
    """How long a program ran while at least one of the others did, as far as one of them covers it."""
    return max(
        (min(answer.ended_ns, other.ended_ns) - max(answer.started_ns, other.started_ns)) / 1e9 for other in others
    )


def demo_status(answer: Answer, checksum_ok: bool, shared_seconds: float, observed: Observation) -> str:
    """`ok`, or what is not as it must be."""
    if not checksum_ok or not answer.correct:
        return "wrong result"
    if shared_seconds >= SHARED_QUANTA * QUANTUM_SECONDS and observed.hand_overs < 2:
        return "did not take turns"
    return "ok"


async def run_demo(options: BenchOptions, steps: Steps) -> Findings:
    """Each program alone without nvshare, for its checksum; then all three at once in serial mode."""
    options = replace(options, quantum=options.quantum or QUANTUM_SECONDS)
    jobs = [
        Job(Workload(name, MEMORY_BYTES, KERNEL_NS, SIDE, seed), Bounds(iterations=iterations))
        for seed, (name, iterations) in enumerate(ITERATIONS.items(), start=1)
    ]
    steps.expect(len(jobs) + 1)
    async with temporary_node(node_options(options, mode="serial")) as node:
        alone: list[Answer] = []
        for job in jobs:
            steps.step(f"{job.workload.name} alone, without nvshare")
            alone.append(await run_alone(node, options, job, managed=False))
        steps.step("all three at once, sharing the GPU in turns")
        started_ns = time.monotonic_ns()
        async with watching(node.directory) as watch:
            answers = await run_together(node, options, jobs, managed=True)
        rows = []
        for job, answer, solo in zip(jobs, answers, alone, strict=True):
            others = [other for other in answers if other is not answer]
            observed = watch.observations.get(job.workload.name, Observation())
            checksum_ok = answer.checksum == solo.checksum
            rows.append(
                Row(
                    name=job.workload.name,
                    gpu=gpu_words(node.gpus[0]),
                    status=demo_status(answer, checksum_ok, overlap_seconds(answer, others), observed),
                    seconds=(answer.ended_ns - started_ns) / 1e9,
                    iterations_per_second=answer.iterations_per_second,
                    solo_ratio=answer.iterations_per_second / solo.iterations_per_second,
                    hand_overs=observed.hand_overs,
                    waited_seconds=observed.waited_us / 1e6,
                    checksum=answer.checksum,
                    checksum_ok=checksum_ok,
                )
            )
        summary = {
            "total_seconds": (max(answer.ended_ns for answer in answers) - started_ns) / 1e9,
            "alone_seconds": sum(answer.seconds for answer in alone),
            "hand_overs": float(sum(row.hand_overs or 0 for row in rows)),
        }
        return Findings(hardware_words(node.gpus), tuple(rows), summary)


DEMO = Scenario("demo", "Three programs of 7 GiB each share one GPU of 16 GiB in turns.", run_demo)
