"""A program that works in short bursts beside one that keeps the card busy: how long its bursts take, and what the
other one keeps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil

from nvshare.bus.compute import NORMAL
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
from nvshare.cli.bench.steady import SETTLE_NS, run_settled, settled_bounds, with_room
from nvshare.cli.bench.workload import SMALL, Answer, Workload, named

SECONDS = 10.0
SHARE = 0.99


@dataclass(frozen=True)
class Rhythm:
    """Bursts of so many iterations of 0.54 ms, with pauses between them."""

    name: str
    burst_iterations: int
    pause_ms: float

    def program(self) -> Workload:
        """The small program with this rhythm. One wait at the end of each burst."""
        burst = str(self.burst_iterations)
        options = ("--batch-iterations", burst, "--burst-iterations", burst, "--pause-ms", str(self.pause_ms))
        return replace(named(SMALL, self.name), options=options)


# 2.2 ms each 20 ms, and 8.7 ms each 11 ms: the two loads of shared/measurements on hardware slices.
LIGHT = Rhythm("light", burst_iterations=4, pause_ms=17.8)
HEAVY = Rhythm("heavy", burst_iterations=16, pause_ms=2.3)


def p99_us(bursts_us: Sequence[int]) -> int:
    """The least time within which 99 of 100 bursts were done. Raises ValueError when there are none."""
    if not bursts_us:
        raise ValueError("the program had no burst")
    return sorted(bursts_us)[ceil(SHARE * len(bursts_us)) - 1]


async def run_beside_busy(priorities: tuple[str, str], options: BenchOptions, steps: Steps) -> Findings:
    """Programs with bursts, each alone, then beside a busy one without nvshare, and with it under `priorities` (of the
    bursts, of the busy one).

    For each load: `p99_ratio` is the time within which 99 of 100 bursts are done over the same alone,
    `unmanaged_p99_ratio` without nvshare; `added_ms` the difference with nvshare; `best_effort_kept_ratio` the busy
    one's speed over what the bursts leave of its speed alone.
    """
    rhythms = (LIGHT, HEAVY)
    bounds = settled_bounds(options, SECONDS)
    steps.expect(1 + 3 * len(rhythms))
    rows: list[Row] = []
    summary: dict[str, float] = {}
    async with temporary_node(node_options(with_room(options), mode="auto")) as node:
        gpu = gpu_words(node.gpus[0])
        busy = Job(named(SMALL, "busy"), bounds, priority=priorities[1])
        steps.step("the busy one alone, without nvshare")
        busy_alone = await run_alone(node, options, busy, managed=False)
        rows.append(_alone_row("busy", gpu, busy_alone))
        for rhythm in rhythms:
            bursty = Job(rhythm.program(), bounds, priority=priorities[0])
            steps.step(f"{rhythm.name} bursts alone, without nvshare")
            alone = await run_alone(node, options, bursty, managed=False)
            rows.append(_alone_row(rhythm.name, gpu, alone))
            for managed in (False, True):
                words = "with" if managed else "without"
                steps.step(f"{rhythm.name} bursts beside the busy one, {words} nvshare")
                both = await run_settled(node, options, [bursty, busy], managed=managed)
                solos = (alone.iterations_per_second, busy_alone.iterations_per_second)
                rows += both.rows(node, f"both, {words}", solos)
                p99, alone_p99 = p99_us(_settled(both.answers[0])), p99_us(_settled(alone))
                if not managed:
                    summary[f"{rhythm.name}_unmanaged_p99_ratio"] = p99 / alone_p99
                    continue
                load = both.speeds[0] / busy_alone.iterations_per_second
                summary[f"{rhythm.name}_p99_ratio"] = p99 / alone_p99
                summary[f"{rhythm.name}_added_ms"] = (p99 - alone_p99) / 1e3
                summary[f"{rhythm.name}_best_effort_kept_ratio"] = both.speeds[1] / solos[1] / max(1e-9, 1 - load)
        return Findings(hardware_words(node.gpus), tuple(rows), summary)


def _settled(answer: Answer) -> Sequence[int]:
    """Its bursts without those of the beginning, in which the plan is not what it will be."""
    share = min(0.9, SETTLE_NS / max(1, answer.ended_ns - answer.started_ns))
    return answer.bursts_us[int(share * len(answer.bursts_us)) :]


def _alone_row(name: str, gpu: str, answer: Answer) -> Row:
    return Row(f"{name} alone", gpu, answer.status, answer.seconds, answer.iterations_per_second)


PRIORITY = Scenario(
    "priority",
    "A latency-critical program beside a best-effort one that keeps the card busy.",
    partial(run_beside_busy, ("latency-critical", "best-effort")),
)
BUSY_PLUS_BURSTY = Scenario(
    "busy-plus-bursty",
    "The same without priorities.",
    partial(run_beside_busy, (NORMAL, NORMAL)),
)
