"""The driver's own code, with several threads in it, in the eyes of the sanitizers."""

import os
import subprocess
from pathlib import Path

import pytest

from builds import build

pytestmark = pytest.mark.heavy

SOURCE = Path(__file__).parents[1]


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_a_storm_of_threads_is_clean(sanitizers: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    options = {"NVSHARE_BUILD_TESTS": "ON", "NVSHARE_SANITIZE": sanitizers, "CMAKE_BUILD_TYPE": "Debug"}
    name = f"emulator-{sanitizers.split(',')[0]}"
    program = build(tmp_path_factory, name, SOURCE, "emulator-stress", **options) / "emulator-stress"
    environment = {**os.environ, "NVSHARE_EMULATOR_DIR": str(tmp_path / "cards")}
    storm = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=50)
    assert storm.returncode == 0, storm.stdout + storm.stderr
    assert storm.stderr == ""
