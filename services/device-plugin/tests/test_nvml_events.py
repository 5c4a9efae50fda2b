"""The watch over the node's GPUs: with a driver that says what the test wants, and on emulated cards."""

import asyncio
import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nvshare.device_plugin.devices import Gpu
from nvshare.device_plugin.health import IgnoredXids, Probe, Verdict
from nvshare.device_plugin.nvml_events import NvmlDevices
from nvshare.device_plugin.nvml_session import NvmlError, XidError
from nvshare.emulator import library_directory

PERIOD_SECONDS = 0.01
ONE, OTHER = Gpu("GPU-1", 0, 1 << 34), Gpu("GPU-2", 1, 1 << 34)


class Driver:
    """What all sessions say. `blind`: a session in which a GPU was lost never sees it again."""

    def __init__(self, *gpus: Gpu, blind: bool = False) -> None:
        self.gpus = gpus
        self.blind = blind
        self.refusal = ""
        self.lost: frozenset[str] = frozenset()
        self.errors: queue.Queue[XidError] = queue.Queue()

    def open(self, indices: Collection[int]) -> "Session":
        if self.refusal:
            raise NvmlError(self.refusal)
        return Session(self, [gpu for gpu in self.gpus if not indices or gpu.index in indices])


class Session:
    def __init__(self, driver: Driver, gpus: list[Gpu]) -> None:
        self._driver = driver
        self._gone: set[str] = set()
        self.gpus = tuple(gpu for gpu in gpus if gpu.uuid not in driver.lost)
        self.missing = len(gpus) - len(self.gpus)

    def wait(self, milliseconds: int) -> XidError | None:
        if self._driver.lost & {gpu.uuid for gpu in self.gpus}:
            raise NvmlError("GPU is lost")
        try:
            return self._driver.errors.get(timeout=milliseconds / 1000)
        except queue.Empty:
            return None

    def probe(self, uuid: str) -> Probe:
        if self._driver.refusal:
            return Probe(Verdict.DOUBTFUL, self._driver.refusal)
        self._gone |= self._driver.lost if self._driver.blind else set()
        known = uuid in {gpu.uuid for gpu in self.gpus}
        return (
            Probe(Verdict.WELL)
            if known and uuid not in self._driver.lost | self._gone
            else Probe(Verdict.FAILED, "it is lost")
        )

    def busy_permille(self, uuid: str) -> int | None:
        return None if uuid in self._driver.lost else 250

    def close(self) -> None:
        pass


class Watched:
    """Devices that are watched, and what they were."""

    def __init__(self, devices: NvmlDevices) -> None:
        self.devices = devices
        self.seen: list[list[bool]] = []
        self._changed = asyncio.Event()

    def on_change(self) -> None:
        self.seen.append(self.healthy())
        self._changed.set()

    def healthy(self) -> list[bool]:
        return [gpu.healthy for gpu in self.devices.gpus or ()]

    async def until(self, *healthy: bool) -> None:
        """Waits until the GPUs are so."""
        async with asyncio.timeout(5):
            while self.healthy() != list(healthy):
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def watch(
    driver: Driver, ignored: IgnoredXids | None = None, indices: Collection[int] = (), shared_bytes: int = 0
) -> AsyncIterator[Watched]:
    watched = Watched(NvmlDevices(indices, ignored, shared_bytes, driver.open, PERIOD_SECONDS))
    task = asyncio.ensure_future(watched.devices.watch(watched.on_change))
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_all_gpus_are_told_in_their_order() -> None:
    async with watch(Driver(OTHER, ONE)) as watched:
        await watched.until(True, True)
        assert watched.devices.gpus == (ONE, OTHER)


async def test_nothing_is_known_before_the_driver_answers() -> None:
    driver = Driver(ONE)
    driver.refusal = "Driver Not Loaded"
    async with watch(driver) as watched:
        assert watched.devices.gpus is None
        driver.refusal = ""
        await watched.until(True)


async def test_a_node_without_a_gpu_has_none_which_is_known() -> None:
    async with watch(Driver()) as watched:
        async with asyncio.timeout(5):
            while watched.devices.gpus is None:
                await asyncio.sleep(PERIOD_SECONDS)
        assert watched.seen == [[]]


async def test_an_error_fails_its_gpu_and_no_other() -> None:
    driver = Driver(ONE, OTHER)
    async with watch(driver) as watched:
        await watched.until(True, True)
        driver.errors.put(XidError("GPU-2", 48))
        await watched.until(True, False)


