"""What a scenario is, and what all scenarios build on: a node, programs alone or together, and their answers."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import RenderableType

from nvshare.bus.compute import DEFAULT_WEIGHT, NORMAL
from nvshare.bus.quantities import format_bytes
from nvshare.cli.bench.node import BenchNode
from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.result import Result, Row
from nvshare.cli.bench.table import result_table
from nvshare.cli.bench.workload import Answer, Bounds, RunningWorkload, Workload, running
from nvshare.cli.errors import CommandError
from nvshare.cli.node_options import NodeOptions
from nvshare.v1.control_pb2 import GpuStatus


class Steps(Protocol):
    """Shows how far a scenario is."""

    def expect(self, count: int) -> None:
        """So many steps will come."""

    def step(self, text: str) -> None:
        """The next step begins."""


@dataclass(frozen=True)
class Findings:
    """What a scenario's runner returns. `hardware` in words; `summary` the figures that the scenario is about."""

    hardware: str
    rows: tuple[Row, ...]
    summary: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """A benchmark: its name on the command line, one sentence for `--list`, what runs it, and what shows its result.

    `mps`: it can do the same under NVIDIA MPS, too (BenchOptions.mps).
    """

    name: str
    text: str
    run: Callable[[BenchOptions, Steps], Awaitable[Findings]]
    table: Callable[[Result], RenderableType] = result_table
    mps: bool = False


def node_options(options: BenchOptions, *, mode: str, gpus: int = 1) -> NodeOptions:
    """A node for a benchmark, in `mode` if the options name no other; its folder is chosen when it starts."""
    return NodeOptions(
        directory=Path(),
        emulated_gpus=gpus if options.emulated else 0,
        gpus=options.gpus,
        gpu_memory_bytes=options.gpu_memory_bytes,
        mode=options.mode or mode,
        time_sharing=options.time_sharing,
        quantum=options.quantum,
    )


def hardware_words(gpus: Sequence[GpuStatus]) -> str:
    """The GPUs and the host's cores, for the record."""
    cards = f"{len(gpus)} x {gpus[0].name}, {format_bytes(gpus[0].total_bytes)}"
    return f"{cards}, {format_bytes(gpus[0].capacity_bytes)} shared; {os.cpu_count()} CPU cores"


def need_two_gpus(node: BenchNode, scenario: str) -> None:
    """Raises CommandError where the node has fewer."""
    if len(node.gpus) < 2:
        raise CommandError(f"{scenario} needs two GPUs; add `--emulate` for emulated ones")


def gpu_words(*gpus: GpuStatus) -> str:
    """The GPUs of a row: the index of each and the beginning of its UUID."""
    return ", ".join(f"{gpu.index} ({gpu.uuid.removeprefix('GPU-')[:8]})" for gpu in gpus)


@dataclass(frozen=True)
class Job:
    """A program, when it ends, and the GPUs (positions in the node's list) that it uses.

    `limit_bytes` is its memory quota (0: none), `core_limit_percent`, `weight` and `priority` its share of the GPUs'
    time, `prefix` a command that runs it, `settings` further environment.
    """

    workload: Workload
    bounds: Bounds
    gpus: tuple[int, ...] = (0,)
    limit_bytes: int = 0
    core_limit_percent: int = 0
    weight: int = DEFAULT_WEIGHT
    priority: str = NORMAL
    prefix: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def on(self, node: BenchNode) -> list[GpuStatus]:
        """Its GPUs on this node."""
        return [node.gpus[position] for position in self.gpus]


async def run_alone(node: BenchNode, options: BenchOptions, job: Job, *, managed: bool) -> Answer:
    """Run one program to its end, with or without nvshare. Raises CommandError when it fails."""
    (answer,) = await run_together(node, options, [job], managed=managed)
    return answer


async def run_together(
    node: BenchNode, options: BenchOptions, jobs: Sequence[Job], *, managed: bool, wait_for_start: bool = False
) -> list[Answer]:
    """Run programs at the same time; their answers in order. Raises CommandError when one fails.

    With `wait_for_start` none starts before all have warmed up: only for programs that fit side by side.
    """
    wait = "--wait-for-start" if wait_for_start else None
    async with started(node, options, jobs, managed=managed, wait=wait) as programs:
        return list(await asyncio.gather(*(program.answer() for program in programs)))


@contextlib.asynccontextmanager
async def started(
    node: BenchNode, options: BenchOptions, jobs: Sequence[Job], *, managed: bool, wait: str | None = None
) -> AsyncIterator[list[RunningWorkload]]:
    """Programs that run at the same time, in order; those that still run end with the context.

    `wait` is the workloads' option for what they wait with until all are as far (workloads/loop.py).
    """
    async with contextlib.AsyncExitStack() as stack:
        programs: list[RunningWorkload] = []
        for job in jobs:
            environment = await stack.enter_async_context(
                node.environment(
                    job.workload.name,
                    job.on(node),
                    managed=managed,
                    memory_limit_bytes=job.limit_bytes,
                    core_limit_percent=job.core_limit_percent,
                    weight=job.weight,
                    priority=job.priority,
                )
            )
            command = job.workload.command(emulated=options.emulated, gpus=len(job.gpus)) + job.bounds.arguments()
            command += [wait] if wait is not None else []
            command = [*job.prefix, *command]
            process = running(job.workload.name, command, {**environment, **job.settings}, node.logs)
            programs.append(await stack.enter_async_context(process))
        if wait is not None:
            await asyncio.gather(*(program.ready() for program in programs))
            for program in programs:
                program.go()
        yield programs
