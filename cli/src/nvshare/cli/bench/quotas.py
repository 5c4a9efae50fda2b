"""Memory quotas: the error at the quota, one quota over several processes, quotas that change while programs run."""

import asyncio
import contextlib
import importlib.util
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass

from nvshare.bus.quantities import format_bytes
from nvshare.cli.bench.holders import Holder, holding
from nvshare.cli.bench.node import BenchNode, temporary_node
from nvshare.cli.bench.options import GIB, BenchOptions
from nvshare.cli.bench.result import Row
from nvshare.cli.bench.scenario import Findings, Scenario, Steps, gpu_words, hardware_words, node_options
from nvshare.cli.node_query import fetch_status
from nvshare.cli.quota import Quota, find_allocation, set_quota

MIB = 2**20
QUOTA_BYTES = 4 * GIB
BLOCK_BYTES = 512 * MIB
PROCESSES = 4
TASKS = 8
CHANGES = 100
STEP_BYTES = 64 * MIB  # of the blocks; what a framework takes for itself is less than SLACK_BYTES
SLACK_BYTES = 48 * MIB
MOST_STEPS = 20  # of a task's quota: 8 tasks stay below the card
IN_FORCE_SECONDS = 2.0
JAX_SHARE = 0.75  # of the card's memory that JAX preallocates


@dataclass(frozen=True)
class Outcome:
    """What a part found: `ok` or what was wrong, and how long it took."""

    status: str
    seconds: float


async def run_memory_quota(options: BenchOptions, steps: Steps) -> Findings:
    """Each line is a part; `quota_seconds` is the longest time from a quota's change to its effect in the program."""
    steps.expect(4)
    summary: dict[str, float] = {}
    async with temporary_node(node_options(options, mode="auto")) as node:
        gpu = gpu_words(node.gpus[0])
        steps.step("one program up to its quota and beyond")
        parts = {"error at the quota, and life after it": await _timed(at_the_quota(node, options))}
        steps.step(f"{PROCESSES} processes under one quota")
        parts[f"{PROCESSES} processes of 2 GiB under 4 GiB"] = await _timed(one_quota_for_all(node, options))
        steps.step(f"{CHANGES} random changes on {TASKS} programs")
        changes = RandomChanges(node, options)
        parts[f"{CHANGES} random changes on {TASKS} programs"] = await _timed(changes.run())
        summary["quota_changes"] = float(changes.done)
        summary["quota_seconds"] = changes.longest_seconds
        steps.step("JAX under a quota")
        if missing := no_jax(options):
            parts[f"JAX: {missing}"] = Outcome("ok", 0.0)
        else:
            parts["JAX preallocates by the quota"] = await _timed(jax_preallocates(node, summary))
        rows = tuple(Row(name, gpu, outcome.status, outcome.seconds) for name, outcome in parts.items())
        return Findings(hardware_words(node.gpus), rows, summary)


async def _timed(part: Awaitable[str]) -> Outcome:
    started = time.monotonic()
    status = await part
    return Outcome(status, time.monotonic() - started)


async def at_the_quota(node: BenchNode, options: BenchOptions) -> str:
    """Allocate until the error comes: not before the quota, not beyond it; then free, and go on."""
    async with _holder(node, options, "program", QUOTA_BYTES) as holder:
        while await holder.allocate(BLOCK_BYTES):
            if holder.used_bytes > QUOTA_BYTES:
                return f"{format_bytes(holder.used_bytes)} allocated under {format_bytes(QUOTA_BYTES)}"
        if holder.used_bytes + BLOCK_BYTES <= QUOTA_BYTES - SLACK_BYTES:
            return f"refused with {format_bytes(holder.used_bytes)} in use"
        if (total := await holder.total_bytes()) != QUOTA_BYTES:
            return f"the program is told of {format_bytes(total)}"
        await holder.free()
        await holder.free()
        if not await holder.allocate(BLOCK_BYTES):
            return "refused although memory was freed"
        return "ok" if await holder.correct() else "wrong contents"


async def one_quota_for_all(node: BenchNode, options: BenchOptions) -> str:
    """Four processes of one allocation want 2 GiB each under 4 GiB: two get it less what a framework takes itself."""
    async with contextlib.AsyncExitStack() as stack:
        environment = await stack.enter_async_context(
            node.environment("family", [node.gpus[0]], managed=True, memory_limit_bytes=QUOTA_BYTES + SLACK_BYTES)
        )
        holders = [
            await stack.enter_async_context(
                holding(environment, node.logs / f"family-{number}.log", emulated=options.emulated)
            )
            for number in range(PROCESSES)
        ]
        got = [await holder.allocate(2 * GIB) for holder in holders]
        if got != [True, True, False, False]:
            return f"{sum(got)} of {PROCESSES} got their memory"
        correct = [await holder.correct() for holder in holders]
        return "ok" if all(correct) else "wrong contents"


