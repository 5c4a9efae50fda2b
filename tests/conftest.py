"""What tests over the whole product share: nodes on emulated GPUs."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from live_node import NVSHARE, MakeNode, Node


@pytest.fixture
def make_node() -> Iterator[MakeNode]:
    """Starts nodes on emulated GPUs, and ends them."""
    nodes: list[Node] = []
    folder = Path(tempfile.mkdtemp(prefix="nvshare-"))  # pytest's own are too deep for the names of sockets

    def make(*options: str) -> Node:
        directory = folder / f"n{len(nodes)}"
        process = subprocess.Popen([*NVSHARE, "up", "--node-dir", str(directory), *options], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(b"ready"):
                break
        else:
            process.stdout.close()
            pytest.fail(f"the node ended with {process.wait()}")
        nodes.append(Node(directory, process))
        return nodes[-1]

    yield make
    for node in nodes:
        node.end()
    shutil.rmtree(folder, ignore_errors=True)
