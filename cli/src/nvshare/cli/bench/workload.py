"""The programs that benchmarks run: started with or without nvshare, watched, and their answers read."""

import asyncio
import contextlib
import importlib.util
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nvshare.cli.errors import CommandError

END_SECONDS = 5.0


@dataclass(frozen=True)
class Workload:
    """A workload program and its size.

    On an emulated card it has `memory_bytes` in all and kernels of `kernel_ns`; on a real one it is PyTorch's
    `z = x + y` with `side` rows and columns. `options` are further arguments (workloads/loop.py).
    """

    name: str
    memory_bytes: int
    kernel_ns: int
    side: int = 0
    seed: int = 1
    options: tuple[str, ...] = ()

    def command(self, *, emulated: bool, gpus: int = 1) -> list[str]:
        """The command line, without its bounds, for a program that does the same on each of its `gpus`.

        Raises CommandError where PyTorch is needed and not installed.
        """
        if not emulated and importlib.util.find_spec("torch") is None:
            raise CommandError(f"on a real GPU this runs PyTorch: install torch for {sys.executable}, or add --emulate")
        return [sys.executable, *self.arguments(emulated=emulated, gpus=gpus)]

    def arguments(self, *, emulated: bool, gpus: int = 1) -> list[str]:
        """The same without the interpreter: `-m MODULE …`."""
        if emulated:
            size = ["--memory-bytes", str(self.memory_bytes), "--kernel-ns", str(self.kernel_ns)]
            start = ["-m", "nvshare.cli.workloads.emulated", *size]
        else:
            start = ["-m", "nvshare.cli.workloads.pytorch", "--side", str(self.side)]
        return [*start, "--name", self.name, "--gpus", str(gpus), "--seed", str(self.seed), *self.options]


# The predecessor's sizes; times on an H200. Four tensors: x, y, the old z and the new z.
LARGE = Workload("large", memory_bytes=4 * 4 * 28_000**2, kernel_ns=2_200_000, side=28_000)
SMALL = Workload("small", memory_bytes=4 * 4 * 14_000**2, kernel_ns=540_000, side=14_000)


def named(workload: Workload, name: str) -> Workload:
    """The same program under another name."""
    return replace(workload, name=name)


def numbered(workload: Workload, count: int) -> list[Workload]:
    """The same program several times, with a name for each."""
    return [named(workload, f"{workload.name}-{number}") for number in range(1, count + 1)]


@dataclass(frozen=True)
class Bounds:
    """When a workload ends: after `seconds`, after `iterations`, or after whichever comes first."""

    seconds: float | None = None
    iterations: int | None = None

    def arguments(self) -> list[str]:
        """As arguments of a workload."""
        arguments = [] if self.seconds is None else ["--seconds", str(self.seconds)]
        return arguments if self.iterations is None else [*arguments, "--iterations", str(self.iterations)]


@dataclass(frozen=True)
class Answer:
    """What a workload said of its run; times are CLOCK_MONOTONIC. `finished_ns`: with its results checked."""

    seconds: float
    iterations: int
    iterations_per_second: float
    started_ns: int
    ended_ns: int
    finished_ns: int
    progress: tuple[tuple[int, int], ...] = field(repr=False)
    checksum: str
    correct: bool
    bursts_us: tuple[int, ...] = field(default=(), repr=False)  # how long each took, of a program that pauses

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Answer":
        """From the JSON that the workload printed. Raises KeyError or ValueError for something else."""
        return cls(
            seconds=float(document["seconds"]),
            iterations=int(document["iterations"]),
            iterations_per_second=float(document["iterations_per_second"]),
            started_ns=int(document["started_ns"]),
            ended_ns=int(document["ended_ns"]),
            finished_ns=int(document["finished_ns"]),
            progress=tuple((int(time_ns), int(done)) for time_ns, done in document["progress"]),
            checksum=str(document["checksum"]),
            correct=bool(document["correct"]),
            bursts_us=tuple(int(burst_us) for burst_us in document.get("bursts_us", ())),
        )

    @property
    def status(self) -> str:
        """For the table's row."""
        return "ok" if self.correct else "wrong result"


class RunningWorkload:
    """A workload's process."""

    def __init__(self, name: str, allocation: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.allocation = allocation  # its ID; empty without nvshare
        self._process = process
        self._log = log

    def kill(self) -> int:
        """Kill it, as the kernel's OOM killer does; the time (ns of CLOCK_MONOTONIC) just before."""
        now_ns = time.monotonic_ns()
        self._process.kill()
        return now_ns

    async def ready(self) -> None:
        """Wait until one that waits for its start has warmed up. Raises CommandError when it ends instead."""
        await self._event("ready")

    def go(self) -> None:
        """Let it start. Only for one that waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")

    async def answer(self) -> Answer:
        """Wait for its end. Raises CommandError, with its last words, when it fails."""
        document = await self._event("result")
        if await self._process.wait() != 0:
            raise CommandError(self._last_words())
        return Answer.parse(document)

    async def _event(self, event: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if isinstance(document, dict) and document.get("event") == event:
                    return document
        await self._process.wait()
        raise CommandError(self._last_words())

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "no word on stderr"
        return f"the workload {self.name} ended with status {self._process.returncode}: {last}"


@contextlib.asynccontextmanager
async def running(
    name: str, command: Sequence[str], environment: Mapping[str, str], log_directory: Path
) -> AsyncIterator[RunningWorkload]:
    """A workload's process in `environment`; ended with the context if it still runs then."""
    log_path = log_directory / f"{name}.log"
    with log_path.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            limit=2**24,  # the answer is one line, with all points of progress
            process_group=0,  # Ctrl-C reaches the bench only, which ends its programs in order
        )
    try:
        yield RunningWorkload(name, Path(environment.get("NVSHARE_SOCKET", "")).parent.name, process, log_path)
    finally:
        await end(process)


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process that may still run: SIGTERM first, SIGKILL after a while."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), END_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
