"""Jobs over two GPUs whose parts wait for each other: everything real but the cards (E11).

Each card has 4 GiB, of which nvshare shares 512 MiB; a job has 384 MiB on each.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from live_node import MIB, NVSHARE, MakeNode, Node, wait_until

pytestmark = pytest.mark.heavy

CAPACITY_BYTES = 512 * MIB
LARGE_BYTES = 384 * MIB
QUANTUM = ("--quantum", "0.5")
HANG_SECONDS = 4  # 8 quanta

StartJob = Callable[..., subprocess.Popen[str]]
MakePair = Callable[..., Node]


@pytest.fixture
def make_pair(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> MakePair:
    """Starts a node of two GPUs that shares 512 MiB of each."""

    def make(*options: str, gangs: str = "auto") -> Node:
        monkeypatch.setenv("NVSHARE_GPU_MEMORY", str(CAPACITY_BYTES))
        monkeypatch.setenv("NVSHARE_GANGS", gangs)
        return make_node("--emulate", "2", "--gpu-memory", "4GiB", *(options or QUANTUM))

    return make


@pytest.fixture
def start_job() -> Iterator[StartJob]:
    """Starts a job on both GPUs of a node, in an allocation of its own; it waits to go on, without memory yet, and then
    works until it is told to end."""
    jobs: list[subprocess.Popen[str]] = []

    def start(node: Node, name: str, memory_bytes: int = LARGE_BYTES) -> Any:
        workload = [
            *(sys.executable, "-m", "nvshare.cli.workloads.emulated_tied", "--name", name, "--gpus", "2"),
            *("--memory-bytes", str(memory_bytes), "--kernel-ns", "2000000"),
            *("--wait-for-memory", "--until-told"),
        ]
        run = [*NVSHARE, "run", "--node-dir", str(node.directory), "--gpu", "0,1", "--name", name, "--"]
        job = subprocess.Popen(
            [*run, *workload], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )
        jobs.append(job)
        assert job.stdout is not None
        assert "ready" in job.stdout.readline()
        return job

    yield start
    for job in jobs:
        kill(job)
        job.communicate()


def go(*jobs: subprocess.Popen[str]) -> None:
    """Let jobs go on, or end."""
    for job in jobs:
        assert job.stdin is not None
        job.stdin.write("go\n")
        job.stdin.flush()


def kill(job: subprocess.Popen[str]) -> None:
    """Kill all processes of a job."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGKILL)


def finish(*jobs: subprocess.Popen[str]) -> None:
    """Tell jobs to end; their sums must be right."""
    go(*jobs)
    for job in jobs:
        said, _ = job.communicate(timeout=60)
        assert job.returncode == 0
        assert json.loads(said.splitlines()[-1])["correct"]


def hand_overs(node: Node) -> int:
    """Turns that ended on both GPUs."""
    return sum(int(node.gpu(gpu).get("hand_overs", 0)) for gpu in (0, 1))


def launches(node: Node, name: str) -> list[int]:
    """What the job has launched so far on each GPU."""
    return [int(node.clients(gpu).get(name, {}).get("launches", 0)) for gpu in (0, 1)]


@pytest.mark.parametrize("mode", ["auto", "serial"])
def test_e11_two_jobs_that_do_not_fit_together_both_finish_in_turns(
    mode: str, make_pair: MakePair, start_job: StartJob
) -> None:
    node = make_pair(*QUANTUM, "--mode", mode)
    jobs = [start_job(node, name) for name in ("one", "two")]
    wait_until(lambda: all(gangs(node)), 20, "both are gangs")
    assert gangs(node) == [node.clients(gpu)[name]["allocation"] for name in ("one", "two") for gpu in (0, 1)]
    go(*jobs)
    wait_until(lambda: hand_overs(node) >= 4, 30, "turns")
    finish(*jobs)
    assert sum(int(node.gpu(gpu)["swapped_bytes"]) for gpu in (0, 1)) > 0


def test_e11_without_gangs_the_two_jobs_hang_at_their_first_hand_over(make_pair: MakePair, start_job: StartJob) -> None:
    """One has launched on the first GPU what its work on the second one waits for, where the other is by then."""
    node = make_pair(gangs="off")
    go(*(start_job(node, name) for name in ("one", "two")))
    wait_until(lambda: all(any(launches(node, name)) for name in ("one", "two")), 20, "both have begun")
    unchanged_since = time.monotonic()
    before = [launches(node, name) for name in ("one", "two")]

    def hang() -> bool:
        nonlocal before, unchanged_since
        now = [launches(node, name) for name in ("one", "two")]
        if now != before:
            before, unchanged_since = now, time.monotonic()
        return time.monotonic() - unchanged_since > HANG_SECONDS

    wait_until(hang, 40, "neither launches anything more")


def test_a4_two_jobs_that_fit_together_run_side_by_side_and_nothing_moves(
    make_pair: MakePair, start_job: StartJob
) -> None:
    node = make_pair()
    jobs = [start_job(node, name, memory_bytes=128 * MIB) for name in ("one", "two")]
    go(*jobs)
    wait_until(lambda: all(min(launches(node, name)) >= 500 for name in ("one", "two")), 20, "both run")
    finish(*jobs)
    assert [int(node.gpu(gpu).get("swapped_bytes", 0)) for gpu in (0, 1)] == [0, 0]


def test_e11_a_job_that_is_killed_in_its_turn_leaves_both_gpus_to_the_other(
    make_pair: MakePair, start_job: StartJob
) -> None:
    node = make_pair("--quantum", "30")
    one, two = start_job(node, "one"), start_job(node, "two")
    go(one)
    wait_until(lambda: all(holds(node, "one")), 20, "`one` runs")
    go(two)
    wait_until(
        lambda: node.clients(0)["two"].get("allocation_wait_us") or node.clients(0)["two"].get("wait") == "turn",
        20,
        "`two` waits",
    )
    kill(one)
    wait_until(lambda: all(holds(node, "two")), 20, "`two` runs")
    finish(two)


def gangs(node: Node) -> list[str]:
    """The gangs of both jobs on both GPUs, as `nvshare status` shows them."""
    return [str(node.clients(gpu)[name].get("gang", "")) for name in ("one", "two") for gpu in (0, 1)]


def holds(node: Node, name: str) -> list[bool]:
    """On which of the GPUs all of a job's large memory is."""
    clients = [node.clients(gpu).get(name, {}) for gpu in (0, 1)]
    return [int(client.get("resident_bytes", 0)) >= LARGE_BYTES for client in clients]
