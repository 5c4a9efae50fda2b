"""A relay that the test plays itself, and programs under the preload library on the emulated GPU."""

import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from builds import build
from nvshare.bus.frames import Connect, Frame, FrameParser, Info, Msg, Ping, Pong, Pub, Source, encode
from nvshare.emulator import library_directory
from nvshare.preload import library_path
from nvshare.v1.client_pb2 import ClientState, Grant, Mode, Report

FOLDER = Path(__file__).parent
PROGRAMS = FOLDER / "programs"
SOURCE = FOLDER.parents[1]
DEADLINE_SECONDS = 20.0
ALLOCATION = "run-data"
WAITING = ClientState.CLIENT_STATE_WAITING
RUNNING = ClientState.CLIENT_STATE_RUNNING
DRAINING = ClientState.CLIENT_STATE_DRAINING
STUCK = ClientState.CLIENT_STATE_STUCK
MIB = 1 << 20
GIB = 1 << 30
UNLIMITED_BYTES = 1 << 60


class Client:
    """One connection of the library to the scripted relay."""

    def __init__(self, stream: socket.socket, pid: int) -> None:
        self.stream = stream
        self.pid = pid
        self.name = ""
        self.reports: list[Report] = []
        self.ended = False
        self._changed = threading.Condition()
        self._epoch = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        return f"{self.pid}-{self.name}"

    def _send(self, frame: Frame) -> None:
        self.stream.sendall(encode(frame))

    def _read(self) -> None:
        parser = FrameParser(Source.CLIENT, 16384)
        try:
            self._send(Info({"nvshare": {"allocation": ALLOCATION, "pid": self.pid, "node": "n1"}}))
            while data := self.stream.recv(65536):
                for frame in parser.feed(data):
                    self._take(frame)
        except OSError:
            pass  # the program or the test closed it
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def _take(self, frame: Frame) -> None:
        match frame:
            case Connect(options):
                self.name = str(options["name"])
            case Ping():
                self._send(Pong())
            case Pub(_, payload, _):
                with self._changed:
                    self.reports.append(Report.FromString(payload))
                    self._changed.notify_all()
            case _:
                pass

    def report_where(self, condition: Callable[[Report], bool], since: int = 0) -> Report:
        """The first report, of those from number `since` on, that the condition holds for; waits for it."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        with self._changed:
            while True:
                while since < len(self.reports):
                    if condition(self.reports[since]):
                        return self.reports[since]
                    since += 1
                left = deadline - time.monotonic()
                if left <= 0 or self.ended:
                    last = self.reports[-1] if self.reports else None
                    raise AssertionError(f"no such report (connection ended: {self.ended}); the last one: {last}")
                self._changed.wait(left)

    def gpu(self) -> str:
        """The UUID of the first GPU that it uses."""
        return self.report_where(lambda report: True).gpu

    def grant(self, gpu: str = "", **fields: Any) -> int:
        """Sends a grant: an open plan for one GPU, but for these fields. Returns its epoch."""
        self._epoch += 1
        wanted: dict[str, Any] = {
            "gpu": gpu or self.gpu(),
            "client": self.token,
            "generation": 1,
            "epoch": self._epoch,
            "sequence": 1,
            "may_launch": True,
            "resident_bytes": UNLIMITED_BYTES,
            "mode": Mode.MODE_CONCURRENT,
            "protocol": 1,
        } | fields
        grant = Grant(**wanted)
        subject = f"nvshare.v1.gpu.{grant.gpu}.alloc.{ALLOCATION}.client.{self.token}.grant"
        self._send(Msg(subject, "1", grant.SerializeToString()))
        return grant.epoch

    def revoke(self, gpu: str = "", **fields: Any) -> Report:
        """Sends a grant that forbids to launch; returns the report that says that nothing is in flight any more."""
        since = len(self.reports)
        epoch = self.grant(gpu, may_launch=False, **fields)
        return self.report_where(
            lambda report: report.epoch == epoch and report.state == WAITING and report.gpu == (gpu or report.gpu),
            since,
        )

    def close(self) -> None:
        self.stream.close() if self.ended else self.stream.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE_SECONDS)
        self.stream.close()


class ScriptedRelay:
    """Listens on a socket as the relay does; what the clients are granted is the test's decision."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clients: queue.Queue[Client] = queue.Queue()
        self._all: list[Client] = []
        self.listen()

    def listen(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        self._thread = threading.Thread(target=self._accept, args=(self.listener,), daemon=True)
        self._thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            client = Client(stream, 4242 + len(self._all))
            self._all.append(client)
            self.clients.put(client)

    def client(self) -> Client:
        """The next client that connects."""
        return self.clients.get(timeout=DEADLINE_SECONDS)

    def latest(self) -> Client:
        """The client that connected last."""
        return self._all[-1]

    def client_with_plan(self, **fields: Any) -> Client:
        """The next client, with a grant as Client.grant() makes it."""
        client = self.client()
        client.grant(**fields)
        return client

    def client_with_plan_after(self, program: "Program", word: str) -> Client:
        """The next client, with a plan, of a program that is told a word and answers it under the plan."""
        program.tell(word)
        client = self.client_with_plan()
        assert program.said()
        return client

    def close(self) -> None:
        """The relay dies: its socket and all connections."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join(DEADLINE_SECONDS)
        self.path.unlink(missing_ok=True)
        for client in self._all:
            client.close()
        self._all.clear()


class Program:
    """A process on the emulated GPU, with or without the preload library, that speaks lines of JSON."""

    def __init__(self, command: list[str], environment: dict[str, str], stderr: Path) -> None:
        self.stderr = stderr
        with stderr.open("wb") as errors:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self._lines: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def said(self) -> dict[str, Any]:
        """What it says next."""
        try:
            line = self._lines.get(timeout=DEADLINE_SECONDS)
        except queue.Empty:
            raise AssertionError(f"it says nothing: {self.stderr.read_text()}") from None
        assert line, f"it ended: {self.stderr.read_text()}"
        words: dict[str, Any] = json.loads(line)
        return words

    def silent(self, seconds: float) -> bool:
        """True if it says nothing for so long."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return True
        raise AssertionError(f"it said {line!r}: {self.stderr.read_text()}")

    def tell(self, word: str = "go") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def end(self) -> str:
        """Waits until it ends well; returns what it wrote on stderr."""
        assert self.process.wait(DEADLINE_SECONDS) == 0, self.stderr.read_text()
        return self.stderr.read_text()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()


class Run(Protocol):
    """Starts a program: Python source, or the path of a built one. `preload` "" runs it without the library."""

    def __call__(self, program: str | Path, *, preload: str | None = None, **environment: str) -> Program: ...


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for a socket, and the cards' state in `cards`."""
    path = Path(tempfile.mkdtemp(prefix="nvs-"))
    (path / "cards").mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def relay(folder: Path) -> Iterator[ScriptedRelay]:
    relay = ScriptedRelay(folder / "nvshare.sock")
    yield relay
    relay.close()


@pytest.fixture
def run(folder: Path) -> Iterator[Run]:
    programs: list[Program] = []

    def start(program: str | Path, *, preload: str | None = None, **environment: str) -> Program:
        source = "from gpu_program import *\n" + textwrap.dedent(str(program))
        command = [str(program)] if isinstance(program, Path) else [sys.executable, "-c", source]
        wanted = os.environ | {
            "LD_LIBRARY_PATH": str(library_directory()),
            "NVSHARE_EMULATOR_DIR": str(folder / "cards"),
            "NVSHARE_SOCKET": str(folder / "nvshare.sock"),
            "PYTHONPATH": str(PROGRAMS),
        }
        if preload != "":
            wanted["LD_PRELOAD"] = preload or str(library_path())
        programs.append(Program(command, wanted | environment, folder / f"stderr-{len(programs)}"))
        return programs[-1]

    yield start
    for program in programs:
        program.close()


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built C programs and their libraries."""
    return build(tmp_path_factory, "data-programs", PROGRAMS, EMULATOR=str(library_directory()))


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`sanitized("thread")`: the preload library built with a sanitizer."""

    def library(sanitizer: str) -> Path:
        name = f"library-{sanitizer.split(',')[0]}"
        return build(tmp_path_factory, name, SOURCE, NVSHARE_SANITIZE=sanitizer) / "libnvshare.so"

    return library
