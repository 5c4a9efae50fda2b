"""The data plane under sanitizers: a storm of everything, while the gate opens and closes a hundred times a second."""

import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from libnvshare.tests.data.conftest import GIB, Client, Run, ScriptedRelay

from nvshare.preload import library_path

# Our own code only: the emulated GPU is not built with a sanitizer.
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:handle_segv=1:abort_on_error=0",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=0:exitcode=66",
}


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


def weather_the_storm(relay: ScriptedRelay, run: Run, program: Path, preload: str, **environment: str) -> str:
    storm = run(program, preload=preload, **environment)
    client = relay.client()
    client.gpu()
    stop = threading.Event()
    thread = threading.Thread(target=toggle, args=(client, stop))
    thread.start()
    try:
        assert storm.said() == {"child": 0}
        return storm.end()
    finally:
        stop.set()
        thread.join()


def test_a_storm_passes(relay: ScriptedRelay, run: Run, programs: Path) -> None:
    weather_the_storm(relay, run, programs / "storm", str(library_path()))


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_a_storm_passes_under_sanitizers(
    sanitizer: str, relay: ScriptedRelay, run: Run, programs: Path, sanitized: Callable[[str], Path]
) -> None:
    preload = f"{runtime(sanitizer)}:{sanitized(sanitizer)}"
    words = weather_the_storm(relay, run, programs / "storm", preload, **OPTIONS)
    assert not re.search(r"ERROR|WARNING: ThreadSanitizer|runtime error", words), words
