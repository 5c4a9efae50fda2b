"""The bus of a small cluster for tests: the hub, a node's server as its leaf, the node's relay, and quota-watcher's
part at the hub.
"""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from nvshare.bus.bucket import Bucket
from nvshare.bus.connection import Bus
from nvshare.bus.credentials import NodeKeys
from nvshare.bus.hub import NOTICES, Hub
from nvshare.bus.hub_access import HubAccess
from nvshare.bus.hub_server import ALLOCATIONS, QUOTAS, HubOptions, HubServer
from nvshare.bus.nats_server import NatsServer
from nvshare.bus.node_directory import NodeDirectory
from nvshare.relay.guests import Admins
from nvshare.relay.service import Relay
from nvshare.relay.session import ServerAddress
from nvshare.v1.kubernetes_pb2 import ContainerQuota, PodNotice, PodQuota
from nvshare.v1.node_pb2 import Allocation
from plugin_node import until

_PASSWORD = "secret"
_PEER_PROGRAM = Path(__file__).parents[2] / "services" / "relay" / "tests" / "peer_program.py"


@dataclass
class Watcher:
    """What quota-watcher does at the hub, as a test says."""

    hub: Hub
    quotas: Bucket[PodQuota]
    notices: list[PodNotice] = field(default_factory=list)

    async def say(self, name: str, uid: str, *containers: ContainerQuota, opted_out: bool = False) -> None:
        """The quotas of a pod, as its annotations have them now."""
        quota = PodQuota(namespace="default", name=name, uid=uid, containers=containers, opted_out=opted_out)
        assert await self.quotas.put(uid, quota)

    def reasons(self, pod: str) -> list[str]:
        """Of the notices on a pod, in the order in which they came."""
        return [notice.reason for notice in self.notices if notice.pod.name == pod]


@dataclass
class ClusterBus:
    """The bus of one node; `start_link` again makes new keys."""

    folder: Path
    node_directory: NodeDirectory
    hub_server: HubServer
    name: str = "node-1"
    watcher: Watcher | None = None
    nats: NatsServer | None = None
    keys: NodeKeys | None = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _relay: asyncio.Task[None] | None = None
    _stop_relay: asyncio.Event = field(default_factory=asyncio.Event)

    async def start_link(self) -> None:
        """The node's server and relay, and the plugin's way in."""
        self.keys = NodeKeys.generate(self.name)
        access = HubAccess(self.hub_server.leaf_url, user=f"leaf-{self.name}", secret=_PASSWORD)
        self.nats = NatsServer(self.keys, self.folder / "leaf", hub=access)
        await self.nats.start()
        directory = self.node_directory
        directory.credentials.mkdir(parents=True, exist_ok=True)
        directory.service_credentials("device-plugin").write_text(self.keys.signer.service_jwt("device-plugin"))
        directory.write_description({"node": self.name, "nats_url": self.nats.url})
        address = urlsplit(self.nats.url)
        server = ServerAddress(str(address.hostname), int(address.port or 0))
        self._stop_relay = asyncio.Event()
        relay = Relay(directory, server, self.keys.signer, Admins(os.geteuid(), None), scan_seconds=0.02)
        self._relay = asyncio.ensure_future(relay.run(self._stop_relay))

    async def stop_link(self) -> None:
        if self._relay is not None:
            self._stop_relay.set()
            await self._relay
            self._relay = None
        if self.nats is not None:
            await self.nats.stop()
            self.nats = None

    async def start_watcher(self) -> Watcher:
        access = HubAccess(self.hub_server.url, user="watcher", secret=_PASSWORD)
        bus = await Bus.connect_hub(access, name="watcher")
        self._stack.push_async_callback(bus.close)
        hub = await self._stack.enter_async_context(Hub(bus))
        watcher = Watcher(hub, hub.bucket(QUOTAS, PodQuota))

        async def receive(subject: str, notice: PodNotice) -> None:
            watcher.notices.append(notice)

        reading = asyncio.ensure_future(hub.consume_kept(NOTICES, "quota-watcher", PodNotice, receive))
        self._stack.callback(reading.cancel)
        self.watcher = watcher
        await until(lambda: hub.reachable)
        return watcher

    async def allocations(self) -> dict[str, Allocation]:
        """What is published at the hub, as another service of the node sees it."""
        assert self.nats is not None
        assert self.keys is not None
        bus = await Bus.connect(url=self.nats.url, jwt=self.keys.signer.service_jwt("test"), name="test")
        try:
            async with Hub(bus) as hub:
                return await hub.bucket(ALLOCATIONS, Allocation).read_all() or {}
        finally:
            await bus.close()

    async def join(self, allocation: str) -> asyncio.subprocess.Process:
        """A process that lives in an allocation until it is killed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-IS",
            _PEER_PROGRAM,
            self.node_directory.allocation_socket(allocation),
            secrets.token_hex(8),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._stack.push_async_callback(_kill, process)
        assert process.stdout is not None
        await asyncio.wait_for(process.stdout.readline(), 10)
        return process

    async def close(self) -> None:
        await self._stack.aclose()
        await self.stop_link()


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


@asynccontextmanager
async def make_cluster_bus(folder: Path, node_folder: Path) -> AsyncIterator[ClusterBus]:
    """A hub, a node's link, and who plays quota-watcher."""
    options = HubOptions(
        store=folder / "store",
        port=-1,
        leaf_port=-1,
        nodes={"node-1": _PASSWORD},
        watcher_password=_PASSWORD,
        tool_password=_PASSWORD,
    )
    server = HubServer(options, folder / "hub")
    await server.start()
    cluster = ClusterBus(folder, NodeDirectory(node_folder), server)
    try:
        await cluster.start_link()
        await cluster.start_watcher()
        yield cluster
    finally:
        await cluster.close()
        await server.stop()
