"""What the tests of the system share: the wheels of this tree, and a clean environment that has them installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheels that `make wheels` builds."""
    folder = tmp_path_factory.mktemp("wheels")
    subprocess.run(["make", "wheels", f"DIST={folder}"], cwd=ROOT, check=True)
    built = sorted(folder.glob("*.whl"))
    assert built
    return built


@pytest.fixture(scope="session")
def outside() -> dict[str, str]:
    """The environment variables of a program that knows nothing of this tree; pip's settings stay."""
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG") or name.startswith("PIP_")}
    return kept | {"PATH": "/usr/local/bin:/usr/bin:/bin"}


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, wheels: list[Path], outside: dict[str, str]) -> Path:
    """The `bin` of an environment outside the tree in which the wheels are installed."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [str(folder / "bin/pip"), "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, "-c", ROOT / "constraints.txt", *wheels], cwd=folder, env=outside, check=True)
    return folder / "bin"
