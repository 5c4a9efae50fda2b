"""A whole cluster of one node for tests, every service of ours a process: hub, quota-watcher, the node's NATS server,
relay, scheduler and device plugin on emulated GPUs. Stand-ins: the API server, and kubelet, which runs pods as
processes.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from nvshare.bus.credentials import NodeKeys
from nvshare.bus.hub_access import HubAccess
from nvshare.bus.hub_server import HubOptions, HubServer
from nvshare.bus.nats_server import NatsServer
from nvshare.bus.node_directory import NodeDirectory
from nvshare.emulator import library_directory
from nvshare.fake_api_server.server import FakeApiServer
from nvshare.fake_kubelet.agent import Agent
from nvshare.fake_kubelet.api_client import ApiClient
from nvshare.fake_kubelet.host_paths import HostPaths
from nvshare.fake_kubelet.kubelet import Kubelet
from nvshare.fake_kubelet.node import Node
from nvshare.fake_kubelet.nvshare_paths import VARIABLES, show_gpus
from nvshare.fake_kubelet.process_runner import ProcessRunner
from plugin_node import RESOURCE

MEMORY_WATCH = Path(__file__).parents[1] / "programs" / "memory_watch.py"
MEMORY = "nvshare.com/gpu-memory-limit"
NODE = "node-1"
_PASSWORD = "secret"
_SERVICES = ("scheduler", "device-plugin")


@dataclass
class WholeCluster:
    """The cluster. `services` are the processes of ours, by name."""

    folder: Path
    api: FakeApiServer
    hub: HubServer
    node: Node
    environment: dict[str, str]
    session: ClientSession
    services: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    async def start_service(self, name: str, **settings: str) -> None:
        """Starts `python -m nvshare.<name>`; its log goes into the folder."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.services[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                f"nvshare.{name.replace('-', '_')}",
                env={**self.environment, **settings},
                stderr=log,
            )

    async def stop_service(self, name: str) -> None:
        """As SIGTERM does."""
        process = self.services.pop(name)
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), 10)

    async def create_pod(
        self, name: str, annotations: Mapping[str, str] | None = None, once: bool = False, shares: int = 1
    ) -> str:
        """Makes a pod that says what memory it sees; its UID."""
        program = [str(MEMORY_WATCH), str(self._answers(name)), "once" if once else "on"]
        return await self.run_pod(name, program, annotations, shares)

    async def run_pod(
        self, name: str, program: Sequence[str], annotations: Mapping[str, str] | None = None, shares: int = 1
    ) -> str:
        """Makes a pod that runs a Python program with these arguments; its UID."""
        container = {
            "name": "app",
            "image": "none",
            "command": [sys.executable, *program],
            "resources": {"limits": {RESOURCE: str(shares)}},
        }
        body = {
            "metadata": {"name": name, "annotations": dict(annotations or {})},
            "spec": {"nodeName": NODE, "restartPolicy": "Never", "containers": [container]},
        }
        url = f"{self.api.url}/api/v1/namespaces/default/pods"
        async with self.session.post(url, json=body) as answer:
            made = await answer.json()
            assert answer.status == 201, made
        return str(made["metadata"]["uid"])

    async def annotate(self, name: str, annotations: Mapping[str, str | None]) -> None:
        """Changes annotations of a pod; None removes one."""
        url = f"{self.api.url}/api/v1/namespaces/default/pods/{name}"
        headers = {"Content-Type": "application/merge-patch+json"}
        body = json.dumps({"metadata": {"annotations": dict(annotations)}})
        async with self.session.patch(url, data=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()

    async def delete_pod(self, name: str) -> None:
        url = f"{self.api.url}/api/v1/namespaces/default/pods/{name}?gracePeriodSeconds=0"
        async with self.session.delete(url) as answer:
            assert answer.status == 200, await answer.text()

    async def phase(self, name: str) -> str:
        """Of a pod, as its status says."""
        async with self.session.get(f"{self.api.url}/api/v1/namespaces/default/pods/{name}") as answer:
            return str((await answer.json()).get("status", {}).get("phase", ""))

    def output(self, pod_uid: str) -> str:
        """What the pod's program has written."""
        return self.node.workers[pod_uid].log_path("app").read_text()

    async def look(self, program: str, *arguments: str) -> Any:
        """What a program answers, in JSON, that looks at the emulated cards from outside."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, *arguments, env=self.environment, stdout=asyncio.subprocess.PIPE
        )
        answer, _ = await process.communicate()
        return json.loads(answer)

    async def events(self, pod: str) -> list[dict[str, Any]]:
        """The events on a pod."""
        async with self.session.get(f"{self.api.url}/api/v1/namespaces/default/events") as answer:
            items = (await answer.json())["items"]
        return [item for item in items if item["involvedObject"]["name"] == pod]

    def answers(self, pod: str) -> list[dict[str, int]]:
        """What the pod's program was told of its memory, the first answer first."""
        try:
            lines = self._answers(pod).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    async def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Waits for what is true some time; says otherwise what the services logged."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s\n{self._logs()}"
            await asyncio.sleep(0.005)

    async def until_told(self, pod: str, total_bytes: int, seconds: float) -> None:
        """Waits until the pod's program was told last that it has so much memory."""

        def is_told() -> bool:
            answers = self.answers(pod)
            return bool(answers) and answers[-1]["total_bytes"] == total_bytes

        await self.until(is_told, seconds, f"{pod} with {total_bytes} bytes")

    def _answers(self, pod: str) -> Path:
        return self.folder / f"{pod}.answers"

    def _logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in self.folder.glob("*.log"))


