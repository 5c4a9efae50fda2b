"""The data plane under sanitizers: a storm of everything, while the gate opens and closes a hundred times a second."""

import random
import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from libnvshare.tests.data.conftest import GIB, MIB, RUNNING, Client, Run, ScriptedRelay

from nvshare.preload import library_path

pytestmark = pytest.mark.heavy

# Our own code only: the emulated GPU is not built with a sanitizer.
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:handle_segv=1:abort_on_error=0",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=0:exitcode=66",
}

# What a sanitizer says when it found something.
REPORT = r"ERROR|WARNING: ThreadSanitizer|runtime error"


SANITIZERS = ["address,undefined", "thread"]

# The storm's own time: building the library, which its fixture does, may take longer than that on a busy machine.
IN_TIME = pytest.mark.timeout(60, func_only=True)


@pytest.fixture(params=SANITIZERS)
def sanitized_preload(request: pytest.FixtureRequest, sanitized: Callable[[str], Path]) -> str:
    """The library built with a sanitizer, after the sanitizer's own."""
    return f"{runtime(request.param)}:{sanitized(request.param)}"


def runtime(sanitizer: str) -> str:
    """The sanitizer's runtime, which must be loaded before everything else."""
    name = {"address,undefined": "libasan.so", "thread": "libtsan.so"}[sanitizer]
    return subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()


def toggle(client: Client, stop: threading.Event) -> None:
    """Takes the launches away and gives them back, and moves the ceiling, until it is told to stop."""
    turn = 0
    while not stop.wait(0.005):
        turn += 1
        try:
            client.grant(
                may_launch=turn % 2 == 0,
                resident_bytes=(turn % 3) * GIB,
                headroom_bytes=GIB,
                window_us=2000 * (turn % 4),
            )
        except OSError:
            return


def push_out_and_in(client: Client, stop: threading.Event) -> None:
    """Lets the memory go and come, in part and in whole, at random moments; now and then until all of it has gone, and
    until the program may run."""
    chance = random.Random(5)
    turn = 0
    while not stop.wait(chance.uniform(0, 0.02)):
        turn += 1
        try:
            if turn % 5 == 0:
                epoch = client.grant()
                client.report_where(lambda report: report.epoch == epoch and report.state == RUNNING)  # noqa: B023
                stop.wait(0.05)
            elif turn % 5 == 3:
                epoch = client.grant(may_launch=False, resident_bytes=0)
                client.report_where(
                    lambda report: report.epoch == epoch and report.resident_bytes == report.pinned_bytes  # noqa: B023
                )
            else:
                client.grant(may_launch=chance.random() < 0.3, resident_bytes=chance.choice([0, 20, 50, 90]) * MIB)
        except (OSError, AssertionError):  # it has ended
            return


def weather_the_storm(
    relay: ScriptedRelay,
    run: Run,
    program: Path,
    preload: str,
    scheduler: Callable[[Client, threading.Event], None],
    environment: dict[str, str],
    enough: Callable[[Client], object] = lambda client: None,
) -> str:
    """Runs the program until the client has had enough and it ends well; returns what it wrote on stderr."""
    storm = run(program, preload=preload, **environment)
    client = relay.client()
    client.gpu()
    stop = threading.Event()
    thread = threading.Thread(target=scheduler, args=(client, stop))
    thread.start()
    try:
        enough(client)
        storm.tell("end")
        assert storm.said() == {"child": 0}
        return storm.end()
    finally:
        stop.set()
        thread.join()


def test_a_storm_passes(relay: ScriptedRelay, run: Run, programs: Path) -> None:
    weather_the_storm(relay, run, programs / "storm", str(library_path()), toggle, {})


@IN_TIME
def test_a_storm_passes_under_sanitizers(
    sanitized_preload: str, relay: ScriptedRelay, run: Run, programs: Path
) -> None:
    words = weather_the_storm(relay, run, programs / "storm", sanitized_preload, toggle, OPTIONS)
    assert not re.search(REPORT, words), words


def moved(least_bytes: int) -> Callable[[Client], object]:
    """Enough: so much memory has left the card, and come back."""

    def wait(client: Client) -> None:
        client.report_where(lambda report: min(report.swapped_out_bytes, report.swapped_in_bytes) >= least_bytes)

    return wait


def test_data_is_right_in_a_storm_of_moving_memory(relay: ScriptedRelay, run: Run, programs: Path) -> None:
    weather_the_storm(relay, run, programs / "swap_storm", str(library_path()), push_out_and_in, {}, moved(512 * MIB))
    client = relay.latest()
    assert client.reports[-1].swap_failures == 0


@IN_TIME
def test_a_storm_of_moving_memory_passes_under_sanitizers(
    sanitized_preload: str, relay: ScriptedRelay, run: Run, programs: Path
) -> None:
    words = weather_the_storm(
        relay, run, programs / "swap_storm", sanitized_preload, push_out_and_in, OPTIONS, moved(128 * MIB)
    )
    assert not re.search(REPORT, words), words
