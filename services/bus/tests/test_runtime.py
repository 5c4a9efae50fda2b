"""How a service starts, logs and ends, as a real process."""

import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

SERVICE = """
import asyncio, structlog
from nvshare.bus.runtime import run

async def main(stop):
    structlog.get_logger().info("ready", key="two words\\nand a line", number=1)
    await stop.wait()
    structlog.get_logger().info("ended")

run("example", main)
"""
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z (\w+) example: (.*)")


def start(code: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_service_in_good_order(number: signal.Signals) -> None:
    with start(SERVICE) as process:
        assert process.stderr is not None
        ready = LINE.fullmatch(process.stderr.readline().rstrip("\n"))
        process.send_signal(number)
        ended = LINE.fullmatch(process.stderr.readline().rstrip("\n"))
        assert process.wait(5) == 0
    assert ready is not None
    assert ready.groups() == ("info", r"ready key='two words\nand a line' number=1")
    assert ended is not None


def test_the_level_of_the_log_is_a_setting() -> None:
    with start(SERVICE.replace("await stop.wait()", ""), NVSHARE_LOG="warn") as process:
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(5) == 0


def test_a_failure_is_logged_and_is_the_exit_status() -> None:
    with start(SERVICE.replace("await stop.wait()", "raise RuntimeError('no luck')")) as process:
        assert process.stderr is not None
        text = process.stderr.read()
        assert process.wait(5) == 1
    assert "error example: service failed" in text
    assert "no luck" in text


def test_a_service_ends_with_its_parent_when_it_was_told_so() -> None:
    parent = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {SERVICE!r}], stderr=subprocess.PIPE)
child.stderr.readline()
print(child.pid, file=sys.stderr, flush=True)
time.sleep(60)
"""
    with start(parent, NVSHARE_PARENT_DEATH="1") as process:
        assert process.stderr is not None
        child = psutil.Process(int(process.stderr.readline()))
        process.kill()
        child.wait(5)
