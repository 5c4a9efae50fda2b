"""A node with two GPUs; what it can do is in tests/support/plugin_node.py."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from plugin_node import Node, make_node


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a short path: that of a unix socket has at most 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="nvs-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def node(short_folder: Path) -> AsyncIterator[Node]:
    """Two GPUs of ten shares, with a plugin that kubelet knows."""
    async with make_node(short_folder) as node:
        await node.start_plugin()
        await node.until_listed(20)
        yield node
