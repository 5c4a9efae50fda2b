"""Two jobs over the same two GPUs whose ranks wait for each other, together too large for both cards."""

import importlib.util
import sys
from dataclasses import dataclass, replace
from statistics import fmean

from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.oversubscribed import GRACE_SECONDS, SharedRun, oversubscribed_node, run_from_start
from nvshare.cli.bench.result import Row
from nvshare.cli.bench.scenario import Findings, Job, Scenario, Steps, gpu_words, hardware_words, need_two_gpus
from nvshare.cli.bench.turns import finish_spread, longest_wait_seconds
from nvshare.cli.bench.workload import LARGE, Answer, Bounds, Workload, numbered
from nvshare.cli.errors import CommandError

SECONDS = 60.0
GPUS = (0, 1)


@dataclass(frozen=True)
class TiedWorkload(Workload):
    """A large program on each of its GPUs, of which none gets on without the others: on real cards a process for each,
    whose results NCCL sums in each iteration; on emulated ones one process whose cards wait for each other."""

    def command(self, *, emulated: bool, gpus: int = 1) -> list[str]:
        """The command line, without its bounds. Raises CommandError where PyTorch is needed and not installed."""
        if emulated:
            size = ["--memory-bytes", str(self.memory_bytes), "--kernel-ns", str(self.kernel_ns)]
            program = ["nvshare.cli.workloads.emulated_tied", *size]
        else:
            if importlib.util.find_spec("torch") is None:
                raise CommandError(
                    f"on real GPUs this runs PyTorch: install torch for {sys.executable}, or add --emulate"
                )
            program = ["nvshare.cli.workloads.pytorch_ranks", "--side", str(self.side)]
        common = ["--name", self.name, "--gpus", str(gpus), "--seed", str(self.seed), *self.options]
        return [sys.executable, "-m", *program, *common]


TIED = TiedWorkload("tied", LARGE.memory_bytes, LARGE.kernel_ns, LARGE.side, options=("--progress-ms", "0"))


async def run_gang_pair(options: BenchOptions, steps: Steps) -> Findings:
    """One job alone without nvshare, twice, before and after; between them two of them at once under it.

    Times are from a common start, with the cards in use but no memory on them, until the results are checked.
    `total_over_serial` is the time of both over twice that of one alone; `handovers` and `swap_bytes` are the
    schedulers' counts for both GPUs; `max_wait_seconds` is the longest time that a job made no progress.
    """
    steps.expect(3)
    seconds = options.seconds or SECONDS
    limit_seconds = 3 * seconds + GRACE_SECONDS
    async with oversubscribed_node(options, gpus=len(GPUS)) as node:
        need_two_gpus(node, "gang-pair")
        steps.step("one alone, without nvshare")
        bounded = Job(TIED, Bounds(seconds=seconds), gpus=GPUS)
        before = await run_from_start(node, options, [bounded], managed=False, limit_seconds=limit_seconds)
        solo = before.answers[0]
        bounds = Bounds(iterations=solo.iterations)
        steps.step("two at once, under nvshare")
        jobs = [Job(one, bounds, gpus=GPUS) for one in numbered(TIED, 2)]
        shared = await run_from_start(node, options, jobs, managed=True, limit_seconds=2 * limit_seconds)
        steps.step("one alone again, without nvshare")
        again = Job(TIED, bounds, gpus=GPUS)
        after = await run_from_start(node, options, [again], managed=False, limit_seconds=limit_seconds)
        gpu = gpu_words(*node.gpus[: len(GPUS)])
        alone_seconds = fmean((before.total_seconds, after.total_seconds))
        rows = [
            Row(f"{TIED.name} alone, {when}", gpu, run.answers[0].status, run.total_seconds)
            for when, run in (("before", before), ("after", after))
        ]
        rows += [
            _row(gpu, shared, name, answer, solo, alone_seconds)
            for name, answer in zip(shared.names, shared.answers, strict=True)
        ]
        return Findings(hardware_words(node.gpus), tuple(rows), _summary(shared, alone_seconds))


def _row(gpu: str, run: SharedRun, name: str, answer: Answer, solo: Answer, alone_seconds: float) -> Row:
    observed = run.observed(name)
    equal = answer.checksum == solo.checksum
    row = Row(
        name=name,
        gpu=gpu,
        status=answer.status,
        seconds=run.seconds(answer),
        iterations_per_second=answer.iterations / run.seconds(answer),
        solo_ratio=alone_seconds / run.seconds(answer),
        hand_overs=observed.hand_overs,
        waited_seconds=observed.waited_us / 1e6,
        checksum=answer.checksum,
        checksum_ok=equal,
    )
    return row if equal else replace(row, status="checksum differs")


def _summary(run: SharedRun, alone_seconds: float) -> dict[str, float]:
    gpus = run.watch.gpus.values()
    return {
        "total_over_serial": run.total_seconds / (len(run.answers) * alone_seconds),
        "total_seconds": run.total_seconds,
        "alone_seconds": alone_seconds,
        "handovers": float(sum(gpu.hand_overs for gpu in gpus)),
        "quantum_seconds": run.gpu.longest_quantum_us / 1e6,
        "finish_spread": finish_spread(run.start_ns, [answer.finished_ns for answer in run.answers]),
        "max_wait_seconds": max(longest_wait_seconds(run.start_ns, answer.progress) for answer in run.answers),
        "swap_bytes": float(sum(gpu.swapped_bytes for gpu in gpus)),
    }


GANG_PAIR = Scenario(
    "gang-pair", "Two jobs over two GPUs whose ranks wait for each other, in turns, against one alone.", run_gang_pair
)
