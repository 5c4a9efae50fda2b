"""The pool's test programs, built with sanitizers, on the emulated driver."""

import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from builds import build
from nvshare.emulator import library_directory

FOLDER = Path(__file__).parent
MIB = 1 << 20
SLOT = 16 * MIB
SEGMENT = 256 * MIB
DEADLINE_SECONDS = 20.0
ARENA_PROCESS = FOLDER / "arena_process.py"
TOTAL = 4 * SEGMENT  # of an arena


def build_programs(factory: pytest.TempPathFactory, sanitizer: str = "address,undefined") -> Path:
    """Builds the programs; gives the folder."""
    emulator = str(library_directory())
    name = f"pool-{sanitizer.split(',')[0]}"
    return build(factory, name, FOLDER / "programs", EMULATOR=emulator, NVS_SANITIZE=sanitizer)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs, built with AddressSanitizer and UndefinedBehaviorSanitizer."""
    return build_programs(tmp_path_factory)


@pytest.fixture(scope="session")
def thread_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, built with ThreadSanitizer."""
    return build_programs(tmp_path_factory, "thread")


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Of a program whose card and socket are in `folder`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NVSHARE_")}
    return (
        clean
        | {
            "ASAN_OPTIONS": "detect_leaks=0",
            "LD_LIBRARY_PATH": str(library_directory()),
            "NVSHARE_EMULATOR_DIR": str(folder / "cards"),
            "NVSHARE_SOCKET": str(folder / "nvshare.sock"),
            "NVSHARE_LOG": "info",
        }
        | variables
    )


class Pool:
    """A process of programs/pool_program.c; see there for what the words mean."""

    def __init__(self, program: Path, variables: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=variables, text=True
            )
        self._groups = 0

    def send(self, *words: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], DEADLINE_SECONDS)[0], f"no answer: {self.log()}"
        line = self.process.stdout.readline()
        assert line, f"the program ended: {self.log()}"
        return line.strip()

    def ask(self, *words: object) -> str:
        self.send(*words)
        return self.answer()

    def do(self, *words: object) -> None:
        assert self.ask(*words) == "ok"

    def take(self, context: int, count: int) -> "Slots":
        answer = self.ask("take", context, count)
        assert answer.startswith("slots"), answer
        self._groups += 1
        return Slots(self, self._groups - 1, [int(word) for word in answer.split()[1:]])

    def refusal(self, context: int, count: int) -> str:
        word, _, reason = self.ask("take", context, count).partition(" ")
        assert word == "refused"
        return reason

    def bytes(self, word: str, *rest: int) -> int:
        return int(self.ask(word, *rest))

    def until(self, word: str, right: Callable[[int], bool]) -> int:
        """Asks the word until the bytes are right."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not right(value := self.bytes(word)):
            assert time.monotonic() < deadline, f"{word}: {value // MIB} MiB: {self.log()}"
        return value

    def log(self) -> str:
        return self._log.read_text()

    def end(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.process.stdout is not None:
            self.process.stdout.close()
        try:
            code = self.process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        assert code in (0, -9), self.log()


class Slots:
    """What one `take` gave."""

    def __init__(self, pool: Pool, group: int, addresses: list[int]) -> None:
        self._pool = pool
        self._group = group
        self.addresses = addresses

    def give(self) -> None:
        self._pool.do("give", self._group)

    def fill(self, byte: int) -> None:
        self._pool.do("fill", self._group, byte)

    def hold(self, byte: int) -> bool:
        return self._pool.ask("holds", self._group, byte) == "yes"

    def are_pinned(self) -> bool:
        return self._pool.ask("pinned", self._group) == "yes"

    def are_present(self) -> bool:
        return self._pool.ask("present", self._group) == "yes"


class StartPool(Protocol):
    def __call__(self, **variables: str) -> Pool: ...


class Arena:
    """A process of arena_process.py that listens in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sums: queue.Queue[tuple[int, int]] = queue.Queue()
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, ARENA_PROCESS, self._folder, str(TOTAL)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if line.endswith("\n"):  # the last one may be torn
                    reserved, made = line.split()
                    self._sums.put((int(reserved), int(made)))

    def until(self, right: Callable[[int, int], bool]) -> tuple[int, int]:
        """Its reserved and made bytes, as soon as they are right."""
        while True:
            sums = self._sums.get(timeout=DEADLINE_SECONDS)
            if right(*sums):
                return sums

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start_pool(programs: Path, tmp_path: Path) -> Iterator[StartPool]:
    """Starts processes with a pool each, on one card, in the test's folder."""
    started: list[Pool] = []

    def start(**variables: str) -> Pool:
        log = tmp_path / f"stderr-{len(started)}"
        started.append(Pool(programs / "pool_program", environment(tmp_path, **variables), log))
        return started[-1]

    yield start
    for pool in started:
        pool.end()


@pytest.fixture
def pool(start_pool: StartPool) -> Pool:
    """A pool of own memory, with context 0."""
    pool = start_pool(NVSHARE_HOST_MEMORY="own")
    pool.do("make", 0)
    return pool
