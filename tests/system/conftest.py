"""What the tests of the system share: the wheels of this tree, a clean environment that has them installed, a Docker
daemon, and the images.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKER_START_SECONDS = 30


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


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Docker daemon that answers: the machine's, else one for these tests."""
    if docker_answers():
        yield
        return
    if os.geteuid() != 0:
        pytest.skip("needs Docker")
    log = tmp_path_factory.mktemp("docker") / "log"
    with log.open("wb") as output:
        daemon = subprocess.Popen(["dockerd"], stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + DOCKER_START_SECONDS
        while not docker_answers():
            assert daemon.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield
    finally:
        daemon.terminate()
        daemon.wait(DOCKER_START_SECONDS)


def docker_answers() -> bool:
    try:
        return subprocess.run(["docker", "version"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(scope="session")
def images(docker: None, request: pytest.FixtureRequest) -> str:
    """The tag of the images that `make images` builds where none can be pulled; $NVSHARE_TESTED_TAG names some that are
    there already.
    """
    if tag := os.environ.get("NVSHARE_TESTED_TAG"):
        return tag
    tag, wheels = "tested", request.getfixturevalue("wheels")
    make = ["make", "images", "BASE=debian", f"TAG={tag}", f"WHEELS={wheels[0].parent}"]
    made = subprocess.run(make, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return tag
