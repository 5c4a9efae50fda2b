"""The driver's own code, with several threads in it, in the eyes of the sanitizers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy

SOURCE = Path(__file__).parents[1]


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_a_storm_of_threads_is_clean(sanitizers: str, tmp_path: Path) -> None:
    build = tmp_path / "build"
    subprocess.run(
        [
            "cmake", "-S", SOURCE, "-B", build, "-G", "Ninja", f"-DPython3_EXECUTABLE={sys.executable}",
            "-DNVSHARE_BUILD_TESTS=ON", f"-DNVSHARE_SANITIZE={sanitizers}", "-DCMAKE_BUILD_TYPE=Debug",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(["cmake", "--build", build, "--target", "emulator-stress"], check=True, capture_output=True)
    environment = {**os.environ, "NVSHARE_EMULATOR_DIR": str(tmp_path / "cards")}
    storm = subprocess.run([build / "emulator-stress"], env=environment, capture_output=True, text=True, timeout=50)
    assert storm.returncode == 0, storm.stdout + storm.stderr
    assert storm.stderr == ""
