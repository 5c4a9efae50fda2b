"""The pods that the chart renders run for real: in containers of Docker, with exactly the rights and mounts that they
ask for. The API server and kubelet are stand-ins; kubelet starts the test's pod in a container, too.
"""

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python
import pytest

from docker_pods import DockerNode, asked, docker, secrets_of
from live_node import wait_until
from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.bench.timeline import Timeline
from nvshare.cli.node_query import fetch_status
from nvshare.v1.control_pb2 import GpuStatus
from rendered_chart import CHART, Object, Release

# The first test builds the images.
pytestmark = pytest.mark.timeout(300)

NODE = "node.one"  # as nodes of a cluster are called; no name on the bus has a dot
SERVICE = "demo-nvshare-hub.gpu.svc"
POD_SECONDS = 60
CARD_BYTES = 2 * 2**30
MEMORY = "nvshare.com/gpu-memory-limit"
MANAGED = "nvshare.com/managed"


@dataclass(frozen=True)
class Probed:
    """What a program in a pod found."""

    pid: int
    total_bytes: int
    has_own_library: bool


@dataclass
class Cluster:
    """A node of a cluster in which the chart is installed."""

    api: str
    release: Release
    node: DockerNode
    image: str

    @property
    def directory(self) -> NodeDirectory:
        """What the node's services share, as the host has it."""
        return NodeDirectory(self.node.folder / "node")

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

    def probed(self, name: str) -> Probed | None:
        """What a pod with PROBE says; None before it has."""
        try:
            lines = [line.split() for line in self.log(name).splitlines() if line.startswith("probe ")]
        except OSError:
            return None
        return Probed(int(lines[0][1]), int(lines[0][2]), lines[0][3] == "True") if lines else None

    @contextlib.contextmanager
    def with_pods(self, *pods: Object) -> Iterator[None]:
        """There are these pods as long as the context."""
        names = [pod["metadata"]["name"] for pod in pods]
        try:
            for pod in pods:
                self.make(pod)
            yield
        finally:
            for name in filter(self.is_there, names):
                asked("DELETE", f"{self.pods('gpu')}/{name}")
            wait_until(lambda: not any(map(self.is_there, names)), POD_SECONDS, f"end of {', '.join(names)}")

    def is_there(self, name: str) -> bool:
        try:
            self.phase(name)
        except OSError:
            return False
        return True

    async def gpu(self) -> GpuStatus:
        """The node's GPU, as `nvshare status` has it."""
        (gpu,) = (await fetch_status(self.directory)).gpus
        return gpu

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


USE_CARD = """
import os, time
from cuda.bindings import driver
driver.cuInit(0)
driver.cuCtxSetCurrent(driver.cuDevicePrimaryCtxRetain(0)[1])
driver.cuMemAlloc(2**26)
"""
# Says which process it is, how much memory its card has, and whether a library of the pod's is with it.
PROBE = f"""{USE_CARD}
own = "libc_malloc_debug" in open("/proc/self/maps").read()
print("probe", os.getpid(), driver.cuMemGetInfo()[2], own, flush=True)
time.sleep(1000)
"""
# Becomes another program when it has used the card.
TWO_PROGRAMS = f"""{USE_CARD}
os.execvp("python3", ["python3", "-c", os.environ["PROBE"]])
"""
# Emulated cards are found by these two variables; a driver that is installed needs none.
EMPTY = 'exec env -i LD_LIBRARY_PATH="$LD_LIBRARY_PATH" NVSHARE_EMULATOR_DIR="$NVSHARE_EMULATOR_DIR"'
WAYS_TO_START: dict[str, tuple[list[str], dict[str, str]]] = {
    # glibc's own, which stands between a program and malloc
    "own-preload": (["python3", "-c", PROBE], {"LD_PRELOAD": "libc_malloc_debug.so.0"}),
    "no-variables": (["sh", "-c", f'{EMPTY} "$(command -v python3)" -c "$0"', PROBE], {}),
    "from-a-shell": (["sh", "-c", 'python3 -c "$0" && true', PROBE], {}),
    "by-exec": (["python3", "-c", TWO_PROGRAMS], {"PROBE": PROBE}),
}


