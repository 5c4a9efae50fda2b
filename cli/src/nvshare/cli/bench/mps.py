"""NVIDIA MPS, to compare with: a control daemon of our own for a while, and what programs need to use it.

No setting of the card is changed: MPS works in its usual compute mode, too.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nvshare.bus.compute import BEST_EFFORT
from nvshare.cli.bench.node import BenchNode
from nvshare.cli.bench.scenario import Job
from nvshare.cli.errors import CommandError
from nvshare.v1.control_pb2 import GpuStatus

CONTROL = "nvidia-cuda-mps-control"
START_SECONDS = 10.0
ANSWER_SECONDS = 10.0
END_SECONDS = 1.0
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
LOGS = "CUDA_MPS_LOG_DIRECTORY"
PRIORITY = "CUDA_MPS_CLIENT_PRIORITY"
THREADS = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"


@dataclass(frozen=True)
class Mps:
    """A control daemon that runs, by the folder of its sockets."""

    pipes: Path

    def of(self, job: Job, threads_percent: int | None = None) -> Job:
        """The job as a client of this daemon, which may use so much of the card at the same time; None: all of it. MPS
        knows two priorities: best effort is below the others."""
        settings = {**job.settings, PIPES: str(self.pipes)}
        if job.priority == BEST_EFFORT:
            settings[PRIORITY] = "1"
        if threads_percent is not None:
            settings[THREADS] = str(threads_percent)
        return replace(job, settings=settings)


def control_program() -> str:
    """Path of the control program. Raises CommandError where there is none."""
    path = shutil.which(CONTROL)
    if path is None:
        raise CommandError(f"--mps needs {CONTROL} on PATH, which comes with NVIDIA's driver")
    return path


@contextlib.asynccontextmanager
async def running_mps(gpus: Sequence[GpuStatus], logs: Path) -> AsyncIterator[Mps]:
    """MPS for these GPUs; it has ended when the context has, whatever ended it. Its logs go to `logs`.

    Raises CommandError when it does not start, or when no program has used it: a client that does not reach the daemon
    runs without MPS, and says nothing.
    """
    control = control_program()
    # Not where the node is: the path of a socket is short, and TMPDIR may be long.
    with tempfile.TemporaryDirectory(prefix="nvshare-mps-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        base = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", THREADS)}
        uuids = ",".join(gpu.uuid for gpu in gpus)
        environment = {**base, PIPES: folder, LOGS: str(logs), "CUDA_VISIBLE_DEVICES": uuids}
        try:
            await _start(control, environment, logs)
            yield Mps(Path(folder))
            if not _tell(control, environment, "get_server_list").split():
                raise CommandError(f"no program used NVIDIA MPS: it has no server for {uuids}")
        finally:  # nothing here waits on the event loop: a second Ctrl-C finds nothing to cancel
            _tell(control, environment, "quit")
            _end_all(folder)


@contextlib.asynccontextmanager
async def optional_mps(node: BenchNode, *, wanted: bool) -> AsyncIterator[Mps | None]:
    """MPS for the GPUs of this node, or None where it is not wanted."""
    if not wanted:
        yield None
        return
    async with running_mps(node.gpus, node.logs) as mps:
        yield mps


async def _start(control: str, environment: Mapping[str, str], logs: Path) -> None:
    """Start the daemon; what it says goes to a file, as it keeps its standard error open."""
    words = logs / "mps.log"
    with words.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            control, "-d", env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        status = await asyncio.wait_for(process.wait(), START_SECONDS)
    except TimeoutError:
        raise CommandError(f"NVIDIA MPS did not start within {START_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
    if status != 0:
        said = words.read_text(errors="replace").strip().splitlines()
        raise CommandError(f"NVIDIA MPS did not start: {said[-1] if said else f'status {status}'}")


def _tell(control: str, environment: Mapping[str, str], command: str) -> str:
    """Tell the daemon a command. Gives what it answers; empty where it does not."""
    try:
        return subprocess.run(
            [control],
            input=f"{command}\n",
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=ANSWER_SECONDS,
            check=False,
            text=True,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _end_all(folder: str) -> None:
    """Wait a little for the ends of all processes of this daemon, and kill what stays."""
    for pid in _left(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _left(folder)


def _left(folder: str) -> list[int]:
    """Those of its processes that have not ended by themselves after a while."""
    deadline = time.monotonic() + END_SECONDS
    while (left := _processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _processes_of(folder: str) -> list[int]:
    """The daemon, its servers and clients: those that were started with this folder, which nobody else knows."""
    mark = f"{PIPES}={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # of another user, or it has ended
            if entry.name.isdecimal() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found
