"""Starts a node as a process of its own and waits until it serves."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.errors import CommandError
from nvshare.cli.node_folder import check_directory
from nvshare.cli.node_options import NodeOptions

READY = "ready"
RUNNING = "running"
START_SECONDS = 30.0
END_SECONDS = 15.0


@dataclass(frozen=True)
class LaunchedNode:
    """A node that now runs. `started` is False if another process had started it on the same folder.

    `process` is the node's while it depends on us; a detached one is nobody's child.
    """

    started: bool
    process: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        """End the node and wait for it. Does nothing for one that does not depend on us."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def launch_node(
    options: NodeOptions, *, detach: bool, settings: Mapping[str, str] = MappingProxyType({})
) -> LaunchedNode:
    """Start `nvshare up` in the background, with `settings` in its environment; return when it serves.

    A detached node outlives this process; another one ends when this process ends. Its output goes to `logs/up.log`.
    Raises CommandError with the node's own words when it does not start.
    """
    node = NodeDirectory(options.directory)
    check_directory(node.path)
    try:
        node.logs.mkdir(exist_ok=True)
        log = node.log("up").open("ab")
    except OSError as error:
        raise CommandError(
            f"cannot write to {node.logs}: {error.strerror}; choose another folder with --node-dir"
        ) from error
    read_end, write_end = os.pipe()
    arguments = ["up", *options.arguments(), "--ready-fd", str(write_end)]
    arguments += ["--background"] if detach else ["--parent", str(os.getpid())]
    try:
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "nvshare.cli", *arguments],
                pass_fds=(write_end,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **settings},
                cwd="/" if detach else None,  # it would keep a folder busy that it does not need
            )
    finally:
        os.close(write_end)
    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        answer = _read_line(pipe.fileno(), START_SECONDS)
        if answer not in (READY, RUNNING):
            _end_failed_start(process, pipe.fileno(), told=bool(answer))
    if detach or answer != READY:
        process.wait()
    if answer == RUNNING:
        return LaunchedNode(started=False)
    if answer == READY:
        return LaunchedNode(started=True, process=None if detach else process)
    raise CommandError(answer or f"the node did not start; see {node.log('up')}")


def _end_failed_start(process: subprocess.Popen[bytes], pipe: int, *, told: bool) -> None:
    """Wait for the end of a node that `told` why it ends; end one that does not answer.

    Signals go to the process group: a detached node is nobody's child, but stays in the group of `process`, which is
    not waited for before, so that the group's number stays its own. The node holds the pipe open until it has ended.
    """
    with contextlib.suppress(ProcessLookupError):
        if not told:
            os.killpg(process.pid, signal.SIGTERM)
        if not _ends(pipe, END_SECONDS):
            os.killpg(process.pid, signal.SIGKILL)


def _ends(descriptor: int, timeout_seconds: float) -> bool:
    """Whether all writers of the pipe close it before the deadline."""
    deadline = time.monotonic() + timeout_seconds
    while select.select([descriptor], [], [], max(deadline - time.monotonic(), 0.0))[0]:
        if not os.read(descriptor, 4096):
            return True
    return False


def _read_line(descriptor: int, timeout_seconds: float) -> str:
    """What the pipe carries up to its end or the deadline."""
    deadline = time.monotonic() + timeout_seconds
    received = b""
    while b"\n" not in received:
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not select.select([descriptor], [], [], remaining)[0]:
            break
        chunk = os.read(descriptor, 4096)
        if not chunk:
            break
        received += chunk
    return received.decode(errors="replace").split("\n", 1)[0].strip()
