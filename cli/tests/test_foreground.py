"""Running a program as if nvshare were not there."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nvshare.cli.errors import CommandError
from nvshare.cli.foreground import run_in_foreground

RUNNER = (
    "import os, sys; from nvshare.cli.foreground import run_in_foreground; "
    "sys.exit(run_in_foreground(sys.argv[1:], os.environ))"
)
# Counts signals for a second after the first one, and returns their number.
COUNTER = """
import signal, sys, time
count = 0
def on_signal(number, frame):
    global count
    count += 1
signal.signal(signal.{name}, on_signal)
print("listening", flush=True)
while not count:
    time.sleep(0.01)
time.sleep(0.3)
sys.exit(40 + count)
"""


def test_the_programs_exit_status_is_returned() -> None:
    assert run_in_foreground(["/bin/sh", "-c", "exit 7"], os.environ) == 7


def test_a_program_killed_by_a_signal_gives_128_and_its_number() -> None:
    assert run_in_foreground(["/bin/sh", "-c", "kill -KILL $$"], os.environ) == 128 + signal.SIGKILL


def test_the_program_has_the_signal_mask_that_we_were_started_with(tmp_path: Path) -> None:
    out = tmp_path / "status"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert run_in_foreground(["/bin/sh", "-c", f"cat /proc/self/status >{out}"], os.environ) == 0
    blocked = next(line for line in out.read_text().splitlines() if line.startswith("SigBlk"))
    assert int(blocked.split()[1], 16) == sum(1 << (number - 1) for number in before)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_a_missing_program_is_one_clear_line_and_127() -> None:
    with pytest.raises(CommandError, match="command not found: /nonexistent") as raised:
        run_in_foreground(["/nonexistent"], os.environ)
    assert raised.value.exit_code == 127


def test_a_file_that_is_no_program_is_one_clear_line_and_126(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_text("data")
    with pytest.raises(CommandError, match="cannot run") as raised:
        run_in_foreground([str(file)], os.environ)
    assert raised.value.exit_code == 126


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_from_another_process_is_passed_on(name: str) -> None:
    command = [sys.executable, "-c", RUNNER, sys.executable, "-c", COUNTER.format(name=name)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        assert runner.stdout.readline() == "listening\n"
        runner.send_signal(signal.Signals[name])
        assert runner.wait(10) == 41


def test_ctrl_c_in_a_terminal_reaches_the_program_once() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        program = COUNTER.format(name="SIGINT")
        os.execv(sys.executable, [sys.executable, "-c", RUNNER, sys.executable, "-c", program])
    try:
        received = b""
        while b"listening" not in received:
            received += os.read(terminal, 1024)
        os.write(terminal, b"\x03")
        deadline = time.monotonic() + 10
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert os.waitstatus_to_exitcode(ended[1]) == 41
    finally:
        os.close(terminal)
