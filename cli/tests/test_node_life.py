"""How a node starts and ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.environment import EmulatedCards, with_emulator
from nvshare.cli.errors import CommandError
from nvshare.cli.libraries import emulator_libraries
from nvshare.cli.node_launch import launch_node
from nvshare.cli.node_options import NodeOptions

Command = Callable[..., Any]
Status = Callable[[Path], dict[str, Any]]
Until = Callable[..., None]


def start_in_foreground(command: tuple[str, ...], folder: Path) -> "subprocess.Popen[str]":
    arguments = ("up", "--emulate", "1", "--node-dir", str(folder))
    return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True)


def wait_until_ready(node: "subprocess.Popen[str]") -> str:
    """The lines that it prints up to the one that says that it is ready."""
    assert node.stdout is not None
    lines = ""
    for line in node.stdout:
        lines += line
        if line.startswith("ready"):
            return lines
    raise AssertionError(f"the node ended: {lines}")


def test_a_node_shares_the_gpus_that_were_chosen_and_no_others(
    folder: Path, nvshare: Command, status_of: Status, until: Until
) -> None:
    assert nvshare("up", "--emulate", "2", "--gpu", "1", "--detach", "--node-dir", str(folder)).returncode == 0
    try:
        assert [gpu["index"] for gpu in status_of(folder)["gpus"]] == [1]
        refused = nvshare("run", "--node-dir", str(folder), "--gpu", "0", "--", "true")
        assert refused.returncode != 0
        assert refused.stderr.count("\n") == 1
    finally:
        node = psutil.Process(NodeDirectory(folder).read_description()["pid"])
        node.send_signal(signal.SIGINT)
        until(lambda: not node.is_running())


def test_ctrl_c_ends_all_processes_of_the_node(folder: Path, command: tuple[str, ...]) -> None:
    with start_in_foreground(command, folder) as node:
        assert "GPU 0: " in wait_until_ready(node)
        services = psutil.Process(node.pid).children(recursive=True)
        assert len(services) == 3
        os.killpg(node.pid, signal.SIGINT)  # as a terminal does
        assert node.wait(20) == 0
        assert node.stdout is not None
        assert "starting it again" not in node.stdout.read()
    assert not any(service.is_running() for service in services)
    assert not (folder / "node.json").exists()
    assert not list(folder.glob("emulated-cards"))


def test_the_services_end_when_their_supervisor_is_killed(folder: Path, until: Until, command: tuple[str, ...]) -> None:
    with start_in_foreground(command, folder) as node:
        wait_until_ready(node)
        services = psutil.Process(node.pid).children(recursive=True)
        node.kill()
    until(lambda: not any(service.is_running() and service.status() != "zombie" for service in services), 20)
    assert not NodeDirectory(folder).is_running()


def test_up_detached_returns_when_the_node_serves(detached_folder: Path, nvshare: Command, status_of: Status) -> None:
    answer = nvshare("up", "--emulate", "1", "--gpu-memory", "8GiB", "--detach", "--node-dir", str(detached_folder))
    assert answer.returncode == 0, answer.stderr
    assert status_of(detached_folder)["gpus"][0]["total_bytes"] == 8 * 2**30


@pytest.mark.parametrize("seconds", [0.2, 0.8])
def test_a_detached_node_that_does_not_serve_in_time_is_ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    def late(pipe: int, _timeout_seconds: float) -> str:
        time.sleep(seconds)  # the node is then before or behind the fork that detaches it
        return ""

    monkeypatch.setattr("nvshare.cli.node_launch._read_line", late)
    with pytest.raises(CommandError, match="did not start"):
        launch_node(NodeOptions(folder, emulated_gpus=1), detach=True)
    lines = [process.as_dict(["cmdline"], ad_value=[])["cmdline"] or [] for process in psutil.process_iter()]
    assert [line for line in lines if str(folder) in line] == []


def test_a_node_whose_parent_is_gone_does_not_start(folder: Path, command: tuple[str, ...]) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    arguments = ("up", "--emulate", "1", "--node-dir", str(folder / "node"), "--parent", str(gone.pid))
    assert subprocess.run([*command, *arguments], timeout=30).returncode == 0
    assert not (folder / "node").exists()


def test_a_folder_that_is_refused_gets_no_log(folder: Path) -> None:
    folder.chmod(0o777)
    with pytest.raises(CommandError, match="others may write"):
        launch_node(NodeOptions(folder, emulated_gpus=1), detach=False)
    assert list(folder.iterdir()) == []


def test_a_second_node_on_the_same_real_gpu_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "cards").mkdir()
    # For these nodes the emulator's NVML is the driver's: cards that they did not make themselves.
    for name, value in with_emulator(os.environ, EmulatedCards(folder / "cards", emulator_libraries())).items():
        monkeypatch.setenv(name, value)
    first = launch_node(NodeOptions(folder / "first"), detach=False)
    try:
        with pytest.raises(CommandError, match="another node shares GPU GPU-"):
            launch_node(NodeOptions(folder / "second"), detach=False)
    finally:
        first.stop()


def test_a_node_that_run_started_outlives_the_job_and_serves_the_next(
    detached_folder: Path, nvshare: Command, status_of: Status
) -> None:
    first = nvshare("run", "--emulate", "2", "--node-dir", str(detached_folder), "--", "sh", "-c", "exit 3")
    assert first.returncode == 3, first.stderr
    node = NodeDirectory(detached_folder)
    assert node.is_running()
    pid = node.read_description()["pid"]
    assert len(status_of(detached_folder)["gpus"]) == 2
    assert nvshare("run", "--node-dir", str(detached_folder), "--", "true").returncode == 0
    assert node.read_description()["pid"] == pid


def test_two_runs_at_once_start_one_node(detached_folder: Path, command: tuple[str, ...]) -> None:
    arguments = (*command, "run", "--emulate", "--node-dir", str(detached_folder), "--", "true")
    jobs = [subprocess.Popen(arguments) for _ in range(2)]
    assert [job.wait(30) for job in jobs] == [0, 0]
