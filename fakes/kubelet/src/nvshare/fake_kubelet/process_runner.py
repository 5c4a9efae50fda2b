"""Containers as processes of this host: without root, without an image."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path

from nvshare.fake_kubelet.host_paths import Translate
from nvshare.fake_kubelet.launches import Launch
from nvshare.fake_kubelet.runner import SIGNAL_EXIT_CODE, StartError


class ProcessRunner:
    """Runs a container's command as a child in a process group of its own; the image is ignored.

    `translate` says which process that is: `host_paths.HostPaths`, or a function of the caller's. A child dies with
    this process where util-linux's setpriv is installed.
    """

    def __init__(self, translate: Translate) -> None:
        self._translate = translate
        # By a program: gRPC's threads do not survive that Python runs code between fork and exec.
        setpriv = shutil.which("setpriv")
        self._prefix = (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()

    async def start(self, launch: Launch, log: Path) -> RunningProcess:
        """Raises StartError."""
        process = self._translate(launch)
        if not process.arguments:
            raise StartError("no command: there is no image that could know one")
        if shutil.which(process.arguments[0], path=process.environment.get("PATH")) is None:
            raise StartError(f"{process.arguments[0]}: no such program", "RunContainerError")
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("ab") as output:
                child = await asyncio.create_subprocess_exec(
                    *self._prefix,
                    *process.arguments,
                    env=dict(process.environment),
                    cwd=process.directory or None,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            raise StartError(str(error), "RunContainerError") from error
        return RunningProcess(child)


class RunningProcess:
    """The container's first process. When it ends, the rest of its group ends, as that of a container does."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.pid = child.pid
        self._child = child
        self._exit: asyncio.Task[int] = asyncio.create_task(self._reap())

    @property
    def id(self) -> str:
        return f"process://{self.pid}"

    async def wait(self) -> int:
        return await asyncio.shield(self._exit)

    async def stop(self, grace_seconds: float) -> None:
        if grace_seconds > 0:
            with contextlib.suppress(ProcessLookupError):
                self._child.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self.wait()
                    return
        self._kill_group()
        await self.wait()

    async def remove(self) -> None:
        """Nothing is left of it."""

    async def _reap(self) -> int:
        code = await self._child.wait()
        self._kill_group()
        return SIGNAL_EXIT_CODE - code if code < 0 else code

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
