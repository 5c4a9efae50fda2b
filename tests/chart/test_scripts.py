"""The scripts in the chart do what they are there for, run as the containers run them."""

import contextlib
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from live_node import MakeNode
from nvshare.emulator import library_directory
from rendered_chart import CHART, Chart

CHECK_SHARE = CHART / "files" / "check_share.py"


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for sockets: pytest's own are too deep for their names."""
    folder = Path(tempfile.mkdtemp(prefix="nvshare-"))
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def listening(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield


def probe(chart: Chart, container: str, path: str) -> subprocess.CompletedProcess[str]:
    """Runs the readiness probe of a container against another path."""
    *command, _ = chart.render().containers()[container]["readinessProbe"]["exec"]["command"]
    return subprocess.run([sys.executable, *command[1:], path], capture_output=True, text=True)


def test_a_probe_succeeds_while_somebody_listens_on_one_of_the_sockets(chart: Chart, short_path: Path) -> None:
    (short_path / "nvshare-old.sock").touch()
    with listening(short_path / "nvshare-new.sock"):
        assert probe(chart, "demo-nvshare-node/device-plugin", f"{short_path}/nvshare-*.sock").returncode == 0


def test_a_probe_fails_when_nobody_listens_any_more(chart: Chart, short_path: Path) -> None:
    with listening(short_path / "control.sock"):
        pass
    found = probe(chart, "demo-nvshare-link/link", f"{short_path}/control.sock")
    assert found.returncode == 1
    assert f"nobody listens on {short_path}/control.sock" in found.stderr


def test_a_probe_fails_where_no_socket_is(chart: Chart, short_path: Path) -> None:
    assert probe(chart, "demo-nvshare-link/link", f"{short_path}/control.sock").returncode == 1


def test_the_emulators_libraries_are_put_where_pods_can_have_them(chart: Chart, tmp_path: Path) -> None:
    container = chart.render({"emulated": {"gpus": 2}}).containers()["demo-nvshare-node/emulator"]
    script, *folders = container["args"]
    assert folders == ["/var/lib/nvshare/emulator", "/var/lib/nvshare/emulated-cards"]
    libraries, cards = tmp_path / "emulator", tmp_path / "emulated-cards"
    for _ in range(2):  # also over those of the start before
        subprocess.run([sys.executable, "-c", script, str(libraries), str(cards)], check=True)
    assert sorted(path.name for path in libraries.iterdir()) == ["libcuda.so.1", "libnvidia-ml.so.1"]
    assert (libraries / "libcuda.so.1").read_bytes() == (library_directory() / "libcuda.so.1").read_bytes()
    assert stat.S_IMODE(cards.stat().st_mode) == 0o1777


def test_the_test_pod_runs_the_script_with_its_own_quota(chart: Chart) -> None:
    (pod,) = chart.render({"test": {"memory": "2Gi"}}).all("Pod")
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["python3", "-c"]
    assert container["args"] == [CHECK_SHARE.read_text(), "2Gi"]
    assert pod["metadata"]["annotations"]["nvshare.com/gpu-memory-limit"] == "2Gi"


def test_without_the_library_the_test_says_so() -> None:
    found = subprocess.run([sys.executable, CHECK_SHARE, "1Gi"], capture_output=True, text=True)
    assert found.returncode == 1
    assert "libnvshare is not in this process" in found.stderr


@pytest.mark.heavy
def test_with_a_share_the_test_sees_its_quota_and_no_other(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1", "--gpu-memory", "4GiB")

    def check(quota: str) -> subprocess.CompletedProcess[str]:
        return node.nvshare("run", "--memory", "1Gi", "--", sys.executable, str(CHECK_SHARE), quota)

    assert check("1Gi").stdout == "one share of a GPU, which shows its quota of 1Gi\n"
    other = check("2Gi")
    assert other.returncode == 1
    assert "the GPU shows 1073741824 bytes, not 2Gi" in other.stderr


@pytest.mark.heavy
def test_the_probe_of_a_node_that_runs_leaves_no_trace_in_its_logs(chart: Chart, make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    for _ in range(3):
        assert probe(chart, "demo-nvshare-link/link", str(node.directory / "control.sock")).returncode == 0
    assert node.nvshare("status").returncode == 0
    assert "refused" not in (node.directory / "logs" / "relay.log").read_text()