def workload(cluster: Cluster, name: str, *arguments: str) -> Object:
    """A pod with a share that computes and checks itself."""
    return pod_with(cluster, name, ["python3", "-m", "nvshare.cli.workloads.emulated", "--name", name, *arguments])


def pod_with(
    cluster: Cluster,
    name: str,
    command: list[str],
    annotations: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Object:
    """A pod with a share that runs `command`, with these variables of its own."""
    container: dict[str, Any] = {
        "name": "main",
        "image": cluster.image,
        "command": command,
        "env": [{"name": key, "value": value} for key, value in (variables or {}).items()],
        "resources": {"limits": {"nvshare.com/gpu": 1}},
    }
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": dict(annotations or {})},
        "spec": spec,
    }


def test_the_pod_of_helm_test_finds_its_share_and_its_quota(cluster: Cluster) -> None:
    (pod,) = cluster.release.all("Pod")
    cluster.make(pod)
    assert cluster.ends("demo-nvshare-test") == "Succeeded", cluster.log("demo-nvshare-test") + cluster.node.logs()
    assert cluster.log("demo-nvshare-test").strip() == "one share of a GPU, which shows its quota of 1Gi"


def test_the_node_says_what_it_shares_where_the_documents_look(cluster: Cluster) -> None:
    name = cluster.node.container("demo-nvshare-link", {"name": "link"})
    assert "2.0 GiB" in docker("exec", name, "nvshare", "status")


async def test_however_a_program_is_started_it_is_under_control(cluster: Cluster) -> None:
    quotas = {name: 300 + number for number, name in enumerate(WAYS_TO_START)}
    pods = [
        pod_with(cluster, name, command, {MEMORY: f"{quotas[name]}Mi"}, variables)
        for name, (command, variables) in WAYS_TO_START.items()
    ]

    def all_said() -> dict[str, Probed] | None:
        said = {name: one for name in WAYS_TO_START if (one := cluster.probed(name))}
        return said if len(said) == len(WAYS_TO_START) else None

    with cluster.with_pods(*pods):
        said = wait_until(all_said, POD_SECONDS, "each program says what it sees")
        gpu = await cluster.gpu()
    assert {name: one.total_bytes for name, one in said.items()} == {name: mib << 20 for name, mib in quotas.items()}
    assert {one.pid for one in said.values()} <= {client.pid for client in gpu.clients}
    assert [name for name, one in said.items() if one.has_own_library] == ["own-preload"], "a pod keeps its own library"
    assert not [holder for holder in gpu.holders if holder.unmanaged]


async def test_a_pod_that_opted_out_is_seen_on_the_card_and_said(cluster: Cluster) -> None:
    pod = pod_with(cluster, "free", ["python3", "-c", PROBE], {MANAGED: "false"})
    async with Timeline.of(cluster.directory) as timeline, asyncio.timeout(POD_SECONDS):
        with cluster.with_pods(pod):
            while not (events := [one for one in timeline.events if one.kind == "unmanaged-process"]):
                await asyncio.sleep(0.05)
            found = wait_until(lambda: cluster.probed("free"), POD_SECONDS, "the program says what it sees")
            gpu = await cluster.gpu()
    assert found.total_bytes == CARD_BYTES
    assert found.pid not in {client.pid for client in gpu.clients}
    assert [holder.pid for holder in gpu.holders if holder.unmanaged] == [found.pid]
    words = f"process {found.pid} (python3) in container "
    assert [one.text.startswith(words) for one in events] == [True]
    assert any(problem.startswith(words) for problem in gpu.problems), gpu.problems


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
    quota = {MEMORY: "512Mi"}
    cluster.make(pod_with(cluster, "before", ["python3", "-c", WATCHER], quota))
    wait_until(lambda: cluster.seen("before") == [2**29], POD_SECONDS, "the first pod sees its quota")
    cluster.replace("demo-nvshare-hub")
    cluster.make(pod_with(cluster, "after", ["python3", "-c", WATCHER], quota))
    wait_until(lambda: cluster.seen("after")[-1:] == [2**29], POD_SECONDS, "the second pod sees its quota")
    assert cluster.seen("before") == [2**29]