@asynccontextmanager
async def whole_cluster(folder: Path, gpus: int = 2, **plugin_settings: str) -> AsyncIterator[WholeCluster]:
    """The cluster, when kubelet knows the shares of all GPUs and quota-watcher has listed the pods."""
    directory = NodeDirectory(folder / "node")
    keys = NodeKeys.generate(NODE)
    async with AsyncExitStack() as stack:
        api = FakeApiServer(bookmark_seconds=1.0)
        await api.start()
        stack.push_async_callback(api.stop)
        hub = HubServer(_hub_options(folder), folder / "hub")
        await hub.start()
        stack.push_async_callback(hub.stop)
        leaf = HubAccess(hub.leaf_url, user=f"leaf-{NODE}", secret=_PASSWORD)
        nats = NatsServer(keys, folder / "leaf", hub=leaf)
        await nats.start()
        stack.push_async_callback(nats.stop)
        directory.credentials.mkdir(parents=True)
        for service in _SERVICES:
            directory.service_credentials(service).write_text(keys.signer.service_jwt(service))
        directory.write_description({"node": NODE, "nats_url": nats.url})
        environment = {
            **{name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
            "LD_LIBRARY_PATH": str(library_directory()),
            "NVSHARE_EMULATOR_DIR": str(folder / "cards"),
            "NVSHARE_EMULATOR_LIBRARIES": str(library_directory()),
            "NVSHARE_EMULATOR_DEVICES": str(gpus),
            "NVSHARE_NODE_DIR": str(directory.path),
            "NVSHARE_NODE": NODE,
            "NVSHARE_NATS_URL": nats.url,
            "NVSHARE_DEVICE_LIST": "emulated",
            "NVSHARE_KUBELET_DIR": str(folder / "kubelet" / "device-plugins"),
            "NVSHARE_POD_RESOURCES_SOCKET": str(folder / "kubelet" / "pod-resources" / "kubelet.sock"),
            "NVSHARE_HUB_URL": hub.url.replace("nats://", f"nats://watcher:{_PASSWORD}@"),
            "NVSHARE_API_SERVER": api.url,
            "NVSHARE_PARENT_DEATH": "1",
            **plugin_settings,
        }
        session = await stack.enter_async_context(ClientSession())
        kubelet = Kubelet(folder / "kubelet")
        paths = HostPaths({"PATH": os.environ["PATH"]}, lambda path: Path(path).read_text(), VARIABLES, show_gpus)
        node = Node(kubelet, ProcessRunner(paths))
        cluster = WholeCluster(folder, api, hub, node, environment, session)

        async def end_services() -> None:
            for name in list(cluster.services):
                await cluster.stop_service(name)

        stack.push_async_callback(end_services)
        await _start_relay(cluster, keys)
        await cluster.start_service("scheduler")
        await cluster.start_service("quota-watcher")
        await stack.enter_async_context(node)
        await cluster.start_service("device-plugin")
        client = await stack.enter_async_context(ApiClient(api.url))
        agent = asyncio.create_task(Agent(node, NODE, client).run())
        stack.push_async_callback(_cancel, agent)
        await kubelet.until_allocatable(RESOURCE, 10 * gpus, 20)
        await cluster.until(lambda: api.watches >= 2, 20, "a watch of quota-watcher and of the node")
        yield cluster


def _hub_options(folder: Path) -> HubOptions:
    return HubOptions(
        store=folder / "store",
        port=-1,
        leaf_port=-1,
        nodes={NODE: _PASSWORD},
        watcher_password=_PASSWORD,
        tool_password=_PASSWORD,
    )


async def _start_relay(cluster: WholeCluster, keys: NodeKeys) -> None:
    reading, writing = os.pipe()
    os.write(writing, keys.signer.to_bytes())
    os.close(writing)
    with (cluster.folder / "relay.log").open("ab") as log:
        cluster.services["relay"] = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "nvshare.relay",
            env={**cluster.environment, "NVSHARE_SIGNING_SEEDS_FD": str(reading)},
            pass_fds=[reading],
            stderr=log,
        )
    os.close(reading)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
