"""`nvshare bench --kubernetes` on a cluster of one node with two emulated cards: everything is real but the cards,
kubelet and the API server, which are the stand-ins.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.node_launch import launch_node
from nvshare.cli.node_options import NodeOptions
from nvshare.emulator import library_directory
from nvshare.fake_api_server.resources import parse_path
from nvshare.fake_api_server.server import FakeApiServer
from nvshare.fake_kubelet.agent import Agent
from nvshare.fake_kubelet.api_client import ApiClient
from nvshare.fake_kubelet.host_paths import HostPaths
from nvshare.fake_kubelet.kubelet import Kubelet
from nvshare.fake_kubelet.node import Node
from nvshare.fake_kubelet.nvshare_paths import VARIABLES, show_gpus
from nvshare.fake_kubelet.process_runner import ProcessRunner

RESOURCE = "nvshare.com/gpu"
PODS_PATH = "/api/v1/namespaces/default/pods"

pytestmark = pytest.mark.heavy


def heed_ctrl_c() -> None:
    """What a shell starts in the background ignores it, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class Cluster:
    """The API server, and what is asked of it."""

    api: FakeApiServer

    def pods(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.api.store.page(parse_path(PODS_PATH), labels="", fields="")["items"]
        return items

    async def bench(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "nvshare.cli",
            "bench",
            *arguments,
            "--kubernetes",
            "--emulate",
            "--api-server",
            self.api.url,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=heed_ctrl_c,
        )

    async def until(self, phase: str, count: int) -> None:
        """Waits until so many pods are in that phase."""
        async with asyncio.timeout(30):
            while [pod["status"].get("phase") for pod in self.pods()].count(phase) < count:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def device_plugin(folder: Path, kubelet: Kubelet) -> AsyncIterator[None]:
    """The plugin, for the cards of the node in `folder`."""
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(library_directory()),
        "NVSHARE_DEVICE_LIST": "emulated",
        "NVSHARE_EMULATOR_DIR": str(NodeDirectory(folder).read_description()["emulator_dir"]),
        "NVSHARE_EMULATOR_LIBRARIES": str(library_directory()),
        "NVSHARE_NODE_DIR": str(folder),
        "NVSHARE_KUBELET_DIR": str(kubelet.plugin_directory),
        "NVSHARE_POD_RESOURCES_SOCKET": str(kubelet.pod_resources_socket),
        "NVSHARE_QUOTA_WAIT_SECONDS": "0",
        "NVSHARE_PARENT_DEATH": "1",
        "NVSHARE_LOG": "warn",
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "nvshare.device_plugin", env=environment)
    try:
        await kubelet.until_allocatable(RESOURCE, 20, 20)
        yield
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 10)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="nvs-") as path:
        folder = Path(path)
        launched = await asyncio.to_thread(launch_node, NodeOptions(folder / "node", emulated_gpus=2), detach=False)
        api = FakeApiServer(bind_pods=True)
        await api.start()
        base = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        runner = ProcessRunner(HostPaths(base, lambda path: Path(path).read_text(), VARIABLES, show_gpus))
        kubelet = Kubelet(folder / "kubelet")
        try:
            async with Node(kubelet, runner) as node, ApiClient(api.url) as client:
                agent = asyncio.create_task(Agent(node, "node-1", client).run())
                async with device_plugin(folder / "node", kubelet):
                    yield Cluster(api)
                agent.cancel()
                await asyncio.wait({agent})
        finally:
            await api.stop()
            await asyncio.to_thread(launched.stop)


async def test_c7_pods_share_both_cards_and_the_table_says_what_each_had(cluster: Cluster, tmp_path: Path) -> None:
    document = tmp_path / "result.json"
    bench = await cluster.bench("small", "--pods", "4", "--seconds", "2", "--json", str(document))
    output, errors = await asyncio.wait_for(bench.communicate(), 60)
    assert bench.returncode == 0, errors.decode()
    table = output.decode()
    rows = json.loads(document.read_text())["rows"]
    assert [row["name"] for row in rows] == ["small-1", "small-2", "small-3", "small-4"]
    assert {row["status"] for row in rows} == {"ok"}
    places = [row["gpu"] for row in rows]
    assert all(place.endswith(" on node-1") and place in table for place in places)
    assert sorted(places.count(place) for place in set(places)) == [2, 2]
    assert all(word in table for word in ("min", "max", "avg"))
    assert cluster.pods() == []


async def test_c7_the_baseline_is_another_table(cluster: Cluster, tmp_path: Path) -> None:
    document = tmp_path / "result.json"
    arguments = ("--pods", "2", "--seconds", "1", "--baseline", RESOURCE, "--json", str(document))
    bench = await cluster.bench("small", *arguments)
    _, errors = await asyncio.wait_for(bench.communicate(), 60)
    assert bench.returncode == 0, errors.decode()
    shares, baseline = json.loads(document.read_text())
    assert len(shares["rows"]) == len(baseline["rows"]) == 2
    assert baseline["summary"]["total_of_shares_over_this"] > 0


async def test_c7_ctrl_c_leaves_no_pod(cluster: Cluster) -> None:
    bench = await cluster.bench("small", "--pods", "2", "--seconds", "60")
    await cluster.until("Running", 2)
    bench.send_signal(signal.SIGINT)
    await asyncio.wait_for(bench.communicate(), 30)
    assert bench.returncode == 130
    async with asyncio.timeout(20):
        while cluster.pods():
            await asyncio.sleep(0.05)
