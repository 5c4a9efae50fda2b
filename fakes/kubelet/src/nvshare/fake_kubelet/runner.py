"""What starts containers: the interface, for `ProcessRunner`, `DockerRunner`, or one of a test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from nvshare.fake_kubelet.launches import Launch

SIGNAL_EXIT_CODE = 128
"""A process that signal n ended has the exit code 128 + n."""


class StartError(Exception):
    """A container that could not be started; it is tried again. `reason` is what the pod's status says."""

    def __init__(self, message: str, reason: str = "CreateContainerError") -> None:
        super().__init__(message)
        self.reason = reason


class Running(Protocol):
    """A container that was started."""

    @property
    def id(self) -> str:
        """As the pod's status names it: `runtime://…`."""

    async def wait(self) -> int:
        """The exit code, when the container has ended. May be called by several at once, and later."""

    async def stop(self, grace_seconds: float) -> None:
        """SIGTERM, and SIGKILL when `grace_seconds` are over. Returns when the container has ended."""

    async def remove(self) -> None:
        """Takes away what is left of an ended container. Its log stays."""


class Runner(Protocol):
    """Starts containers."""

    async def start(self, launch: Launch, log: Path) -> Running:
        """Starts a container whose output goes to `log`. Raises StartError."""
