"""The wheels: what is in them, which glibc they need, and that they work without this tree."""

import re
import subprocess
import zipfile
from pathlib import Path

import pytest

# Building, installing and a whole demo take longer than a test usually may.
pytestmark = pytest.mark.timeout(300)

# The newest glibc that libnvshare may need: that of manylinux2014, so that it loads into programs of old images.
NEWEST_GLIBC = (2, 17)


@pytest.fixture(scope="module")
def library(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libnvshare.so out of its wheel."""
    (wheel,) = (path for path in wheels if path.name.startswith("nvshare_preload-"))
    folder = tmp_path_factory.mktemp("preload")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder / "nvshare/preload/libnvshare.so"


def test_the_released_library_runs_with_glibc_2_17(library: Path) -> None:
    versions = subprocess.run(["readelf", "--version-info", library], capture_output=True, text=True, check=True).stdout
    needed = {(int(major), int(minor)) for major, minor in re.findall(r"Name: GLIBC_(\d+)\.(\d+)", versions)}
    assert needed
    assert max(needed) <= NEWEST_GLIBC


def test_the_released_library_needs_libc_alone(library: Path) -> None:
    dynamic = subprocess.run(["readelf", "--dynamic", library], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"NEEDED.*\[(\S+)\]", dynamic))
    parts_of_glibc = {"libc.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "ld-linux-x86-64.so.2"}
    assert "libc.so.6" in needed
    assert needed <= parts_of_glibc


def test_a_wheel_carries_its_package_and_no_more(wheels: list[Path]) -> None:
    for wheel in wheels:
        names = zipfile.ZipFile(wheel).namelist()
        assert not [name for name in names if "/tests/" in name or name.endswith((".def", ".cmake", ".proto"))], (
            wheel.name
        )
        assert all(name.startswith(("nvshare/", "nvshare-", "nvshare_")) for name in names), wheel.name


def test_the_installed_wheels_find_their_own_libraries(installed: Path, outside: dict[str, str]) -> None:
    ask = "import nvshare.preload, nvshare.emulator as e; print(nvshare.preload.library_path(), e.library_directory())"
    run = [str(installed / "python"), "-c", ask]
    paths = subprocess.run(run, cwd=installed, env=outside, capture_output=True, text=True, check=True).stdout.split()
    assert [path for path in paths if Path(path).is_relative_to(installed.parent)] == paths != []


def test_the_installed_wheels_share_a_gpu(installed: Path, outside: dict[str, str]) -> None:
    """`nvshare demo` ends in 0 only if each program took its turns and computed what it computes alone."""
    demo = subprocess.run([installed / "nvshare", "demo"], cwd=installed, env=outside, capture_output=True, text=True)
    assert demo.returncode == 0, demo.stdout + demo.stderr
