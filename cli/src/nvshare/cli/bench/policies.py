"""Ways to share a card's time against each other: the same mixes of programs under each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from nvshare.cli.bench.mixes import MIXES, MPS, Mix, ways
from nvshare.cli.bench.mps import optional_mps
from nvshare.cli.bench.node import BenchNode, temporary_node
from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.policies_table import policies_table
from nvshare.cli.bench.result import Row
from nvshare.cli.bench.rhythms import settled_p99_us
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
from nvshare.cli.bench.steady import SETTLE_NS, Together, run_settled, settled_bounds, with_room
from nvshare.cli.bench.throughput import common_speeds
from nvshare.cli.bench.workload import Answer, Workload, named
from nvshare.cli.node_options import TIME_SHARINGS

SECONDS = 6.0


async def run_policies(mixes: Sequence[Mix], options: BenchOptions, steps: Steps) -> Findings:
    """Each program alone without nvshare, then all programs of each mix together: without nvshare (`stock`), and with
    it on a node for each way to share a card's time.

    For each mix and way: `sum_ratio` is the sum of the speeds, each over the program's own alone, `least_ratio` the
    least of them; `p99_ratio` the time within which 99 of 100 bursts are done over the same alone. Speeds are taken
    over the time in which all ran, without the first three seconds.
    """
    tried = ways(mps=options.mps)
    programs: dict[Workload, Workload] = {}
    for program in (program for mix in mixes for program in mix.programs):
        programs.setdefault(_kind(program), program)
    steps.expect(len(programs) + len(tried) * len(mixes))
    alone: dict[Workload, Answer] = {}
    rows: list[Row] = []
    summary: dict[str, float] = {}
    hardware = ""
    for way in tried:
        on_node = replace(with_room(options), time_sharing=way if way in TIME_SHARINGS else None)
        async with (
            temporary_node(node_options(on_node, mode="auto")) as node,
            optional_mps(node, wanted=way == MPS) as mps,
        ):
            hardware = hardware_words(node.gpus)
            if not alone:
                alone = await _run_each_alone(node, programs, options, steps)
                rows += [_alone_row(node, programs[kind], answer) for kind, answer in alone.items()]
            for mix in mixes:
                steps.step(f"{way}: {mix.text}")
                jobs = [Job(program, settled_bounds(options, SECONDS)) for program in mix.programs]
                jobs = [mps.of(job) for job in jobs] if mps is not None else jobs
                together = await run_settled(node, options, jobs, managed=way in TIME_SHARINGS)
                solos = [alone[_kind(program)] for program in mix.programs]
                rows += together.rows(node, f"{mix.name}, {way}", [_settled_speed(solo) for solo in solos])
                summary |= mix_figures(mix, way, together, solos)
    return Findings(hardware, tuple(rows), summary)


async def _run_each_alone(
    node: BenchNode, programs: Mapping[Workload, Workload], options: BenchOptions, steps: Steps
) -> dict[Workload, Answer]:
    answers = {}
    for kind, program in programs.items():
        steps.step(f"{program.name} alone, without nvshare")
        job = Job(program, settled_bounds(options, SECONDS))
        answers[kind] = await run_alone(node, options, job, managed=False)
    return answers


def mix_figures(mix: Mix, way: str, together: Together, alone: Sequence[Answer]) -> dict[str, float]:
    """For the summary: of the programs of a mix that ran together in this way, and of each one alone."""
    ratios = [speed / _settled_speed(solo) for speed, solo in zip(together.speeds, alone, strict=True)]
    name = f"{mix.name}_{way}"
    figures = {f"{name}_sum_ratio": sum(ratios), f"{name}_least_ratio": min(ratios)}
    if mix.bursty is not None:
        both, solo = together.answers[mix.bursty], alone[mix.bursty]
        figures[f"{name}_p99_ratio"] = settled_p99_us(both) / settled_p99_us(solo)
    return figures


def _kind(program: Workload) -> Workload:
    """The program without its name: those of one kind have the same speed alone."""
    return named(program, "")


def _settled_speed(answer: Answer) -> float:
    """Its speed without the first seconds, as that of programs together is taken: random bursts are the same then."""
    (speed,) = common_speeds([answer.progress], SETTLE_NS)
    return speed


def _alone_row(node: BenchNode, program: Workload, answer: Answer) -> Row:
    name, gpu = f"{program.name} alone", gpu_words(node.gpus[0])
    return Row(name, gpu, answer.status, answer.seconds, _settled_speed(answer))


POLICIES = Scenario(
    "policies",
    "Mixes of programs under each way to share a card's time (--time-sharing, --mps).",
    partial(run_policies, MIXES),
    table=policies_table,
    mps=True,
)
