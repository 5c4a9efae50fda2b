"""Which tests share a process where files run side by side: conftest.py of the root, run on a small tree of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FILES = (
    "other/test_first.py",
    "tests/system/test_compose.py",
    "tests/system/test_images.py",
    "tests/system/test_lint.py",
)
TEST = """
import os, pathlib, time
def test_it():
    pathlib.Path(__file__).with_suffix(".process").write_text(os.environ["PYTEST_XDIST_WORKER"])
    time.sleep(1)
def test_more(): pass
"""


@pytest.mark.heavy
def test_the_system_s_tests_run_in_one_process_and_its_linters_beside_them(root: Path, tmp_path: Path) -> None:
    """They share a Docker daemon and images of one name."""
    shutil.copy(root / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for file in FILES:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(TEST)
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    _, compose, images, linters = ((tmp_path / file).with_suffix(".process").read_text() for file in FILES)
    assert compose == images != linters
