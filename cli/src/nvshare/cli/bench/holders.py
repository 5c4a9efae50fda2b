"""Programs that hold memory and do what they are told, line by line (workloads/holder.py)."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from nvshare.cli.bench.workload import end
from nvshare.cli.errors import CommandError

MODULE = "nvshare.cli.workloads.holder"


class Holder:
    """One running program, and the sizes of the blocks that it has."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.blocks: dict[int, int] = {}
        self._next = 1

    @property
    def used_bytes(self) -> int:
        """Of its blocks."""
        return sum(self.blocks.values())

    async def ready(self) -> None:
        """Wait until it can be told something. Raises CommandError when it ends instead, as all here do."""
        await self._line()

    async def allocate(self, size_bytes: int) -> bool:
        """Take another block; False: out of memory."""
        answer = await self._ask(f"alloc {self._next} {size_bytes}")
        if answer["error"]:
            return False
        self.blocks[self._next] = size_bytes
        self._next += 1
        return True

    async def free(self) -> None:
        """Give the oldest block back."""
        number = next(iter(self.blocks))
        await self._ask(f"free {number}")
        del self.blocks[number]

    async def correct(self) -> bool:
        """Whether every block has what was written into it."""
        return bool((await self._ask("check"))["correct"])

    async def total_bytes(self) -> int:
        """How much memory the GPU has, as the program is told."""
        return int((await self._ask("info"))["total_bytes"])

    async def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        return await self._line()

    async def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            words = self._log.read_text(errors="replace").strip().splitlines() or ["no word on stderr"]
            raise CommandError(f"a program that holds memory ended with {await self._process.wait()}: {words[-1]}")
        document: dict[str, Any] = json.loads(line)
        return document


@contextlib.asynccontextmanager
async def holding(environment: Mapping[str, str], log: Path, *, emulated: bool) -> AsyncIterator[Holder]:
    """A program in `environment`, ready; ended with the context."""
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            MODULE,
            *(["--emulated"] if emulated else []),
            env=dict(environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            process_group=0,
        )
    try:
        holder = Holder(process, log)
        await holder.ready()
        yield holder
    finally:
        await end(process)
