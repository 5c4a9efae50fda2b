"""How a node starts and ends."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from nvshare.bus.node_directory import NodeDirectory

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
    assert not list(folder.glob("emulator-*"))


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
