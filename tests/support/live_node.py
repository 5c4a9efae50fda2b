"""A whole node on emulated GPUs, as a user starts it, and programs that run on it."""

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil
import pytest

from nvshare.bus.node_client import NodeError
from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.node_query import fetch_status
from nvshare.cli.quota import Quota, set_quota
from nvshare.cli.status import status_document
from nvshare.emulator.account import Turn

T = TypeVar("T")
GIB = 2**30
MIB = 2**20
STATUS_SECONDS, STATUS_TRIES = 0.5, 4  # short tries, so that a node which is back is seen at once
PUPPET = Path(__file__).parents[1] / "programs" / "puppet.py"
LOOK_AT_CARD = """
import dataclasses, json
from nvshare.emulator.account import totals
print(json.dumps(dataclasses.asdict(totals())))
"""
LOOK_AT_BUSY = """
import json
from nvshare.emulator.account import accounts
print(json.dumps({account.pid: account.busy_ns for account in accounts()}))
"""
LOOK_AT_TURNS = """
import dataclasses, json, sys, time
from nvshare.emulator.account import turns
deadline_ns = time.monotonic_ns() + 20 * 10**9
while not (found := turns()) or found[-1].end_ns < int(sys.argv[1]) and time.monotonic_ns() < deadline_ns:
    time.sleep(0.02)
print(json.dumps([dataclasses.asdict(turn) for turn in found]))
"""
NVSHARE = (sys.executable, "-m", "nvshare.cli")


