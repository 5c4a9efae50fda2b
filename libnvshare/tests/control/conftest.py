"""The control plane's test programs, built with sanitizers, and a relay of raw bytes on a real unix socket."""

import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builds import build
from nvshare.v1.client_pb2 import Grant, Report

GPU = "GPU-11111111-2222-3333-4444-555555555555"
OTHER_GPU = "GPU-99999999-8888-7777-6666-555555555555"
ALLOCATION = "run-0a1b2c3d4e5f"
PID = 4242  # as the relay sees it
INFO = b'INFO {"server_id":"X","nvshare":{"allocation":"%s","pid":%d,"node":"n1"}}\r\n' % (ALLOCATION.encode(), PID)
DEADLINE_SECONDS = 15.0

FOLDER = Path(__file__).parent


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs, built with AddressSanitizer and UndefinedBehaviorSanitizer."""
    return build(tmp_path_factory, "control-address", FOLDER, NVS_SANITIZE="address,undefined")


@pytest.fixture(scope="session")
def thread_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`control_program`, built with ThreadSanitizer."""
    program = "control_program"
    return build(tmp_path_factory, "control-thread", FOLDER, program, NVS_SANITIZE="thread") / program


class LineFilter:
    """One of the programs that answer each line with a line, in a process of its own."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line: str) -> str:
        """Its answer, without the end of the line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().rstrip("\n")

    def close(self) -> None:
        """Ends it; fails where its sanitizer found something."""
        self._process.communicate(timeout=10)
        assert self._process.returncode == 0, "see its sanitizer's words above"


Exchange = Callable[[str, bytes, int], list[bytes]]


@pytest.fixture(scope="session")
def exchange(programs: Path) -> Iterator[Exchange]:
    """`exchange(program, request, n)` sends a request to a filter and returns its n answers; one process for all."""
    running: dict[str, subprocess.Popen[bytes]] = {}

    def ask(program: str, request: bytes, frames: int) -> list[bytes]:
        if program not in running:
            running[program] = subprocess.Popen([programs / program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process = running[program]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request)
        process.stdin.flush()
        answers = []
        for _ in range(frames):
            header = process.stdout.read(4)
            assert len(header) == 4, f"{program} ended: see its sanitizer's words above"
            answers.append(process.stdout.read(struct.unpack("<I", header)[0]))
        return answers

    yield ask
    for process in running.values():
        process.communicate(timeout=10)
        assert process.returncode == 0


class Connection:
    """The relay's side of one connection."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.stream.settimeout(DEADLINE_SECONDS)
        self.received = b""
        self.nonce = ""

    def _more(self) -> None:
        piece = self.stream.recv(65536)
        if not piece:
            raise EOFError
        self.received += piece

    def line(self) -> str:
        while b"\r\n" not in self.received:
            self._more()
        line, self.received = self.received.split(b"\r\n", 1)
        return line.decode()

    def payload(self, length: int) -> bytes:
        while len(self.received) < length + 2:
            self._more()
        payload, self.received = self.received[:length], self.received[length + 2 :]
        return payload

    def send(self, data: bytes) -> None:
        self.stream.sendall(data)

    def register(self) -> dict[str, object]:
        """Plays the relay's part until the client is in; returns what its CONNECT said."""
        self.send(INFO)
        verb, _, rest = self.line().partition(" ")
        assert verb == "CONNECT"
        connect: dict[str, object] = json.loads(rest)
        self.nonce = str(connect["name"])
        assert self.line() == "PING"
        self.send(b"PONG\r\n")
        return connect

    def subject(self, kind: str, gpu: str = GPU) -> str:
        return f"nvshare.v1.gpu.{gpu}.alloc.{ALLOCATION}.client.{PID}-{self.nonce}.{kind}"

    def report(self, gpu: str = GPU) -> Report:
        """The next report of a GPU, which the client must have subscribed for before."""
        while True:
            verb, *words = self.line().split(" ")
            if verb == "PUB":
                payload = self.payload(int(words[-1]))
                if words[0] == self.subject("report", gpu):
                    return Report.FromString(payload)
            else:
                assert verb == "SUB"

    def report_where(self, condition: Callable[[Report], bool], gpu: str = GPU) -> Report:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            report = self.report(gpu)
            if condition(report):
                return report
        raise AssertionError("no such report")

    def send_grant(self, grant: Grant, subject: str = "") -> None:
        payload = grant.SerializeToString()
        self.send(f"MSG {subject or self.subject('grant')} 1 {len(payload)}\r\n".encode() + payload + b"\r\n")

    def grant(self, generation: int, epoch: int, sequence: int, gpu: str = GPU) -> Grant:
        client = f"{PID}-{self.nonce}"
        return Grant(gpu=gpu, client=client, generation=generation, epoch=epoch, sequence=sequence, may_launch=True)

    def wait_for_end(self) -> None:
        try:
            while True:
                self._more()
        except (EOFError, ConnectionResetError):
            return


class Relay:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener: socket.socket | None = None
        self.connections: list[Connection] = []

    def listen(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        self.listener.settimeout(DEADLINE_SECONDS)

    def accept(self) -> Connection:
        assert self.listener is not None
        self.connections.append(Connection(self.listener.accept()[0]))
        return self.connections[-1]

    def registered(self) -> Connection:
        connection = self.accept()
        connection.register()
        return connection

    def close(self) -> None:
        for connection in self.connections:
            connection.stream.close()
        if self.listener is not None:
            self.listener.close()


class Program:
    """A process of programs/control_program.c."""

    def __init__(self, path: Path, socket_path: Path, log: Path) -> None:
        environment = os.environ | {"NVSHARE_SOCKET": str(socket_path), "NVSHARE_LOG": "info"}
        self.log_path = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.said = ""

    def do(self, command: str) -> None:
        self.stdin.write(command.encode() + b"\n")
        self.stdin.flush()

    def hear(self, pattern: str) -> str:
        """Reads what the program says up to a line that the pattern matches, and returns that line."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            line, newline, rest = self.said.partition("\n")
            if newline:
                self.said = rest
                if re.fullmatch(pattern, line):
                    return line
                continue
            assert select.select([self.stdout], [], [], max(0.0, deadline - time.monotonic()))[0], f"no {pattern}"
            piece = os.read(self.stdout.fileno(), 65536)
            assert piece, f"the program ended: {self.log()}"
            self.said += piece.decode()

    def log(self) -> str:
        return self.log_path.read_text()

    def end(self) -> None:
        self.stdin.close()
        while self.stdout.read(65536):  # until its forked children have ended too
            pass
        self.stdout.close()
        if self.process.wait(timeout=DEADLINE_SECONDS) != -signal.SIGKILL:
            assert self.process.returncode == 0, self.log()


@pytest.fixture
def relay() -> Iterator[Relay]:
    with tempfile.TemporaryDirectory() as folder:  # its path is short enough for a socket
        relay = Relay(Path(folder) / "nvshare.sock")
        relay.listen()
        yield relay
        relay.close()


Start = Callable[[], Program]


@pytest.fixture
def start(programs: Path, relay: Relay, tmp_path: Path) -> Iterator[Start]:
    started: list[Program] = []

    def start_one() -> Program:
        log = tmp_path / f"stderr-{len(started)}"
        started.append(Program(programs / "control_program", relay.path, log))
        return started[-1]

    yield start_one
    for program in started:
        program.end()


@pytest.fixture
def program(start: Start) -> Program:
    program = start()
    program.do(f"use {GPU}")
    return program
