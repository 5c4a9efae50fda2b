"""Starts a node as a process of its own and waits until it serves."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from nvshare.cli.errors import CommandError
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


def launch_node(options: NodeOptions, *, detach: bool) -> LaunchedNode:
    """Start `nvshare up` in the background; return when it serves.

    A detached node outlives this process; another one ends when this process ends. Its output goes to `logs/up.log`.
    Raises CommandError with the node's own words when it does not start.
    """
    log_directory = options.directory / "logs"
    try:
        log_directory.mkdir(parents=True, exist_ok=True)
        log = (log_directory / "up.log").open("ab")
    except OSError as error:
        raise CommandError(
            f"cannot write to {log_directory}: {error.strerror}; choose another folder with --node-dir"
        ) from error
    read_end, write_end = os.pipe()
    environment = dict(os.environ)
    arguments = ["up", *options.arguments(), "--ready-fd", str(write_end)]
    if detach:
        arguments.append("--background")
    else:
        environment["NVSHARE_PARENT_DEATH"] = "1"
    try:
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "nvshare.cli", *arguments],
                env=environment,
                pass_fds=(write_end,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/" if detach else None,  # it would keep a folder busy that it does not need
            )
    finally:
        os.close(write_end)
    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        answer = _read_line(pipe.fileno(), START_SECONDS)
    if detach or answer == RUNNING:
        process.wait()
    if answer == RUNNING:
        return LaunchedNode(started=False)
    if answer == READY:
        return LaunchedNode(started=True, process=None if detach else process)
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    process.wait()
    raise CommandError(answer or f"the node did not start; see {log_directory / 'up.log'}")


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
