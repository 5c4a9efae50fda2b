"""A program that works in short bursts beside one that keeps the card busy: how long its bursts take, and what the
other one keeps.
"""

from dataclasses import dataclass
from functools import partial

from nvshare.bus.compute import BEST_EFFORT, NORMAL
from nvshare.cli.bench.kinds_of_work import KINDS_OF_WORK, PLAIN
from nvshare.cli.bench.mps import optional_mps
from nvshare.cli.bench.node import temporary_node
from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.result import Row
from nvshare.cli.bench.rhythms import BUSY, RHYTHMS, Rhythm, settled_p99_us
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
from nvshare.cli.bench.steady import Together, run_settled, settled_bounds, with_room
from nvshare.cli.bench.workload import Answer, Workload

SECONDS = 10.0
WITHOUT, WITH, UNDER_MPS = "without", "with", "MPS"
WORDS = {WITHOUT: "without nvshare", WITH: "with nvshare", UNDER_MPS: "under MPS"}


def busy_program(kind: str) -> Workload:
    """The program beside the bursts, by the kind of its work."""
    return BUSY if kind == PLAIN else KINDS_OF_WORK[kind]


@dataclass(frozen=True)
class Alone:
    """What the bursts and the busy program did without each other: the p99 of the bursts, how many of their kernels the
    card runs in a second where it does nothing else, and the busy one's iterations in a second."""

    p99_us: int
    kernels_per_second: float
    busy_speed: float


def burst_figures(name: str, alone: Alone, both: Together, way: str) -> dict[str, float]:
    """For the summary, of a bursty and a busy program that ran together in this way: the `name` before each figure."""
    p99_us = settled_p99_us(both.answers[0])
    p99_ratio = p99_us / alone.p99_us
    if way == WITHOUT:
        return {f"{name}_unmanaged_p99_ratio": p99_ratio}
    load = both.speeds[0] / alone.kernels_per_second
    kept_ratio = both.speeds[1] / alone.busy_speed / max(1e-9, 1 - load)
    if way == UNDER_MPS:
        return {f"{name}_mps_p99_ratio": p99_ratio, f"{name}_mps_best_effort_kept_ratio": kept_ratio}
    return {
        f"{name}_p99_ratio": p99_ratio,
        f"{name}_added_ms": (p99_us - alone.p99_us) / 1e3,
        f"{name}_best_effort_kept_ratio": kept_ratio,
    }


async def run_beside_busy(priorities: tuple[str, str], options: BenchOptions, steps: Steps) -> Findings:
    """Programs with bursts, each alone, then beside a busy one without nvshare, and with it under `priorities` (of the
    bursts, of the busy one); this for each kind of the busy one's work.

    For each load: `p99_ratio` is the time within which 99 of 100 bursts are done over the same alone,
    `unmanaged_p99_ratio` without nvshare; `added_ms` the difference with nvshare; `best_effort_kept_ratio` the busy
    one's speed over what the bursts leave of its speed alone. A kind other than `plain` has its name before them. With
    MPS beside, `mps_p99_ratio` and `mps_best_effort_kept_ratio` are the same without nvshare under it.
    """
    rhythms = [RHYTHMS[name] for name in options.bursts]
    bounds = settled_bounds(options, SECONDS)
    busy_programs = {kind: busy_program(kind) for kind in options.work}
    programs = [*busy_programs.values(), *(one for rhythm in rhythms for one in (rhythm.dense, rhythm.program()))]
    solos = list(dict.fromkeys(programs))
    ways = (WITHOUT, WITH, UNDER_MPS) if options.mps else (WITHOUT, WITH)
    steps.expect(len(solos) + len(ways) * len(busy_programs) * len(rhythms))
    rows: list[Row] = []
    summary: dict[str, float] = {}
    async with temporary_node(node_options(with_room(options), mode="auto")) as node:
        gpu = gpu_words(node.gpus[0])
        answers: dict[Workload, Answer] = {}
        for program in solos:
            steps.step(f"{program.name} alone, without nvshare")
            answers[program] = await run_alone(node, options, Job(program, bounds), managed=False)
            rows.append(_alone_row(program.name, gpu, answers[program]))
        for kind, busy in busy_programs.items():
            for rhythm in rhythms:
                alone = _alone(rhythm, busy, answers)
                speeds = answers[rhythm.program()].iterations_per_second, alone.busy_speed
                jobs = [
                    Job(program, bounds, priority=priority)
                    for program, priority in zip((rhythm.program(), busy), priorities, strict=True)
                ]
                where = "both" if kind == PLAIN else f"both ({kind})"
                for way in ways:
                    steps.step(f"{rhythm.name} bursts beside {busy.name}, {WORDS[way]}")
                    async with optional_mps(node, wanted=way == UNDER_MPS) as mps:
                        clients = [mps.of(job) for job in jobs] if mps is not None else jobs
                        both = await run_settled(node, options, clients, managed=way == WITH)
                    rows += both.rows(node, f"{where}, {way}", speeds)
                    name = rhythm.name if kind == PLAIN else f"{kind}_{rhythm.name}"
                    summary |= burst_figures(name, alone, both, way)
    return Findings(hardware_words(node.gpus), tuple(rows), summary)


def _alone(rhythm: Rhythm, busy: Workload, answers: dict[Workload, Answer]) -> Alone:
    return Alone(
        p99_us=settled_p99_us(answers[rhythm.program()]),
        kernels_per_second=rhythm.dense_kernels * answers[rhythm.dense].iterations_per_second,
        busy_speed=answers[busy].iterations_per_second,
    )


def _alone_row(name: str, gpu: str, answer: Answer) -> Row:
    return Row(f"{name} alone", gpu, answer.status, answer.seconds, answer.iterations_per_second)


PRIORITY = Scenario(
    "priority",
    "A latency-critical program beside a best-effort one that keeps the card busy (--work, --bursts).",
    partial(run_beside_busy, ("latency-critical", BEST_EFFORT)),
    mps=True,
)
BUSY_PLUS_BURSTY = Scenario(
    "busy-plus-bursty",
    "The same without priorities.",
    partial(run_beside_busy, (NORMAL, NORMAL)),
    mps=True,
)
