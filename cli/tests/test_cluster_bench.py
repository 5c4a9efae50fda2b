"""Benchmarks in a cluster: pods are made, watched, judged and removed, whatever happens."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nvshare.bus.api_access import AccessError
from nvshare.cli.bench.runner import SilentSteps
from nvshare.cli.errors import CommandError
from nvshare.cli.kubernetes.api import ApiError
from nvshare.cli.kubernetes.bundle import bundled_command
from nvshare.cli.kubernetes.command import cluster_access, compare, find_workload, works_of
from nvshare.cli.kubernetes.login import login_by_program
from nvshare.cli.kubernetes.options import ClusterOptions, parse_annotations
from nvshare.cli.kubernetes.pods import PodPlan, PodState, pod_state
from nvshare.cli.kubernetes.rows import answer_in, pod_row
from nvshare.cli.kubernetes.run import Patience, Work, run_pods

PLAN = PodPlan("run", "nvshare.com/gpu", "image", 60, annotations={"nvshare.com/gpu-core-limit": "30"})
QUICK = Patience(seconds=0.2, poll_seconds=0.001)
UUID = "GPU-01234567-89ab-cdef-0123-456789abcdef"
WORKS = (Work("small-1", ("run", "1")), Work("small-2", ("run", "2")))

Object = dict[str, Any]


def result_line(speed: float = 100.0, correct: bool = True) -> str:
    """What a workload prints at its end."""
    times = {"started_ns": 0, "ended_ns": 1, "finished_ns": 2, "progress": [[0, 0], [1, 5]]}
    answer = {"event": "result", "seconds": 2.0, "iterations": 5, "iterations_per_second": speed, **times}
    return json.dumps({**answer, "checksum": "0f", "correct": correct, "gpus": [UUID]})


LOG = f"a warning\n{result_line()}\n"


def pod(name: str, phase: str = "Pending", node: str = "", **status: Any) -> Object:
    return {"metadata": {"name": name}, "spec": {"nodeName": node}, "status": {"phase": phase, **status}}


class Cluster:
    """An API server: each look at the pods shows the next of the states in `course`, the last one for ever."""

    def __init__(self, *course: Callable[[str], Object], log: str = LOG) -> None:
        self.course = course or (lambda name: pod(name, "Succeeded", "node-1"),)
        self.made: list[Object] = []
        self.present: list[str] = []
        self.looks = 0
        self.refuses: dict[str, list[ApiError]] = {}
        self._log = log

    def _refuse(self, what: str) -> None:
        if self.refuses.get(what):
            raise self.refuses[what].pop(0)

    async def create(self, pod: Object) -> None:
        self._refuse("create")
        self.made.append(pod)
        self.present.append(pod["metadata"]["name"])

    async def select(self, label: str) -> list[Object]:
        assert label == "nvshare.com/bench=run" or len(label) == len("nvshare.com/bench=") + 8
        self._refuse("select")
        state = self.course[min(self.looks, len(self.course) - 1)]
        self.looks += 1
        return [state(name) for name in self.present]

    async def log(self, name: str) -> str:
        self._refuse("log")
        return self._log

    async def delete(self, name: str, grace_seconds: int) -> None:
        self._refuse("delete")
        if name in self.present:
            self.present.remove(name)


def running(name: str) -> Object:
    return pod(name, "Running", "node-1")


def succeeded(name: str) -> Object:
    return pod(name, "Succeeded", "node-1")


async def test_c7_each_pod_has_a_row_with_its_gpu_and_its_speed() -> None:
    cluster = Cluster(pod, running, succeeded)
    rows = await run_pods(cluster, PLAN, WORKS, SilentSteps(), QUICK)
    assert [row.name for row in rows] == ["small-1", "small-2"]
    assert {(row.gpu, row.status, row.seconds, row.iterations_per_second) for row in rows} == {
        ("GPU-01234567 on node-1", "ok", 2.0, 100.0)
    }


async def test_the_pods_ask_for_the_resource_and_end_by_themselves() -> None:
    cluster = Cluster()
    await run_pods(cluster, PLAN, WORKS, SilentSteps(), QUICK)
    spec = cluster.made[0]["spec"]
    assert spec["containers"][0]["resources"] == {"limits": {"nvshare.com/gpu": "1"}}
    assert spec["containers"][0]["command"] == ["run", "1"]
    assert (spec["restartPolicy"], spec["activeDeadlineSeconds"]) == ("Never", 60)
    assert cluster.made[0]["metadata"]["annotations"] == {"nvshare.com/gpu-core-limit": "30"}


@pytest.mark.parametrize(
    "course",
    [
        (succeeded,),
        (lambda name: pod(name, "Failed", "node-1", reason="UnexpectedAdmissionError"),),
        (pod,),
    ],
    ids=["all is well", "they fail", "they never start"],
)
async def test_nothing_is_left_however_it_ends(course: tuple[Callable[[str], Object], ...]) -> None:
    cluster = Cluster(*course)
    await run_pods(cluster, PLAN, WORKS, SilentSteps(), QUICK)
    assert len(cluster.made) == 2
    assert cluster.present == []


async def test_c7_ctrl_c_leaves_nothing() -> None:
    cluster = Cluster(running)
    task = asyncio.ensure_future(run_pods(cluster, PLAN, WORKS, SilentSteps(), Patience(60, 0.001)))
    async with asyncio.timeout(5):
        while cluster.looks < 3:
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cluster.present == []


async def test_a_pod_that_the_server_refuses_ends_the_run_and_removes_the_others() -> None:
    cluster = Cluster()
    refusal = ApiError(403, "pods is forbidden")
    made = cluster.create

    async def create(pod: Object) -> None:
        if cluster.made:
            raise refusal
        await made(pod)

    cluster.create = create  # type: ignore[method-assign]
    with pytest.raises(CommandError, match="pods is forbidden"):
        await run_pods(cluster, PLAN, WORKS, SilentSteps(), QUICK)
    assert cluster.present == []


async def test_a_server_that_is_away_for_a_while_is_waited_for() -> None:
    cluster = Cluster(running, succeeded)
    cluster.refuses = {"select": [ApiError(0, "no answer"), ApiError(503, "busy")], "delete": [ApiError(500, "oops")]}
    rows = await run_pods(cluster, PLAN, WORKS, SilentSteps(), QUICK)
    assert all(row.ok for row in rows)
    assert cluster.present == []


async def test_pods_that_cannot_be_removed_are_named_with_the_command_that_does() -> None:
    cluster = Cluster()
    cluster.refuses = {"delete": [ApiError(403, "no")] * 2}
    with pytest.raises(CommandError, match=r"kubectl delete pods -l nvshare\.com/bench=run"):
        await run_pods(cluster, PLAN, WORKS, SilentSteps(), QUICK)


async def test_a_pod_that_somebody_deletes_has_failed() -> None:
    cluster = Cluster()

    async def select(label: str) -> list[Object]:
        return [succeeded(name) for name in cluster.present[:1]]

    cluster.select = select  # type: ignore[method-assign]
    first, second = await run_pods(cluster, PLAN, WORKS, SilentSteps(), QUICK)
    assert first.ok
    assert "deleted" in second.status


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1"}]},
            "Unschedulable: 0/1",
        ),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no image"}}}]},
            "ImagePullBackOff: no image",
        ),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, ""),
        (
            {"reason": "UnexpectedAdmissionError", "message": "no share\nleft"},
            "UnexpectedAdmissionError: no share left",
        ),
        (
            {"containerStatuses": [{"state": {"terminated": {"reason": "Error", "exitCode": 3}}}]},
            "exit status 3",
        ),
        (
            {"containerStatuses": [{"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]},
            "OOMKilled",
        ),
        ({}, ""),
    ],
)
def test_why_a_pod_does_not_run_is_said(status: Object, words: str) -> None:
    assert pod_state(pod("a", **status)).why == words


def test_a_pod_that_does_not_start_says_why_in_its_row() -> None:
    row = pod_row("small-1", PodState("a", why="Unschedulable: Insufficient nvshare.com/gpu"), "")
    assert not row.ok
    assert "Insufficient nvshare.com/gpu" in row.status


def test_a_program_that_failed_says_its_last_words() -> None:
    row = pod_row("small-1", PodState("a", "Failed", "n", "exit status 1"), "Traceback\nOutOfMemoryError: no\n")
    assert row.status == "exit status 1; OutOfMemoryError: no"


def test_a_wrong_result_is_no_success() -> None:
    assert pod_row("a", PodState("a", "Succeeded", "n"), result_line(correct=False)).status == "wrong result"


@pytest.mark.parametrize("log", ["", "{}\n[1]\nnull\n", '{"event": "result"}', "\x00\n"])
def test_a_log_without_an_answer_has_none(log: str) -> None:
    assert answer_in(log) is None
    assert not pod_row("a", PodState("a", "Succeeded", "n"), log).ok


async def test_c7_the_baseline_runs_after_it_and_is_compared() -> None:
    cluster = Cluster()
    options = ClusterOptions(pods=3, baseline="nvidia.com/gpu", image="image", seconds=0.001)
    shares, baseline = await compare("small", options, cluster, SilentSteps(), QUICK)
    asked = [next(iter(pod["spec"]["containers"][0]["resources"]["limits"])) for pod in cluster.made]
    assert asked == ["nvshare.com/gpu"] * 3 + ["nvidia.com/gpu"] * 3
    assert len(shares.rows) == len(baseline.rows) == 3
    assert baseline.summary["total_of_shares_over_this"] == 1.0


async def test_a_real_gpu_needs_an_image() -> None:
    with pytest.raises(CommandError, match="--image"):
        await compare("small", ClusterOptions(pods=1), Cluster(), SilentSteps(), QUICK)


def test_the_programs_differ_by_name_alone_and_idle_ones_rest_each_in_a_rhythm_of_its_own() -> None:
    works = works_of("idle-small", ClusterOptions(pods=2, emulated=True))
    assert [work.name for work in works] == ["idle-small-1", "idle-small-2"]
    assert ["--pause-ms" in work.command for work in works] == [True, True]


def test_a_scenario_for_one_node_is_not_one_for_a_cluster() -> None:
    with pytest.raises(CommandError, match="small, large, idle-small"):
        find_workload("pair-small")


def test_annotations_are_nvshares_unless_they_say_other() -> None:
    given = parse_annotations(["gpu-core-limit=30", "team.example/a=b=c"])
    assert given == {"nvshare.com/gpu-core-limit": "30", "team.example/a": "b=c"}
    with pytest.raises(CommandError):
        parse_annotations(["30"])


def test_the_cluster_is_found_as_kubectl_finds_it(tmp_path: Path) -> None:
    config = tmp_path / ".kube" / "config"
    config.parent.mkdir()
    document = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://home.example"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    config.write_text(json.dumps(document))
    other = tmp_path / "other"
    other.write_text(json.dumps(document).replace("home.example", "other.example"))
    found = cluster_access(ClusterOptions(pods=1), {}, tmp_path)
    assert (found.url, found.namespace) == ("https://home.example", "team")
    assert cluster_access(ClusterOptions(pods=1), {"KUBECONFIG": str(other)}, tmp_path).url == "https://other.example"
    plain = ClusterOptions(pods=1, api_server="http://127.0.0.1:8001")
    assert cluster_access(plain, {}, tmp_path).url == "http://127.0.0.1:8001"
    with pytest.raises(CommandError, match="kubectl proxy"):
        cluster_access(ClusterOptions(pods=1), {}, tmp_path / "nobody")


def program(folder: Path, script: str) -> dict[str, Any]:
    """What a kubeconfig says of a program that gives tokens."""
    path = folder / "login"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": str(path),
        "env": [{"name": "WHO", "value": "me"}],
    }


def credential(ends: str) -> str:
    """A script that counts how often it was asked, and gives that as a token."""
    document = {"kind": "ExecCredential", "status": {"token": "$WHO-$count", "expirationTimestamp": ends}}
    text = json.dumps(document).replace('"', '\\"')
    return f'cd "$(dirname "$0")"; echo x >> asked; count=$(wc -l < asked); echo "{text}"'


@pytest.mark.parametrize(
    ("ends", "tokens"), [("2999-01-01T00:00:00Z", ["me-1", "me-1"]), ("2000-01-01T00:00:00Z", ["me-1", "me-2"])]
)
def test_a_program_is_asked_for_a_token_when_the_last_one_has_ended(
    tmp_path: Path, ends: str, tokens: list[str]
) -> None:
    current_token = login_by_program(program(tmp_path, credential(ends)))
    assert [current_token(), current_token()] == tokens


@pytest.mark.parametrize("script", ["echo 'not logged in' >&2; exit 1", "echo '{}'", "echo nonsense"])
def test_a_program_that_gives_no_token_is_named(tmp_path: Path, script: str) -> None:
    with pytest.raises(AccessError, match="login gave no token"):
        login_by_program(program(tmp_path, script))()


def test_a_program_that_is_not_there_comes_with_the_kubeconfigs_hint(tmp_path: Path) -> None:
    section = {"apiVersion": "v1", "command": str(tmp_path / "nobody"), "installHint": "install it so"}
    with pytest.raises(AccessError, match="install it so"):
        login_by_program(section)()


def test_the_workloads_run_where_nvshare_is_not_installed(tmp_path: Path) -> None:
    command = bundled_command(sys.executable, ["-m", "nvshare.cli.workloads.training"])
    isolated = [command[0], "-I", "-S", *command[1:]]
    ended = subprocess.run(isolated, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    missing = bundled_command(sys.executable, ["-m", "nvshare.cli.workloads.nothing"])
    assert subprocess.run([missing[0], "-I", "-S", *missing[1:]], capture_output=True, cwd=tmp_path).returncode == 1


def test_a_command_line_is_short_enough_for_a_container() -> None:
    command = bundled_command("python3", ["-m", "nvshare.cli.workloads.pytorch"])
    assert max(map(len, command)) < 100_000  # Linux takes 128 KiB
