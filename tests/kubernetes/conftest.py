"""A folder whose path leaves room for the names of sockets."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="nvs-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