async def test_an_error_that_is_ignored_fails_nothing() -> None:
    driver = Driver(ONE, OTHER)
    async with watch(driver, IgnoredXids(frozenset({48}))) as watched:
        await watched.until(True, True)
        driver.errors.put(XidError("GPU-2", 48))
        driver.errors.put(XidError("GPU-1", 62))
        await watched.until(False, True)


@pytest.mark.parametrize("blind", [False, True], ids=["the session sees it again", "only a new session sees it again"])
async def test_c4_a_lost_gpu_fails_alone_and_comes_back(blind: bool) -> None:
    driver = Driver(ONE, OTHER, blind=blind)
    async with watch(driver) as watched:
        await watched.until(True, True)
        driver.lost = frozenset({"GPU-1"})
        await watched.until(False, True)
        driver.lost = frozenset()
        await watched.until(True, True)
        assert watched.seen == [[True, True], [False, True], [True, True]]


async def test_other_gpus_are_still_heard_while_one_is_lost() -> None:
    driver = Driver(ONE, OTHER)
    async with watch(driver) as watched:
        await watched.until(True, True)
        driver.lost = frozenset({"GPU-1"})
        await watched.until(False, True)
        driver.errors.put(XidError("GPU-2", 48))
        await watched.until(False, False)


async def test_a_gpu_that_is_lost_when_the_watch_begins_is_added_when_it_answers() -> None:
    driver = Driver(ONE, OTHER)
    driver.lost = frozenset({"GPU-1"})
    async with watch(driver) as watched:
        await watched.until(True)
        driver.lost = frozenset()
        await watched.until(True, True)
        assert watched.devices.gpus == (ONE, OTHER)


async def test_a_driver_that_goes_away_fails_all_and_keeps_who_they_are() -> None:
    driver = Driver(ONE, OTHER)
    async with watch(driver) as watched:
        await watched.until(True, True)
        driver.refusal = "Driver Not Loaded"
        await watched.until(False, False)
        driver.refusal = ""
        await watched.until(True, True)


async def test_some_gpus_and_a_part_of_their_memory_are_shared() -> None:
    async with watch(Driver(ONE, OTHER), indices=[1], shared_bytes=1 << 30) as watched:
        await watched.until(True)
        assert watched.devices.gpus == (Gpu("GPU-2", 1, 1 << 30),)


async def test_it_says_how_busy_the_gpus_are_that_answer() -> None:
    driver = Driver(ONE, OTHER)
    async with watch(driver) as watched:
        await watched.until(True, True)
        driver.lost = frozenset({"GPU-1"})
        await watched.until(False, True)
        async with asyncio.timeout(5):
            while await watched.devices.busy_permille() != {"GPU-2": 250}:
                await asyncio.sleep(PERIOD_SECONDS)


class Emulated:
    """The watch in a process that sees emulated cards, and what is done to these."""

    def __init__(self, folder: Path) -> None:
        self._environment = {
            **os.environ,
            "NVSHARE_EMULATOR_DIR": str(folder),
            "NVSHARE_EMULATOR_DEVICES": "2",
            "LD_LIBRARY_PATH": str(library_directory()),
        }
        program = Path(__file__).parent / "programs" / "print_gpus.py"
        self.process = subprocess.Popen(
            [sys.executable, str(program)], env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def hear(self) -> list[bool]:
        assert self.process.stdout is not None
        heard: list[bool] = json.loads(self.process.stdout.readline())
        return heard

    def do(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "nvshare.emulator", *arguments]
        subprocess.run(command, env=self._environment, check=True)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def emulated(tmp_path: Path) -> Iterator[Emulated]:
    made = Emulated(tmp_path / "cards")
    yield made
    made.end()


@pytest.mark.heavy
def test_c4_on_a_card_a_failure_and_the_recovery_are_seen_within_five_seconds(emulated: Emulated) -> None:
    assert emulated.hear() == [True, True]
    for failure in (["--xid", "79"], ["--xid", "48"]):
        emulated.do("fail", "1", *failure)
        began = time.monotonic()
        assert emulated.hear() == [True, False]
        assert time.monotonic() - began < 5
        emulated.do("recover", "1")
        began = time.monotonic()
        assert emulated.hear() == [True, True]
        assert time.monotonic() - began < 5


def test_c4_an_error_of_a_program_withdraws_no_card(emulated: Emulated) -> None:
    assert emulated.hear() == [True, True]
    emulated.do("fail", "1", "--xid", "31")
    emulated.do("fail", "0", "--xid", "79")
    assert emulated.hear() == [False, True]