class RandomChanges:
    """Eight programs, each with a quota of its own, which changes at random while they allocate and free.

    Blocks are whole steps and quotas are steps with a slack, so each allocation's outcome is known beforehand.
    """

    def __init__(self, node: BenchNode, options: BenchOptions) -> None:
        self._node = node
        self._options = options
        self._chance = random.Random(1)
        self.done = 0
        self.longest_seconds = 0.0

    async def run(self) -> str:
        """Make the changes; `ok`, or what was wrong first."""
        async with contextlib.AsyncExitStack() as stack:
            names = [f"task-{number}" for number in range(1, TASKS + 1)]
            holders = {
                name: await stack.enter_async_context(_holder(self._node, self._options, name, self._quota(MOST_STEPS)))
                for name in names
            }
            status = await fetch_status(self._node.directory)
            ids = {name: find_allocation(status, name) for name in names}
            while self.done < CHANGES:
                name = self._chance.choice(names)
                problem = await self._change(holders[name], ids[name])
                if problem:
                    return f"change {self.done + 1}, {name}: {problem}"
                self.done += 1
            wrong = [name for name, holder in holders.items() if not await holder.correct()]
            return f"wrong contents in {', '.join(wrong)}" if wrong else "ok"

    async def _change(self, holder: Holder, allocation: str) -> str:
        quota_bytes = self._quota(self._chance.randint(1, MOST_STEPS))
        started = time.monotonic()
        await set_quota(self._node.directory, allocation, Quota(memory_limit_bytes=quota_bytes))
        while await holder.total_bytes() != quota_bytes:
            if time.monotonic() - started > IN_FORCE_SECONDS:
                return f"the quota is not in force after {IN_FORCE_SECONDS:g} s"
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - started)
        wanted_bytes = STEP_BYTES * self._chance.randint(1, 4)
        fits = holder.used_bytes + wanted_bytes + SLACK_BYTES <= quota_bytes
        if await holder.allocate(wanted_bytes) != fits:
            sums = f"{format_bytes(holder.used_bytes)} in use and {format_bytes(wanted_bytes)} wanted"
            return f"{'refused' if fits else 'allowed'} with {sums} under {format_bytes(quota_bytes)}"
        if holder.blocks and (not fits or self._chance.random() < 0.5):
            await holder.free()
        return "" if await holder.correct() else "wrong contents"

    def _quota(self, steps: int) -> int:
        return steps * STEP_BYTES + SLACK_BYTES


def no_jax(options: BenchOptions) -> str:
    """Why JAX cannot be asked here; empty: it can."""
    if options.emulated:
        return "not on an emulated GPU"
    return "" if importlib.util.find_spec("jax") is not None else f"not installed for {sys.executable}"


async def jax_preallocates(node: BenchNode, summary: dict[str, float]) -> str:
    """JAX takes three quarters of what it believes to be the card, at its start."""
    async with node.environment("jax", [node.gpus[0]], managed=True, memory_limit_bytes=QUOTA_BYTES) as environment:
        with (node.logs / "jax.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "nvshare.cli.workloads.jax_limit",
                env=dict(environment),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        stdout, _ = await process.communicate()
    lines = stdout.splitlines()
    if process.returncode != 0 or not lines:
        return f"JAX ended with {process.returncode}"
    answer = json.loads(lines[-1])
    if answer["platform"] != "gpu":
        return f"JAX runs on {answer['platform']}: install it with CUDA"
    summary["jax_limit_ratio"] = answer["limit_bytes"] / QUOTA_BYTES
    right = answer["correct"] and 0.9 * JAX_SHARE < summary["jax_limit_ratio"] <= JAX_SHARE
    return "ok" if right else f"JAX took {format_bytes(answer['limit_bytes'])}"


@contextlib.asynccontextmanager
async def _holder(node: BenchNode, options: BenchOptions, name: str, limit_bytes: int) -> AsyncIterator[Holder]:
    async with (
        node.environment(name, [node.gpus[0]], managed=True, memory_limit_bytes=limit_bytes) as environment,
        holding(environment, node.logs / f"{name}.log", emulated=options.emulated) as holder,
    ):
        yield holder


MEMORY_QUOTA = Scenario(
    "memory-quota",
    "The error at a quota, four processes under one, and quotas that change at random.",
    run_memory_quota,
)
