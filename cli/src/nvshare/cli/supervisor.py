"""Keeps the processes of a node alive: starts them, starts again what dies, ends all of them together.

Each service writes into a log file of its own. Secrets reach a service through a pipe that it inherits, never through
its environment, its arguments or a file.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

SHORTEST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 2.0
STEADY_SECONDS = 10.0  # a process that lived so long counts as started well: its next delay is the shortest again
END_SECONDS = 5.0  # how long a service may take to end before it is killed


@dataclass(frozen=True)
class ServiceProcess:
    """What is to run: a name for people and for the log file, the command line, and its whole environment.

    `secret` is written into a pipe whose read end the process inherits; `secret_variable` is the environment variable
    that gets the descriptor's number. Each start gets the same secret through a new pipe.
    """

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    secret: bytes = field(default=b"", repr=False)
    secret_variable: str = ""


def restart_delay_seconds(quick_deaths: int) -> float:
    """How long to wait before the next start after `quick_deaths` in a row: doubles up to a bound."""
    return min(SHORTEST_DELAY_SECONDS * 2.0 ** max(min(quick_deaths, 16) - 1, 0), LONGEST_DELAY_SECONDS)


def describe_exit(status: int) -> str:
    """A process's end in words, from `Popen.returncode` (negative: the signal that killed it)."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


class Supervisor:
    """Runs services until it is told to stop. `announce` gets one line for people about each unexpected end.

    Without a `log_directory` the services write where we do.
    """

    def __init__(self, log_directory: Path | None, announce: Callable[[str], None]) -> None:
        self._log_directory = log_directory
        self._announce = announce
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._starts: dict[str, int] = {}
        self._stopping = asyncio.Event()

    def start(self, service: ServiceProcess) -> None:
        """Keep this service running from now on."""
        self.keep(service.name, lambda: self._run_once(service))

    def keep(self, name: str, run_once: Callable[[], Awaitable[int]]) -> None:
        """Keep something running that `run_once` starts and whose exit status it returns; cancelled, it must end it."""
        self._keepers.append(asyncio.create_task(self._keep(name, run_once), name=f"keep {name}"))

    def pid(self, name: str) -> int | None:
        """The pid of a service, None while it is not running."""
        process = self._processes.get(name)
        return process.pid if process is not None else None

    def starts(self, name: str) -> int:
        """How often a service was started."""
        return self._starts.get(name, 0)

    async def stop(self) -> None:
        """End all services, the last started first; kill what has not ended after `END_SECONDS`."""
        self._stopping.set()
        for keeper in reversed(self._keepers):
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        self._keepers.clear()

    async def _keep(self, name: str, run_once: Callable[[], Awaitable[int]]) -> None:
        quick_deaths = 0
        while not self._stopping.is_set():
            self._starts[name] = self.starts(name) + 1
            started = time.monotonic()
            try:
                end = describe_exit(await run_once())
            except Exception as error:  # whatever it is, the service is to run again
                end = f"cannot be started: {error}"
            quick_deaths = 0 if time.monotonic() - started >= STEADY_SECONDS else quick_deaths + 1
            with contextlib.suppress(TimeoutError):
                # At Ctrl-C a service may end before we end it: no news, and no reason to start it again.
                await asyncio.wait_for(self._stopping.wait(), restart_delay_seconds(quick_deaths))
                return
            with contextlib.suppress(OSError):  # nobody listens any more: the node goes on
                where = "" if self._log_directory is None else f" (its log: {self._log_directory / f'{name}.log'})"
                self._announce(f"{name} {end}; starting it again{where}")

    async def _run_once(self, service: ServiceProcess) -> int:
        environment = dict(service.environment)
        inherited: tuple[int, ...] = ()
        if service.secret_variable:
            read_end, write_end = os.pipe()
            # A pipe holds at least 4 KiB without a reader, and the secrets are a few hundred bytes.
            os.write(write_end, service.secret)
            os.close(write_end)
            environment[service.secret_variable] = str(read_end)
            inherited = (read_end,)
        try:
            with self._log(service.name) as log:
                process = await asyncio.create_subprocess_exec(
                    *service.arguments,
                    env=environment,
                    pass_fds=inherited,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # A group of its own: Ctrl-C reaches the supervisor only, which then ends the services in order.
                    process_group=0,
                )
        finally:
            for descriptor in inherited:
                os.close(descriptor)
        self._processes[service.name] = process
        try:
            return await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
        finally:
            del self._processes[service.name]

    @contextlib.contextmanager
    def _log(self, name: str) -> Iterator[IO[bytes] | None]:
        """Where a service writes to; None: where we do."""
        if self._log_directory is None:
            yield None
            return
        with (self._log_directory / f"{name}.log").open("ab") as log:
            yield log


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), END_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
