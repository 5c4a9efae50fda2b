"""The command as a process, and nodes on emulated cards, each in a folder of its own."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.main import main
from nvshare.cli.node_launch import launch_node
from nvshare.cli.node_options import NodeOptions


@pytest.fixture(scope="session")
def command() -> tuple[str, ...]:
    """The command line that is `nvshare`."""
    return (sys.executable, "-m", "nvshare.cli")


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """`until(condition, seconds=10)` waits until the condition is true, and fails after the deadline."""

    def wait(condition: Callable[[], object], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.02)

    return wait


@dataclass(frozen=True)
class Answer:
    """What a command returned and printed."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def nvshare(capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """`nvshare(*arguments)` runs the command, in this process; what it starts are processes of their own."""

    def run(*arguments: str) -> Answer:
        capfd.readouterr()
        status = main(list(arguments))
        captured = capfd.readouterr()
        return Answer(status, captured.out, captured.err)

    return run


@pytest.fixture
def status_of(nvshare: Callable[..., Answer]) -> Callable[[Path], dict[str, Any]]:
    """`status_of(node_dir)` is what `nvshare status --json` says of that node."""

    def status(node_dir: Path) -> dict[str, Any]:
        answer = nvshare("status", "--json", "--node-dir", str(node_dir))
        assert answer.returncode == 0, answer.stderr
        document: dict[str, Any] = json.loads(answer.stdout)
        return document

    return status


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets, which pytest's own may not have."""
    with tempfile.TemporaryDirectory(prefix="nvshare-test-") as path:
        yield Path(path)


@pytest.fixture
def detached_folder(folder: Path, until: Callable[..., None]) -> Iterator[Path]:
    """A folder for a node that the test leaves running; it is ended here."""
    yield folder
    node = NodeDirectory(folder)
    if node.is_running():
        os.kill(node.read_description()["pid"], 15)
        until(lambda: not node.is_running(), 20)


@pytest.fixture(scope="module")
def node_dir() -> Iterator[Path]:
    """A node with two emulated cards of 16 GiB, for all tests of a module."""
    with tempfile.TemporaryDirectory(prefix="nvshare-test-") as path:
        launched = launch_node(NodeOptions(Path(path), emulated_gpus=2), detach=False)
        yield Path(path)
        launched.stop()
