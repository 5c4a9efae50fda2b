"""The tree as these tests see it: what is, or would be, committed."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def tree() -> list[Path]:
    """Every file that is tracked, or is neither tracked nor ignored."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True
    )
    if listing.returncode != 0:
        pytest.skip("needs a git checkout")
    files = [path for name in listing.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]
    assert files
    return files


@pytest.fixture(scope="session")
def texts(tree: list[Path]) -> dict[str, str]:
    """The text files of the tree by their names; a file that is not UTF-8 is left out."""
    found = {}
    for path in tree:
        try:
            found[str(path.relative_to(ROOT))] = path.read_text()
        except UnicodeDecodeError:
            continue
    return found