def wait_until(condition: Callable[[], T | None], seconds: float, what: str) -> T:
    """The first true value of `condition`. Fails the test when `seconds` are over before."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() >= deadline:
            pytest.fail(f"{what} did not come true within {seconds} s")
        time.sleep(0.02)  # each look costs the host, on which the programs run, too
    assert value is not None
    return value


class Puppet:
    """A program under nvshare that does what it is told (tests/programs/puppet.py). It starts while others do; the
    first word to it waits until it has."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    @functools.cached_property
    def pid(self) -> int:
        """Its process ID. Waits until it has started."""
        return int(self._line()["pid"])

    def start(self, line: str) -> None:
        """Tell it to do something, without waiting for its answer."""
        assert self.pid
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Its next answer."""
        return self._line()

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the program ended with {self.process.wait()}"
        value: dict[str, Any] = json.loads(line)
        return value

    def do(self, line: str) -> dict[str, Any]:
        """Tell it to do something, and give its answer, which must be no error."""
        self.start(line)
        answer = self.answer()
        assert answer["error"] is None, (line, answer)
        return answer

    def kill(self) -> int:
        """Kill the program itself, as the kernel's OOM killer does. Gives the time, in ns of CLOCK_MONOTONIC."""
        os.kill(self.pid, signal.SIGKILL)
        return time.monotonic_ns()

    def end(self) -> None:
        """Leave nothing behind. One that is still busy would not hear that nobody talks to it any more."""
        with contextlib.suppress(ProcessLookupError, AssertionError):  # it has ended, or never started
            os.kill(self.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


class Workload:
    """A workload of the bench under nvshare (nvshare.cli.workloads.emulated): it computes, and checks itself."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ready(self) -> None:
        """Wait until it has the card in use; it has no memory on it yet."""
        assert self.process.stdout is not None
        assert json.loads(self.process.stdout.readline()) == {"event": "ready"}

    def go(self) -> None:
        """Let it allocate and compute, or end."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def finish(self) -> dict[str, Any]:
        """Tell one that was started with `--until-told` to end, and give what it said of its run."""
        self.go()
        return self.result()

    def result(self, seconds: float = 40.0) -> dict[str, Any]:
        """What it said of its run, which must have gone well."""
        try:
            stdout, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the program is not done after {seconds} s")
        assert self.process.returncode == 0, f"the program ended with {self.process.returncode}"
        value: dict[str, Any] = json.loads(stdout)
        assert value["correct"], "its sums are wrong"
        return value

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Node:
    """A running `nvshare up`."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.directory = directory
        self.process = process
        self.puppets: list[Puppet] = []
        self.workloads: list[Workload] = []

    def nvshare(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `nvshare COMMAND …` on this node."""
        words = 2 if arguments[0] == "quota" else 1
        command = [*NVSHARE, *arguments[:words], "--node-dir", str(self.directory), *arguments[words:]]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    def status(self) -> dict[str, Any]:
        """What `nvshare status --json` says. Raises NodeError while the node does not answer."""
        for _ in range(STATUS_TRIES - 1):
            with contextlib.suppress(NodeError):
                return self._ask()
        return self._ask()

    def _ask(self) -> dict[str, Any]:
        return status_document(asyncio.run(fetch_status(NodeDirectory(self.directory), timeout_seconds=STATUS_SECONDS)))

    async def status_async(self) -> dict[str, Any]:
        """The same, for a test with an event loop of its own."""
        return status_document(await fetch_status(NodeDirectory(self.directory)))

    def gpu(self, index: int = 0) -> dict[str, Any]:
        """One GPU of the status."""
        value: dict[str, Any] = next(gpu for gpu in self.status()["gpus"] if gpu.get("index", 0) == index)
        return value

    def clients(self, index: int = 0) -> dict[str, dict[str, Any]]:
        """The clients of one GPU, by the name of their allocation."""
        status = self.status()
        names = {allocation["id"]: allocation["name"] for allocation in status.get("allocations", [])}
        gpu = next(gpu for gpu in status["gpus"] if gpu.get("index", 0) == index)
        return {names[client["allocation"]]: client for client in gpu.get("clients", [])}

    def puppet(self, name: str, gpu: str = "0", options: Sequence[str] = ()) -> Puppet:
        """Start a program under `nvshare run`."""
        process = subprocess.Popen(
            [*NVSHARE, "run", "--node-dir", str(self.directory), "--gpu", gpu, "--name", name, *options, "--",
             sys.executable, str(PUPPET)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        puppet = Puppet(process)
        self.puppets.append(puppet)
        return puppet

    def sibling(self, puppet: Puppet) -> Puppet:
        """Start another program in the allocation of this one."""
        words = Path(f"/proc/{puppet.pid}/environ").read_text().split("\0")
        process = subprocess.Popen(
            [sys.executable, str(PUPPET)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(word.split("=", 1) for word in words if "=" in word),
        )
        sibling = Puppet(process)
        self.puppets.append(sibling)
        return sibling

    def workload(self, name: str, *arguments: object, options: Sequence[str] = ()) -> Workload:
        """Start a workload of the bench under `nvshare run`, with these arguments; it waits for `go`."""
        process = subprocess.Popen(
            [*NVSHARE, "run", "--node-dir", str(self.directory), "--name", name, *options, "--",
             sys.executable, "-m", "nvshare.cli.workloads.emulated", "--name", name, "--wait-for-memory",
             *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        workload = Workload(process)
        self.workloads.append(workload)
        return workload

    def set_quota(self, name: str, quota: Quota) -> int:
        """Give the allocation of this name another quota. Gives when that was asked for, in ns of CLOCK_MONOTONIC."""
        (allocation,) = (one["id"] for one in self.status()["allocations"] if one["name"] == name)
        asked_ns = time.monotonic_ns()
        asyncio.run(set_quota(NodeDirectory(self.directory), allocation, quota))
        return asked_ns

    def card(self) -> dict[str, Any]:
        """What the first emulated card itself says of its memory and its engines (nvshare.emulator.account)."""
        card: dict[str, Any] = self._look(LOOK_AT_CARD)
        return card

    def busy_ns(self) -> dict[int, int]:
        """What the first emulated card itself says of the time that each process had of it, by pid."""
        return {int(pid): busy_ns for pid, busy_ns in self._look(LOOK_AT_BUSY).items()}

    def turns_until(self, end_ns: int) -> list[Turn]:
        """What the first emulated card itself says of who had it when: the latest turns, oldest first, when it has
        worked up to this moment (CLOCK_MONOTONIC)."""
        turns = [Turn(**turn) for turn in self._look(LOOK_AT_TURNS, str(end_ns))]
        assert turns[-1].end_ns >= end_ns, "the card has stopped working"
        return turns

    def _look(self, program: str, *arguments: str) -> Any:
        """What a program says that looks at the account of the node's emulated cards."""
        folder = NodeDirectory(self.directory).read_description()["emulator_dir"]
        # In a process of its own: the account's folder is that of the environment at the first look.
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env={**os.environ, "NVSHARE_EMULATOR_DIR": str(folder)},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    def service(self, name: str) -> psutil.Process | None:
        """The process of a service: relay, scheduler, nats. None while it does not run."""
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                command = " ".join(child.cmdline())
                if child.status() != psutil.STATUS_ZOMBIE and (
                    f"nvshare.{name}" in command or f"{name}-server" in command
                ):
                    return child
        return None

    def kill_service(self, name: str) -> None:
        """Kill a service with SIGKILL; its supervisor starts it again."""
        service = self.service(name)
        assert service is not None
        service.kill()

    @contextlib.contextmanager
    def without_service(self, name: str) -> Iterator[None]:
        """Kill a service with SIGKILL and hold its supervisor, so that it stays away."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            self.kill_service(name)
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def end(self) -> None:
        for puppet in self.puppets:
            puppet.end()
        for workload in self.workloads:
            workload.end()
        os.kill(self.process.pid, signal.SIGCONT)
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(15)
        finally:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()


class MakeNode(Protocol):
    """Starts a node with these options of `nvshare up`."""

    def __call__(self, *options: str) -> Node: ...
