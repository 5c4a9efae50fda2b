"""The soak: for a long time programs that need three times the memory that there is share an emulated GPU, while one
of them is killed every ten seconds and another one takes its place.

    python tests/soak/oversubscribed.py --minutes 30

Ends in a report, and with status 1 when a program's sums were wrong, a program failed that nobody killed, the card ever
held more than its capacity by its own account, or memory leaked: of the card, of the services, or of the arena.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from nvshare.bus import subjects
from nvshare.bus.connection import Bus
from nvshare.bus.node_directory import NodeDirectory
from nvshare.bus.quantities import format_bytes
from nvshare.cli.bench.node import BenchNode
from nvshare.cli.bench.scenario import Job
from nvshare.cli.bench.workload import Bounds, RunningWorkload, Workload, running
from nvshare.cli.errors import CommandError
from nvshare.cli.job import emulated_cards
from nvshare.cli.node_launch import launch_node
from nvshare.cli.node_options import NodeOptions
from nvshare.cli.node_query import fetch_status
from nvshare.emulator.account import totals
from nvshare.v1.node_pb2 import RelayState

MIB = 2**20
CAPACITY_BYTES = 1024 * MIB
CARD_BYTES = 8 * CAPACITY_BYTES  # as an H200 of which 16 GiB are shared; the contexts of the programs are on it too
TASKS = 12
TASK_BYTES = 256 * MIB  # three times the capacity in all
KERNEL_NS = 1_000_000
ITERATIONS = (1000, 6000)  # of a program: so many milliseconds alone on the card
KILL_SECONDS = 10.0
LOOK_SECONDS = 1.0
QUIET_SECONDS = 30.0  # in which everything must be free again at the end
END_SECONDS = 240.0  # for programs that still run when the time is over
GROWTH = 1.25  # of a service's memory, from its first quarter to its end
GROWTH_BYTES = 24 * MIB


@dataclass
class Findings:
    """What happened."""

    finished: int = 0
    killed: int = 0
    problems: list[str] = field(default_factory=list)
    hand_overs: int = 0
    swapped_bytes: int = 0
    most_on_card_bytes: int = 0
    resident_bytes: dict[str, list[int]] = field(default_factory=dict)  # of each service, look by look
    arena_bytes: list[int] = field(default_factory=list)  # that the relay's arena has made


class Soak:
    """One run of it."""

    def __init__(self, node: BenchNode, seed: int) -> None:
        self._node = node
        self._chance = random.Random(seed)
        self._number = 0
        self._programs: dict[RunningWorkload, bool] = {}  # whether it was killed
        self._stopping = asyncio.Event()
        self.findings = Findings()

    async def run(self, seconds: float) -> None:
        """Programs come and go for so long; then those that run end by themselves."""
        works = [asyncio.create_task(self._one_after_the_other()) for _ in range(TASKS)]
        others = [asyncio.create_task(self._kill_now_and_then()), asyncio.create_task(self._look_again_and_again())]
        await asyncio.sleep(seconds)
        self._stopping.set()
        _, late = await asyncio.wait(works, timeout=END_SECONDS)
        for work in late:
            work.cancel()
        if late:
            self.findings.problems.append(f"{len(late)} programs are not done {END_SECONDS:.0f} s after the end")
        for other in others:
            other.cancel()
        for outcome in await asyncio.gather(*works, *others, return_exceptions=True):
            if isinstance(outcome, Exception):
                self.findings.problems.append(f"the soak itself: {outcome!r}")
        await self._everything_is_free()

    async def _one_after_the_other(self) -> None:
        while not self._stopping.is_set():
            self._number += 1
            name = f"task-{self._number}"
            iterations = self._chance.randint(*ITERATIONS)
            job = Job(
                Workload(name, TASK_BYTES, KERNEL_NS, seed=self._number % 1000 + 1), Bounds(iterations=iterations)
            )
            command = job.workload.command(emulated=True) + job.bounds.arguments()
            async with (
                self._node.environment(name, [self._node.gpus[0]], managed=True) as environment,
                running(name, command, environment, self._node.logs) as program,
            ):
                self._programs[program] = False
                try:
                    answer = await program.answer()
                except CommandError as error:
                    if self._programs[program]:
                        self.findings.killed += 1
                    else:
                        self.findings.problems.append(str(error))
                else:
                    self.findings.finished += 1
                    if not answer.correct:
                        self.findings.problems.append(f"{name}: its sums are wrong")
                del self._programs[program]

    async def _kill_now_and_then(self) -> None:
        while not self._stopping.is_set():
            await asyncio.sleep(KILL_SECONDS)
            living = [program for program, killed in self._programs.items() if not killed]
            if living and not self._stopping.is_set():
                program = self._chance.choice(living)
                self._programs[program] = True
                program.kill()

    async def _look_again_and_again(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._node.directory.read_description()["pid"]).children():
                words = " ".join(child.cmdline())
                name = next(
                    (known for known in ("nats-server", "nvshare.relay", "nvshare.scheduler") if known in words), ""
                )
                # What is shared is counted once, for the host.
                if name:
                    memory = child.memory_info()
                    self.findings.resident_bytes.setdefault(name, []).append(memory.rss - memory.shared)
        gpu = (await fetch_status(self._node.directory)).gpus[0]
        self.findings.hand_overs = gpu.hand_overs
        self.findings.swapped_bytes = gpu.swapped_bytes
        self.findings.most_on_card_bytes = totals().peak_memory_bytes

    async def _everything_is_free(self) -> None:
        """Wait for what the last programs had to be free again, by the card's account and by the scheduler's."""
        deadline = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < deadline:
            status = await fetch_status(self._node.directory)
            left = [
                totals().used_bytes,
                status.gpus[0].promised_bytes,
                len(status.allocations),
                len(status.gpus[0].holders),
                self.findings.arena_bytes[-1] if self.findings.arena_bytes else 0,
            ]
            if not any(left):
                break
            await asyncio.sleep(LOOK_SECONDS)
        else:
            self.findings.problems.append(
                f"left at the end: {format_bytes(left[0])} on the card, {format_bytes(left[1])} promised, "
                f"{left[2]} allocations, {left[3]} holders of memory, {format_bytes(left[4])} in the arena"
            )
        await self._look()


def judge(findings: Findings) -> None:
    """Add what is wrong with the sums to the problems."""
    if findings.most_on_card_bytes > CAPACITY_BYTES:
        findings.problems.append(f"{format_bytes(findings.most_on_card_bytes)} were on the card at once")
    if not findings.hand_overs or not findings.swapped_bytes:
        findings.problems.append("nothing was ever moved: no turns were taken")
    for name, looks in findings.resident_bytes.items():
        early = max(looks[: max(1, len(looks) // 4)])
        if looks[-1] > GROWTH * early + GROWTH_BYTES:
            findings.problems.append(f"{name} grew from {format_bytes(early)} to {format_bytes(looks[-1])}")


def report(findings: Findings, seconds: float) -> Table:
    """The findings for people."""
    table = Table(title=f"{seconds / 60:.1f} minutes, {TASKS} programs of {format_bytes(TASK_BYTES)} at a time")
    table.add_column("what")
    table.add_column("figure", justify="right")
    figures = {
        "programs that ended with the right sums": str(findings.finished),
        "programs killed": str(findings.killed),
        "hand-overs": str(findings.hand_overs),
        "moved out and in": format_bytes(findings.swapped_bytes),
        "most on the card at once": f"{format_bytes(findings.most_on_card_bytes)} of {format_bytes(CAPACITY_BYTES)}",
        "the node's arena, most": format_bytes(max(findings.arena_bytes, default=0)),
    }
    for name, looks in findings.resident_bytes.items():
        figures[f"memory of {name}, first quarter / end"] = " / ".join(
            map(format_bytes, (max(looks[: max(1, len(looks) // 4)]), looks[-1]))
        )
    for what, figure in figures.items():
        table.add_row(what, figure)
    return table


@contextlib.asynccontextmanager
async def relay_heard(directory: NodeDirectory, findings: Findings) -> AsyncIterator[None]:
    """Take down what the relay says of its arena, once a second."""
    description = directory.read_description()
    credentials = directory.service_credentials("scheduler").read_text()
    bus = await Bus.connect(url=str(description["nats_url"]), jwt=credentials, name="soak")

    def hear(_: str, state: RelayState) -> None:
        findings.arena_bytes.append(state.arena_made_bytes)

    try:
        await bus.subscribe(subjects.relay(str(description["node"])), RelayState, hear)
        yield
    finally:
        await bus.close()


async def soak(seconds: float, seed: int, host_memory: str) -> Findings:
    """A node, the soak on it, and the judgement."""
    os.environ["NVSHARE_HOST_MEMORY"] = host_memory
    os.environ["NVSHARE_GPU_MEMORY"] = str(CAPACITY_BYTES)
    with tempfile.TemporaryDirectory(prefix="nvshare-soak-", ignore_cleanup_errors=True) as folder:
        launched = launch_node(
            NodeOptions(Path(folder), emulated_gpus=1, gpu_memory_bytes=CARD_BYTES, quantum=0.5), detach=False
        )
        try:
            directory = NodeDirectory(Path(folder))
            cards = emulated_cards(directory)
            assert cards is not None
            os.environ["NVSHARE_EMULATOR_DIR"] = str(cards.folder)
            node = BenchNode(directory, tuple((await fetch_status(directory)).gpus), cards)
            run = Soak(node, seed)
            async with relay_heard(directory, run.findings):
                await run.run(seconds)
        finally:
            launched.stop()
    judge(run.findings)
    return run.findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--host-memory", default="arena", choices=("arena", "own", "sparse"), help="of the programs")
    parser.add_argument("--json", type=Path, help="write the findings here")
    arguments = parser.parse_args()
    findings = asyncio.run(soak(arguments.minutes * 60, arguments.seed, arguments.host_memory))
    console = Console()
    console.print(report(findings, arguments.minutes * 60))
    for problem in findings.problems[:50]:
        console.print(f"problem: {problem}", style="bold red", markup=False)
    if arguments.json is not None:
        figures = {
            name: value for name, value in vars(findings).items() if name not in ("resident_bytes", "arena_bytes")
        }
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 1 if findings.problems else 0


if __name__ == "__main__":
    sys.exit(main())
