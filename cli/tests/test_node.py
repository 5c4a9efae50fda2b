"""Commands against a running node with two emulated cards; everything is real but the cards."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from nvshare.bus.node_directory import NodeDirectory

Command = Callable[..., Any]
Status = Callable[[Path], dict[str, Any]]
Until = Callable[..., None]


def test_a_second_up_on_the_same_folder_is_refused_with_one_line(node_dir: Path, nvshare: Command) -> None:
    for more in ([], ["--detach"]):
        answer = nvshare("up", "--emulate", "1", "--node-dir", str(node_dir), *more)
        assert answer.returncode == 1
        assert answer.stderr.count("\n") == 1
        assert f"a node already runs in {node_dir}" in answer.stderr


def test_status_shows_every_card_with_its_capacity(node_dir: Path, nvshare: Command, status_of: Status) -> None:
    status = status_of(node_dir)
    assert [gpu["index"] for gpu in status["gpus"]] == [0, 1]
    assert all(0 < gpu["capacity_bytes"] <= 16 * 2**30 for gpu in status["gpus"])
    table = nvshare("status", "--node-dir", str(node_dir))
    assert all(gpu["uuid"] in table.stdout for gpu in status["gpus"])


def test_credentials_are_files_that_only_their_user_reads(node_dir: Path) -> None:
    files = sorted(NodeDirectory(node_dir).credentials.iterdir())
    services = ["device-plugin", "metrics", "scheduler"]  # the relay makes its own
    assert [file.name for file in files] == [f"{service}.creds" for service in services]
    assert [file.stat().st_mode & 0o077 for file in files] == [0, 0, 0]


def test_run_returns_the_programs_status(node_dir: Path, nvshare: Command) -> None:
    assert nvshare("run", "--node-dir", str(node_dir), "--", "sh", "-c", "exit 7").returncode == 7
    assert (
        nvshare("run", "--node-dir", str(node_dir), "--", "sh", "-c", "kill -KILL $$").returncode
        == 128 + signal.SIGKILL
    )


def test_run_gives_the_chosen_gpus_by_uuid_in_the_order_that_was_asked_for(
    node_dir: Path, nvshare: Command, status_of: Status
) -> None:
    uuids = [gpu["uuid"] for gpu in status_of(node_dir)["gpus"]]
    answer = nvshare("run", "--node-dir", str(node_dir), "--gpu", "1,0", "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert answer.stdout.strip() == f"{uuids[1]},{uuids[0]}"


def test_run_says_that_the_gpu_is_emulated(node_dir: Path, nvshare: Command) -> None:
    answer = nvshare("run", "--node-dir", str(node_dir), "--", "true")
    assert answer.stderr == f"nvshare: true runs on an emulated GPU of the node in {node_dir}\n"


def test_a_program_with_a_long_name_runs_under_its_beginning(node_dir: Path, folder: Path, nvshare: Command) -> None:
    program = folder / ("long" * 25)
    program.symlink_to("/bin/true")
    answer = nvshare("run", "--node-dir", str(node_dir), "--", str(program))
    assert answer.returncode == 0, answer.stderr
    assert f"nvshare: {'long' * 16} runs" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--gpu", "7", "--", "true"], "no GPU '7' on this node; its GPUs: 0 (GPU-"),
        (["run", "--gpu", "0,0", "--", "true"], "names a GPU twice"),
        (["run", "--memory", "1Ti", "--", "true"], "more than the GPU has"),
        (["run", "--name", "two\nlines", "--", "true"], "name"),
        (["mode", "9", "serial"], "no GPU '9' on this node"),
    ],
)
def test_bad_input_for_a_node_is_one_clear_line(
    node_dir: Path, arguments: list[str], words: str, nvshare: Command
) -> None:
    answer = nvshare(arguments[0], "--node-dir", str(node_dir), *arguments[1:])
    assert answer.returncode != 0
    assert answer.stderr.count("\n") == 1
    assert words in answer.stderr


def test_the_allocation_ends_with_the_program(
    node_dir: Path, nvshare: Command, status_of: Status, until: Until
) -> None:
    answer = nvshare("run", "--node-dir", str(node_dir), "--name", "brief", "--", "sh", "-c", "test -S $NVSHARE_SOCKET")
    assert answer.returncode == 0
    until(lambda: not status_of(node_dir)["allocations"])
    assert list(NodeDirectory(node_dir).allocations.iterdir()) == []


@pytest.mark.parametrize("kernels", ["sums", "graphs"])
def test_a_program_under_run_computes_on_the_card(kernels: str, node_dir: Path, nvshare: Command) -> None:
    workload = [sys.executable, "-m", "nvshare.cli.workloads.emulated", "--name", "small", "--iterations", "60"]
    size = ["--memory-bytes", str(2**30), "--kernel-ns", "100000", "--kernels", kernels]
    answer = nvshare("run", "--node-dir", str(node_dir), "--", *workload, *size)
    assert answer.returncode == 0, answer.stderr
    result = json.loads(answer.stdout)
    assert result["correct"]
    assert result["iterations"] == 60
    assert result["progress"][-1] == [result["ended_ns"], 60]


def test_a7_mode_and_quantum_change_for_one_card_only(node_dir: Path, nvshare: Command, status_of: Status) -> None:
    before = status_of(node_dir)["gpus"]
    answer = nvshare("mode", "1", "serial", "--quantum", "5", "--node-dir", str(node_dir))
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "GPU 1: serial, quantum 5 s\n"
    after = status_of(node_dir)["gpus"]
    assert (after[1]["mode"], after[1]["quantum_us"]) == ("serial", 5_000_000)
    assert after[0]["mode"] == before[0]["mode"]


def test_a6_the_quantum_of_one_card_changes_and_its_mode_stays(
    node_dir: Path, nvshare: Command, status_of: Status
) -> None:
    before = status_of(node_dir)["gpus"]
    answer = nvshare("quantum", "1", "7", "--node-dir", str(node_dir))
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == f"GPU 1: {before[1]['mode']}, quantum 7 s\n"
    after = status_of(node_dir)["gpus"]
    assert (after[1]["mode"], after[1]["quantum_us"]) == (before[1]["mode"], 7_000_000)
    assert after[0]["quantum_us"] == before[0]["quantum_us"]


def test_a6_the_automatic_quantum_and_the_longest_wait_are_set_and_shown(
    node_dir: Path, nvshare: Command, status_of: Status
) -> None:
    answer = nvshare("quantum", "1", "auto", "--max-wait", "12", "--node-dir", str(node_dir))
    assert answer.returncode == 0, answer.stderr
    assert "(auto, max wait 12 s)" in answer.stdout
    gpu = status_of(node_dir)["gpus"][1]
    assert (gpu["quantum_auto"], gpu["max_wait_us"]) == (True, 12_000_000)
    assert "(auto, max wait 12 s)" in nvshare("status", "--node-dir", str(node_dir)).stdout


@pytest.mark.parametrize("service", ["nats-server", "nvshare.relay", "nvshare.scheduler"])
def test_a_killed_service_is_back_and_the_node_serves_again(
    node_dir: Path, service: str, nvshare: Command, until: Until
) -> None:
    node = NodeDirectory(node_dir)
    supervisor = psutil.Process(node.read_description()["pid"])

    def pids() -> set[int]:
        lines = {child.pid: child.as_dict(["cmdline"], ad_value=[]) for child in supervisor.children()}
        return {pid for pid, line in lines.items() if service in " ".join(line["cmdline"])}

    (killed,) = pids()
    url = node.read_description()["nats_url"]
    os.kill(killed, signal.SIGKILL)
    until(lambda: pids() - {killed})
    until(lambda: nvshare("status", "--node-dir", str(node_dir)).returncode == 0)
    assert node.read_description()["nats_url"] == url
    assert nvshare("run", "--node-dir", str(node_dir), "--", "true").returncode == 0
