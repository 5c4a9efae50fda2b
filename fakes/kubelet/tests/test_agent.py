"""A node in a cluster: the API server's pods run here, and it is told how they are."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from fakes.kubelet.tests.conftest import RESOURCE, TinyPlugin

from nvshare.fake_api_server.faults import Action
from nvshare.fake_api_server.resources import NODES, PODS, Target
from nvshare.fake_api_server.server import FakeApiServer
from nvshare.fake_api_server.statuses import ApiError
from nvshare.fake_kubelet.agent import Agent
from nvshare.fake_kubelet.api_client import ApiClient
from nvshare.fake_kubelet.host_paths import HostPaths
from nvshare.fake_kubelet.kubelet import Kubelet
from nvshare.fake_kubelet.node import Node
from nvshare.fake_kubelet.pod_worker import BackOff
from nvshare.fake_kubelet.process_runner import ProcessRunner

Json = dict[str, Any]


class Cluster:
    """An API server, and one node."""

    def __init__(self, api: FakeApiServer, node: Node) -> None:
        self.api = api
        self.node = node
        self._news = asyncio.Event()
        api.store.on_change.append(self._news.set)

    def add_pod(self, script: str, name: str = "p", devices: int = 0, **spec: Any) -> None:
        limits = {RESOURCE: str(devices)} if devices else {}
        container = {"name": "main", "command": ["sh", "-c", script], "resources": {"limits": limits}}
        spec = {"nodeName": "n1", "restartPolicy": "Never", "containers": [container], **spec}
        self.api.add({"kind": "Pod", "metadata": {"name": name}, "spec": spec})

    def pod(self, name: str = "p") -> Json | None:
        try:
            return dict(self.api.store.get(Target(PODS, "default", name)))
        except ApiError:
            return None

    def resources(self) -> Json:
        try:
            return dict(self.api.store.get(Target(NODES, name="n1"))["status"].get("allocatable", {}))
        except ApiError:
            return {}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def until_phase(self, phase: str, name: str = "p") -> Json:
        await self.until(lambda: (self.pod(name) or {}).get("status", {}).get("phase") == phase)
        pod = self.pod(name)
        assert pod is not None
        return pod


@pytest.fixture
async def api() -> AsyncIterator[FakeApiServer]:
    server = FakeApiServer(bind_pods=True)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def cluster(api: FakeApiServer, directory: Path) -> AsyncIterator[Cluster]:
    runner = ProcessRunner(HostPaths({"PATH": os.environ["PATH"]}, lambda path: Path(path).read_text()))
    async with (
        Node(Kubelet(directory), runner, back_off=BackOff(0.01, 0.02)) as node,
        ApiClient(api.url) as client,
    ):
        agent = asyncio.create_task(Agent(node, "n1", client).run())
        cluster = Cluster(api, node)
        await cluster.until(lambda: bool(cluster.resources()))
        yield cluster
        agent.cancel()
        await asyncio.wait({agent})


@pytest.fixture
async def plugin(cluster: Cluster, make_plugin: Callable[..., TinyPlugin]) -> TinyPlugin:
    plugin = make_plugin(cluster.node.kubelet)
    plugin.list_devices("a", "b")
    await plugin.start()
    await cluster.until(lambda: cluster.resources().get(RESOURCE) == "2")
    return plugin


async def test_a_pod_of_the_node_runs_and_its_end_is_told(cluster: Cluster) -> None:
    cluster.add_pod("exit 3")

    pod = await cluster.until_phase("Failed")

    (container,) = pod["status"]["containerStatuses"]
    assert container["state"]["terminated"]["exitCode"] == 3


async def test_a_pod_of_another_node_is_left_alone(cluster: Cluster) -> None:
    cluster.add_pod("exit 0", "other", nodeName="n2")
    cluster.add_pod("exit 0")

    await cluster.until_phase("Succeeded")

    assert [worker.pod.name for worker in cluster.node.workers.values()] == ["p"]


async def test_the_nodes_capacity_follows_the_plugin(cluster: Cluster, plugin: TinyPlugin) -> None:
    plugin.list_devices("a", unhealthy=["b"])

    await cluster.until(lambda: cluster.resources()[RESOURCE] == "1")


async def test_a_pod_without_a_node_comes_to_the_one_that_has_its_devices(cluster: Cluster, plugin: TinyPlugin) -> None:
    cluster.add_pod("test $DEVICES", devices=2, nodeName="")

    pod = await cluster.until_phase("Succeeded")

    assert pod["spec"]["nodeName"] == "n1"


async def test_a_pod_that_is_not_admitted_says_why(cluster: Cluster, plugin: TinyPlugin) -> None:
    plugin.failing.add("Allocate")
    cluster.add_pod("exit 0", devices=1)

    pod = await cluster.until_phase("Failed")

    assert pod["status"]["reason"] == "UnexpectedAdmissionError"
    assert "Allocate fails" in pod["status"]["message"]


async def test_what_is_no_pod_for_it_is_refused(cluster: Cluster) -> None:
    cluster.add_pod("exit 0", volumes=[{"name": "v", "secret": {}}],
                    containers=[{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}])  # fmt: skip

    pod = await cluster.until_phase("Failed")

    assert pod["status"]["reason"] == "InvalidPod"


async def test_a_deleted_pod_ends_with_its_grace_and_is_gone(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_pod(f"trap 'touch {tmp_path}/asked; exit' TERM; touch {tmp_path}/up; sleep 1000 & wait")
    await cluster.until_phase("Running")
    while not (tmp_path / "up").exists():
        await asyncio.sleep(0.01)

    await delete(cluster, "p")

    await cluster.until(lambda: cluster.pod() is None)
    assert (tmp_path / "asked").exists()
    await cluster.node.kubelet.until(lambda: not cluster.node.workers)


async def test_a_second_deletion_without_grace_ends_it_now(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_pod(f"trap '' TERM; touch {tmp_path}/up; while :; do sleep 0.1; done")
    while not (tmp_path / "up").exists():
        await asyncio.sleep(0.01)
    await delete(cluster, "p")

    await delete(cluster, "p", {"gracePeriodSeconds": 0})

    await cluster.node.kubelet.until(lambda: not cluster.node.workers)


async def test_status_and_pods_are_right_again_after_the_api_server_was_away(cluster: Cluster) -> None:
    cluster.add_pod("sleep 1000")
    await cluster.until_phase("Running")

    await cluster.api.stop()
    cluster.api.store.delete(Target(PODS, "default", "p"), datetime.now(UTC), grace_seconds=0)
    cluster.add_pod("exit 0", "later")
    await cluster.api.start()

    await cluster.until_phase("Succeeded", "later")
    await cluster.node.kubelet.until(lambda: len(cluster.node.workers) == 1)


async def test_a_cut_or_expired_watch_misses_nothing(cluster: Cluster) -> None:
    for number in range(4):
        cluster.api.end_watches(Action.CUT)
        cluster.api.store.compact()
        cluster.add_pod("exit 0", f"p{number}")

    for number in range(4):
        await cluster.until_phase("Succeeded", f"p{number}")


async def test_the_output_of_a_container_is_there_for_the_api_server(cluster: Cluster) -> None:
    cluster.add_pod("echo hello")
    await cluster.until_phase("Succeeded")

    async with ClientSession() as session:
        answer = await session.get(f"{cluster.api.url}/api/v1/namespaces/default/pods/p/log")
        assert await answer.text() == "hello\n"


async def test_a_container_that_crashes_is_started_again_and_counted(cluster: Cluster) -> None:
    cluster.add_pod("exit 1", restartPolicy="Always")

    await cluster.until(
        lambda: (cluster.pod() or {}).get("status", {}).get("containerStatuses", [{}])[0].get("restartCount", 0) >= 2
    )


async def test_the_command_serves_restarts_and_ends(api: FakeApiServer, directory: Path) -> None:
    command = [sys.executable, "-m", "nvshare.fake_kubelet", "--root", str(directory), "--node", "n1", "--api", api.url]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert "device-plugins" in (await process.stdout.readline()).decode()
        socket = directory / "device-plugins" / "kubelet.sock"
        first = identity(socket)

        process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(5):
            while not socket.exists() or identity(socket) == first:
                await asyncio.sleep(0.01)
        process.terminate()

        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()


def identity(path: Path) -> tuple[int, int]:
    """Tells a file from another one of the same name; a number of an inode may be used again at once."""
    status = path.stat()
    return status.st_ino, status.st_ctime_ns


async def delete(cluster: Cluster, name: str, options: Json | None = None) -> None:
    async with ApiClient(cluster.api.url) as client:
        await client.call("DELETE", f"/api/v1/namespaces/default/pods/{name}", options or {})
