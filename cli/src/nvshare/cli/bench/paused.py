"""A best-effort program beside a latency-critical one that keeps the card busy for long, and after its end."""

import re
from dataclasses import replace

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
from nvshare.cli.bench.steady import SETTLE_NS, Together, run_settled, with_room
from nvshare.cli.bench.survivor import recovered_ns
from nvshare.cli.bench.throughput import iterations_at
from nvshare.cli.bench.workload import SMALL, Bounds, named

EMULATED_SECONDS = 20.0
CARD_SECONDS = 600.0  # longer than any bound on a kernel that a driver or a framework may have
ALONE_SECONDS = 5.0
AFTER_SECONDS = 6.0
BACK = 0.9
DRIVER_ERROR = re.compile(r"CUDA[ _]error|cudaError|\bXid\b", re.IGNORECASE)
# Small batches, so that it is known when it goes on.
BEST_EFFORT = replace(SMALL, name="best-effort", options=("--progress-ms", "0", "--batch-iterations", "5"))
CRITICAL = named(SMALL, "critical")


def driver_errors(log: str) -> list[str]:
    """The lines of a program's log that tell of an error of the driver."""
    return [line.strip() for line in log.splitlines() if DRIVER_ERROR.search(line)]


def paused_summary(both: Together, solo_speed: float) -> dict[str, float]:
    """Of a critical and a best-effort program; only the first figure where the second one was not back in time."""
    critical, paused = both.answers
    summary = {"paused_share": both.speeds[1] / solo_speed}
    ended_ns = critical.finished_ns  # until then it checks its results, on the card
    back_ns = recovered_ns(paused.progress, ended_ns, solo_speed, BACK)
    if back_ns is None:
        return summary
    done = paused.iterations - iterations_at(paused.progress, back_ns)
    after_speed = done / ((paused.ended_ns - back_ns) / 1e9)
    return {**summary, "back_seconds": (back_ns - ended_ns) / 1e9, "after_ratio": after_speed / solo_speed}


async def run_paused(options: BenchOptions, steps: Steps) -> Findings:
    """Both start together; the critical one works for `--seconds`, the other one for some seconds more.

    `paused_share` is the best-effort one's speed over its solo speed while both run; `back_seconds` the time from the
    critical one's end until it has 0.9 of its solo speed over a quarter of a second; `after_ratio` its speed from then
    on over its solo speed.
    """
    steps.expect(2)
    seconds = SETTLE_NS / 1e9 + (options.seconds or (EMULATED_SECONDS if options.emulated else CARD_SECONDS))
    critical = Job(CRITICAL, Bounds(seconds=seconds), priority="latency-critical")
    paused = Job(BEST_EFFORT, Bounds(seconds=seconds + AFTER_SECONDS), priority="best-effort")
    async with temporary_node(node_options(with_room(options), mode="auto")) as node:
        steps.step("the best-effort one alone, without nvshare")
        alone = await run_alone(node, options, replace(paused, bounds=Bounds(seconds=ALONE_SECONDS)), managed=False)
        solo_speed = alone.iterations_per_second
        steps.step(f"both for {seconds:g} s, then the best-effort one")
        both = await run_settled(node, options, [critical, paused], managed=True)
        errors = {
            f"{job.workload.name} both": driver_errors((node.logs / f"{job.workload.name}.log").read_text())
            for job in both.jobs
        }
        summary = paused_summary(both, solo_speed)
        gpu = gpu_words(node.gpus[0])
        back = "ok" if "back_seconds" in summary else "never at its speed again"
        after_speed = summary["after_ratio"] * solo_speed if "after_ratio" in summary else None
        rows = [
            Row("best-effort alone", gpu, alone.status, alone.seconds, solo_speed),
            *(
                replace(row, status=f"driver error: {errors[row.name][0]}") if errors[row.name] else row
                for row in both.rows(node, "both", (None, solo_speed))
            ),
            Row("best-effort after", gpu, back, AFTER_SECONDS, after_speed, summary.get("after_ratio")),
        ]
        return Findings(hardware_words(node.gpus), tuple(rows), summary)


PAUSED = Scenario("paused", "A best-effort program beside a busy latency-critical one, and after its end.", run_paused)
