"""Projects in C that tests need, each built once in a run of tests: all its processes use what the first one built."""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest


def build(factory: pytest.TempPathFactory, name: str, source: Path, *targets: str, **options: str) -> Path:
    """Builds a CMake project in this run's folder of this name, as far as it is not built there; gives the folder.
    With other options only what they change is built anew."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each process has a folder of its own in that of the run
        folder = folder.parent
    folder = folder / f"build-{name}"
    ninja = _tool("ninja")
    settings = [f"-D{option}={value}" for option, value in options.items()]
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _done(
            *(_tool("cmake"), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython3_EXECUTABLE={sys.executable}"),
            *(*settings, "-S", str(source), "-B", str(folder)),
        )
        _done(ninja, "-C", str(folder), *targets)
    return folder


def _tool(name: str) -> str:
    path = shutil.which(name, path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}")
    assert path is not None, f"{name} is missing: run `make setup`"
    return path


def _done(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
