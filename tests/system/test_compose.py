"""docker-compose.yml: a cluster of two nodes comes up from a copy of the tree, works, and keeps working."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

ROOT = Path(__file__).resolve().parents[2]
PODS = "/api/v1/namespaces/default/pods"
T = TypeVar("T")

# The first test builds the images, and waits for the workload.
pytestmark = pytest.mark.timeout(300)

# Tells each change of what the program sees of its card.
WATCHER = """
import time
from cuda.bindings import driver
driver.cuInit(0)
driver.cuCtxSetCurrent(driver.cuDevicePrimaryCtxRetain(0)[1])
seen = None
while True:
    total = driver.cuMemGetInfo()[2]
    if total != seen:
        print(total, flush=True)
    seen = total
    time.sleep(0.02)
"""

# Says of each batch of sums whether all until then are what they should be. Two of these do not fit into one GPU.
LOAD = """
from cuda.bindings import driver
from nvshare.cli.workloads.emulated import Card, Sums, call
call(driver.cuInit, 0)
card = Card(0)
work = Sums(card, 5 * 2**28, 2_000_000, seed=1)
while True:
    for _ in range(50):
        work.step()
    print("right" if work.checksum() == work.expected_checksum() else "WRONG", flush=True)
"""


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs. `folder` is the copy of the tree."""

    folder: Path
    environment: dict[str, str] = field(repr=False)

    @property
    def image(self) -> str:
        return f"nvshare/workload:{self.environment['NVSHARE_TAG']}"

    def compose(self, *arguments: str) -> str:
        """What docker-compose prints."""
        run = ["docker-compose", *arguments]
        done = subprocess.run(run, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def api(self, method: str, path: str, body: object = None) -> str:
        """The API server's answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.environment['NVSHARE_API_PORT']}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/merge-patch+json" if method == "PATCH" else "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())

    def make_pod(self, name: str, command: list[str], *, annotations: dict[str, str], node: str = "") -> None:
        container = {
            "name": "main",
            "image": self.image,
            "command": command,
            "resources": {"limits": {"nvshare.com/gpu": 1}},
        }
        spec: dict[str, Any] = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
        if node:
            spec["nodeSelector"] = {"kubernetes.io/hostname": node}
        body = {"kind": "Pod", "metadata": {"name": name, "annotations": annotations}, "spec": spec}
        self.api("POST", PODS, body)

    def pod(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.api("GET", f"{PODS}/{name}"))
        return found

    def log(self, name: str) -> list[str]:
        """The lines that a pod has printed; none before it has started."""
        try:
            return self.api("GET", f"{PODS}/{name}/log").splitlines()
        except OSError:
            return []

    def computed(self, name: str) -> list[str]:
        """The same, without what the library says beside the program."""
        return [line for line in self.log(name) if not line.startswith("nvshare[")]

    def wait(self, condition: Callable[[], T | None], seconds: float, what: str) -> T:
        """What `condition` gives once it is neither None nor false."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s\n{self.compose('logs', '--tail=20')}"
            time.sleep(0.05)
        return found


@pytest.fixture(scope="module")
def cluster(images: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """What `docker compose up` brings, from a copy of the tree."""
    folder = tmp_path_factory.mktemp("compose") / "tree"
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True
    )
    for name in filter(None, listing.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    environment = os.environ | {
        "COMPOSE_PROJECT_NAME": f"nvshare-{uuid.uuid4().hex[:8]}",
        "NVSHARE_TAG": images,
        "NVSHARE_API_PORT": str(port),
    }
    cluster = Cluster(folder, environment)
    try:
        cluster.compose("up", "--detach", "--no-build")
        yield cluster
    finally:
        cluster.compose("down", "--volumes", "--timeout=2")


def test_the_file_is_valid_with_the_services_that_watch() -> None:
    done = subprocess.run(
        ["docker-compose", "--profile", "observe", "config", "--services"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {"jaeger", "prometheus", "grafana"} <= set(done.stdout.split())


def test_the_cluster_comes_up_and_its_workload_computes_what_it_should(cluster: Cluster) -> None:
    container = cluster.compose("ps", "-q", "workload").strip()
    code = subprocess.run(["docker", "wait", container], capture_output=True, text=True, check=True).stdout.strip()
    printed = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in printed.splitlines() if line.startswith("job-")]
    assert code == "0", printed + cluster.compose("logs", "--tail=40")
    assert [row[-1] for row in rows] == ["right"] * 8
    assert sorted(row[1] for row in rows) == ["node-a"] * 4 + ["node-b"] * 4
    gpus = [row[2] for row in rows]
    assert sorted(map(gpus.count, set(gpus))) == [2, 2, 2, 2], "two pods on each of four GPUs"


def test_an_annotation_that_changes_is_in_force_in_the_running_program(cluster: Cluster) -> None:
    quota = "nvshare.com/gpu-memory-limit"
    cluster.make_pod("watcher", ["python3", "-c", WATCHER], annotations={quota: "512Mi"})
    cluster.wait(lambda: cluster.computed("watcher") == [str(2**29)], 20, "the quota that the pod began with")
    patch = {"metadata": {"annotations": {quota: "1Gi"}}}
    began = time.monotonic()
    cluster.api("PATCH", f"{PODS}/watcher", patch)
    cluster.wait(lambda: cluster.computed("watcher")[-1:] == [str(2**30)], 10, "the other quota")
    assert time.monotonic() - began < 2
    cluster.api("DELETE", f"{PODS}/watcher")


def test_nothing_is_lost_when_a_node_s_services_start_again_under_load(cluster: Cluster) -> None:
    names = [f"load-{number}" for number in range(4)]
    for name in names:
        cluster.make_pod(name, ["python3", "-c", LOAD], annotations={}, node="node-a")
    cluster.wait(lambda: all(map(cluster.computed, names)), 60, "all have computed something")
    cluster.compose("restart", "--timeout=5", "link-a", "scheduler-a", "device-plugin-a")
    done = {name: len(cluster.computed(name)) for name in names}
    cluster.wait(lambda: all(len(cluster.computed(name)) > done[name] + 3 for name in names), 60, "all go on")
    assert {line for name in names for line in cluster.computed(name)} == {"right"}
    restarts = [cluster.pod(name)["status"]["containerStatuses"][0]["restartCount"] for name in names]
    assert restarts == [0] * 4
    cluster.make_pod("after", ["python3", "-c", WATCHER], annotations={}, node="node-a")
    cluster.wait(lambda: cluster.computed("after"), 30, "the node takes pods again")
