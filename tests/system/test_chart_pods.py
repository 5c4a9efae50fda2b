"""The pods that the chart renders run for real: in containers of Docker, with exactly the rights and mounts that they
ask for. The API server and kubelet are stand-ins; kubelet starts the test's pod in a container, too.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python
import pytest

from docker_pods import DockerNode, asked, docker, secrets_of
from live_node import wait_until
from rendered_chart import CHART, Object, Release

# The first test builds the images.
pytestmark = pytest.mark.timeout(300)

NODE = "node.one"  # as nodes of a cluster are called; no name on the bus has a dot
SERVICE = "demo-nvshare-hub.gpu.svc"
POD_SECONDS = 60


@dataclass
class Cluster:
    """A node of a cluster in which the chart is installed."""

    api: str
    release: Release
    node: DockerNode
    image: str

    def pods(self, namespace: str) -> str:
        return f"{self.api}/api/v1/namespaces/{namespace}/pods"

    def make(self, pod: Object) -> None:
        """Makes a pod on the node."""
        asked("POST", self.pods("gpu"), {**pod, "spec": {**pod["spec"], "nodeName": NODE}})

    def phase(self, name: str) -> str:
        return str(asked("GET", f"{self.pods('gpu')}/{name}").get("status", {}).get("phase"))

    def ends(self, name: str, seconds: float = POD_SECONDS) -> str:
        """The phase in which a pod ends."""
        return wait_until(
            lambda: phase if (phase := self.phase(name)) in ("Succeeded", "Failed") else None, seconds, f"end of {name}"
        )

    def log(self, name: str) -> str:
        return str(asked("GET", f"{self.pods('gpu')}/{name}/log"))

    def seen(self, name: str) -> list[int]:
        """What a pod with WATCHER has seen so far; nothing before it has started."""
        try:
            return [int(line) for line in self.log(name).splitlines()]
        except OSError:
            return []

    def replace(self, *pods: str) -> None:
        """Ends pods of the chart and starts them again, as an upgrade does, and waits until they are ready."""
        for name in pods:
            spec = self.node.pods[name]
            self.node.end(name)
            self.node.start(name, spec)
            self.wait_ready(name)

    def wait_ready(self, name: str) -> None:
        """Until all probes of a pod succeed."""
        try:
            wait_until(lambda: not self.node.not_ready(name), POD_SECONDS, f"{name} is ready")
        except BaseException:  # what pytest fails a test with
            print(self.node.not_ready(name), self.node.logs(), sep="\n")
            raise


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder for sockets: pytest's own are too deep for their names."""
    path = Path(tempfile.mkdtemp(prefix="nvshare-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def started(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """A stand-in, and the first line that it says."""
    process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline()


@pytest.fixture(scope="module")
def cluster(images: str, folder: Path) -> Iterator[Cluster]:
    """The chart on one node with an emulated GPU."""
    prefix = f"nvshare-{uuid.uuid4().hex[:8]}"
    docker("network", "create", prefix)
    host = json.loads(docker("network", "inspect", prefix))[0]["IPAM"]["Config"][0]["Gateway"]
    server, line = started("nvshare.fake_api_server", "--host", host, "--port", "0")
    api = line.split()[-1]
    kubelet, _ = started(
        "nvshare.fake_kubelet", "--root", str(folder / "kubelet"), "--node", NODE, "--api", api,
        "--runner", "docker-engine", "--host-pid",
    )  # fmt: skip
    values = {
        "image": {"tag": images},
        "emulated": {"gpus": 1, "gpuMemory": "2GiB"},
        "nodeFolder": str(folder / "node"),
        "kubelet": {"path": str(folder / "kubelet")},
        "sharing": {"hostMemory": "1GiB"},
        "quotaWatcher": {"extraEnv": [{"name": "NVSHARE_API_SERVER", "value": api}]},
    }
    with helm_python.Chart.load(CHART) as chart:
        release = Release(chart.render(values, name="demo", namespace="gpu"))
    node = DockerNode(NODE, prefix, folder, secrets_of(release.objects))
    made = Cluster(api, release, node, f"nvshare/workload:{images}")
    try:
        specs = release.pods()
        node.start("demo-nvshare-hub", specs["demo-nvshare-hub"])
        made.wait_ready("demo-nvshare-hub")
        node.services[SERVICE] = node.address("demo-nvshare-hub")
        others = ("demo-nvshare-quota-watcher", "demo-nvshare-node", "demo-nvshare-link")
        for name in others:
            node.start(name, specs[name])
        for name in others:
            made.wait_ready(name)
        yield made
    finally:
        for process in (kubelet, server):
            process.terminate()
            process.communicate(timeout=20)
        node.end_all()
        docker("network", "rm", prefix)


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


def workload(cluster: Cluster, name: str, *arguments: str) -> Object:
    """A pod with a share that computes and checks itself."""
    return pod_with(cluster, name, ["python3", "-m", "nvshare.cli.workloads.emulated", "--name", name, *arguments])


def pod_with(cluster: Cluster, name: str, command: list[str], **annotations: str) -> Object:
    """A pod with a share that runs `command`."""
    container: dict[str, Any] = {
        "name": "main",
        "image": cluster.image,
        "command": command,
        "resources": {"limits": {"nvshare.com/gpu": 1}},
    }
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": annotations}, "spec": spec}


def test_the_pod_of_helm_test_finds_its_share_and_its_quota(cluster: Cluster) -> None:
    (pod,) = cluster.release.all("Pod")
    cluster.make(pod)
    assert cluster.ends("demo-nvshare-test") == "Succeeded", cluster.log("demo-nvshare-test") + cluster.node.logs()
    assert cluster.log("demo-nvshare-test").strip() == "one share of a GPU, which shows its quota of 1Gi"


def test_the_node_says_what_it_shares_where_the_documents_look(cluster: Cluster) -> None:
    name = cluster.node.container("demo-nvshare-link", {"name": "link"})
    assert "2.0 GiB" in docker("exec", name, "nvshare", "status")


@pytest.mark.parametrize("order", [("link", "node"), ("node", "link")], ids=["link first", "node first"])
def test_an_upgrade_in_either_order_takes_nothing_from_a_pod_that_runs(
    cluster: Cluster, order: tuple[str, str]
) -> None:
    name = f"busy-{order[0]}"
    work = ("--seconds", "10", "--memory-bytes", str(2**29), "--kernel-ns", "2000000")
    cluster.make(workload(cluster, name, *work))
    wait_until(lambda: cluster.phase(name) == "Running", POD_SECONDS, f"{name} runs")
    cluster.replace(*(f"demo-nvshare-{one}" for one in order))
    assert cluster.ends(name) == "Succeeded", cluster.log(name) + cluster.node.logs()
    assert json.loads(cluster.log(name).splitlines()[-1])["correct"] is True
    status = asked("GET", f"{cluster.pods('gpu')}/{name}")["status"]
    assert [one["restartCount"] for one in status["containerStatuses"]] == [0]


def test_a_hub_that_starts_again_with_nothing_takes_no_quota_away(cluster: Cluster) -> None:
    quota = {"nvshare.com/gpu-memory-limit": "512Mi"}
    cluster.make(pod_with(cluster, "before", ["python3", "-c", WATCHER], **quota))
    wait_until(lambda: cluster.seen("before") == [2**29], POD_SECONDS, "the first pod sees its quota")
    cluster.replace("demo-nvshare-hub")
    cluster.make(pod_with(cluster, "after", ["python3", "-c", WATCHER], **quota))
    wait_until(lambda: cluster.seen("after")[-1:] == [2**29], POD_SECONDS, "the second pod sees its quota")
    assert cluster.seen("before") == [2**29]
