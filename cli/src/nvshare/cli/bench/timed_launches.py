"""The small C program that times launches: built with the system's compiler, started, and asked line by line."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from importlib import resources
from pathlib import Path

from nvshare.cli.bench.workload import end
from nvshare.cli.errors import CommandError


def build(folder: Path) -> Path:
    """Compile the program into `folder`. Raises CommandError when there is no compiler, or it fails."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise CommandError("this scenario needs a C compiler: install one (package gcc or clang), or name it in CC")
    program = folder / "timed_launches"
    source_file = resources.files("nvshare.cli.workloads").joinpath("native/timed_launches.c")
    with resources.as_file(source_file) as source:
        command = [compiler, "-std=c11", "-D_GNU_SOURCE", "-O2", "-o", str(program), str(source), "-ldl"]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        first_line = (built.stderr.strip().splitlines() or ["no word on stderr"])[0]
        raise CommandError(f"{compiler} cannot build {source.name}: {first_line}")
    return program


class TimedLaunches:
    """One running instance of the program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    async def ready(self) -> None:
        """Wait until it has launched for the first time. Raises CommandError when it ends instead."""
        if await self._line() != b"ready":
            raise CommandError("timed_launches spoke out of turn")

    async def launch_ns(self, count: int, warm_up: int = 0, *, direct: bool = False) -> int:
        """Time of `count` launches, in ns, after `warm_up` untimed ones; `direct`: past the preloaded library.

        Raises CommandError when the program ends instead.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count} {warm_up}{' direct' if direct else ''}\n".encode())
        return int(await self._line())

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            status = await self._process.wait()
            raise CommandError(f"timed_launches ended with status {status}")
        return line.strip()


@contextlib.asynccontextmanager
async def timed_launches(
    program: Path, environment: Mapping[str, str], log: Path, *, emulated: bool
) -> AsyncIterator[TimedLaunches]:
    """An instance in `environment`, not yet ready; ended with the context. Its stderr goes to `log`."""
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            str(program),
            "emulator" if emulated else "cuda",
            env=dict(environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            process_group=0,
        )
    try:
        yield TimedLaunches(process)
    finally:
        await end(process)
