"""A process on two GPUs beside one on each of them: every GPU is shared on its own."""

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
    need_two_gpus,
    node_options,
    run_alone,
    run_together,
)
from nvshare.cli.bench.watch import Observation, watching
from nvshare.cli.bench.workload import SMALL, Bounds, named

SECONDS = 10.0


async def run_two_gpus(options: BenchOptions, steps: Steps) -> Findings:
    """Each program alone without nvshare, then the three at once under it.

    `gpu_0_sum` and `gpu_1_sum` are the speeds of the two programs on that card, each over its own solo speed, in sum:
    near 1 if no card is held up by the other.
    """
    bounds = Bounds(seconds=options.seconds or SECONDS)
    jobs = [
        Job(named(SMALL, "both"), bounds, gpus=(0, 1)),
        Job(named(SMALL, "first"), bounds, gpus=(0,)),
        Job(named(SMALL, "second"), bounds, gpus=(1,)),
    ]
    steps.expect(len(jobs) + 1)
    async with temporary_node(node_options(options, mode="concurrent", gpus=2)) as node:
        need_two_gpus(node, "two-gpus")
        alone = []
        for job in jobs:
            steps.step(f"{job.workload.name} alone, without nvshare")
            alone.append(await run_alone(node, options, job, managed=False))
        steps.step("all three at once, under nvshare")
        async with watching(node.directory) as watch:
            answers = await run_together(node, options, jobs, managed=True, wait_for_start=True)
        shares = [
            answer.iterations_per_second / solo.iterations_per_second
            for answer, solo in zip(answers, alone, strict=True)
        ]
        rows = []
        for job, answer, share in zip(jobs, answers, shares, strict=True):
            observed = watch.observations.get(job.workload.name, Observation())
            rows.append(
                Row(
                    name=job.workload.name,
                    gpu=gpu_words(*job.on(node)),
                    status=answer.status,
                    seconds=answer.seconds,
                    iterations_per_second=answer.iterations_per_second,
                    solo_ratio=share,
                    hand_overs=observed.hand_overs,
                    waited_seconds=observed.waited_us / 1e6,
                    checksum=answer.checksum,
                )
            )
        summary = {"gpu_0_sum": shares[0] + shares[1], "gpu_1_sum": shares[0] + shares[2]}
        return Findings(hardware_words(node.gpus), tuple(rows), summary)


TWO_GPUS = Scenario("two-gpus", "A program on two GPUs beside one on each of them.", run_two_gpus)
