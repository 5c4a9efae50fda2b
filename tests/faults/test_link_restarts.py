"""A node of a cluster, whose services share nothing but its folder: its link is killed and comes back with other keys.

The scheduler serves again within 2 s.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.environment import EmulatedCards, service_environment
from nvshare.cli.libraries import emulator_libraries
from nvshare.cli.node_options import NodeOptions
from nvshare.cli.node_query import wait_until_serving

pytestmark = [pytest.mark.heavy, pytest.mark.alone]

BACK_SECONDS = 2.0


class LinkedNode:
    """A node's folder, and the processes that share it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.directory = NodeDirectory(folder)
        self._stack = stack
        options = NodeOptions(folder, emulated_gpus=1, gpu_memory_bytes=2**30)
        (folder / "cards").mkdir()
        cards = EmulatedCards(folder / "cards", emulator_libraries())
        environment = service_environment(os.environ, folder, "node-1", options, cards)
        self._environment = {name: value for name, value in environment.items() if name != "NVSHARE_NODE"}

    def start_scheduler(self) -> None:
        self._start(sys.executable, "-m", "nvshare.scheduler")

    def start_link(self) -> subprocess.Popen[str]:
        """Returns when the link serves."""
        process = self._start(sys.executable, "-m", "nvshare.cli", "link", "--node", "node-1")
        assert process.stdout is not None
        assert "the bus of node node-1" in process.stdout.readline()
        return process

    def serves(self) -> None:
        """Waits until the scheduler answers a user and has heard the relay."""
        asyncio.run(wait_until_serving(self.directory, 20))

    def _start(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, env=self._environment, stdout=subprocess.PIPE, text=True)
        self._stack.callback(end, process)
        return process


def end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait(15)
    if process.stdout is not None:
        process.stdout.close()


@pytest.fixture
def node() -> Iterator[LinkedNode]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nvshare-test-")))
        yield LinkedNode(folder, stack)


def test_a_killed_link_has_the_scheduler_back_within_2_s(node: LinkedNode) -> None:
    node.start_scheduler()  # before there is a bus
    link = node.start_link()
    node.serves()
    before = node.directory.service_credentials("scheduler").read_text()

    link.kill()
    link.wait()
    node.start_link()
    back = time.monotonic()
    node.serves()
    assert time.monotonic() - back <= BACK_SECONDS
    assert node.directory.service_credentials("scheduler").read_text() != before
