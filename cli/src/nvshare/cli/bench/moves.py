"""How fast the card and the host move memory without nvshare: the floor of a swap, and the driver's own ways."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from nvshare.cli.bench.node import BenchNode
from nvshare.cli.bench.workload import end
from nvshare.cli.errors import CommandError

MODULE = "nvshare.cli.workloads.moves"


@dataclass(frozen=True)
class Moved:
    """Bytes that went out and in, one after the other, and how long each took; `error` says why they could not."""

    out_bytes: int
    in_bytes: int
    out_ns: int = 0
    in_ns: int = 0
    error: str = ""

    @property
    def seconds(self) -> float:
        """Both ways."""
        return (self.out_ns + self.in_ns) / 1e9

    def seconds_of(self, out_bytes: float, in_bytes: float) -> float:
        """Time of so many bytes at the same speeds."""
        out_seconds = self.out_ns / 1e9 * out_bytes / self.out_bytes if self.out_bytes else 0.0
        return out_seconds + (self.in_ns / 1e9 * in_bytes / self.in_bytes if self.in_bytes else 0.0)


async def move(node: BenchNode, way: str, out_bytes: int, in_bytes: int) -> Moved:
    """Move memory by `pinned` copies or `managed` prefetches, in a process of its own without nvshare.

    Raises CommandError when the program fails; what the driver refuses is in the answer.
    """
    async with _program(node, way, "--out-bytes", str(out_bytes), "--in-bytes", str(in_bytes)) as process:
        answer = await _answer(process, way)
    return _moved(out_bytes, in_bytes, answer)


async def checkpoint(node: BenchNode, size_bytes: int) -> Moved:
    """Let the driver checkpoint a process that holds so much memory, and restore it."""
    async with _program(node, "hold", "--out-bytes", str(size_bytes)) as holder:
        held = await _answer(holder, "hold")
        if held.get("error"):
            return _moved(size_bytes, size_bytes, held)
        async with _program(node, "checkpoint", "--pid", str(holder.pid)) as process:
            return _moved(size_bytes, size_bytes, await _answer(process, "checkpoint"))


def _moved(out_bytes: int, in_bytes: int, answer: dict[str, Any]) -> Moved:
    return Moved(
        out_bytes, in_bytes, int(answer.get("out_ns", 0)), int(answer.get("in_ns", 0)), str(answer.get("error") or "")
    )


@contextlib.asynccontextmanager
async def _program(node: BenchNode, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    async with node.environment("moves", [node.gpus[0]], managed=False) as environment:
        with (node.logs / "moves.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                MODULE,
                *arguments,
                env=dict(environment),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                process_group=0,
            )
        try:
            yield process
        finally:
            await end(process)


async def _answer(process: asyncio.subprocess.Process, way: str) -> dict[str, Any]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise CommandError(f"the program that moves memory ({way}) ended with status {await process.wait()}")
    document: dict[str, Any] = json.loads(line)
    return document
