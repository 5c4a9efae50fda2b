"""A node for the relay's tests: a real nats-server, the relay, and somebody who listens to what the relay publishes."""

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from nvshare.bus import subjects
from nvshare.bus.connection import Bus
from nvshare.bus.credentials import NodeKeys
from nvshare.bus.nats_server import NatsServer
from nvshare.bus.node_client import AllocationClient
from nvshare.bus.node_directory import NodeDirectory
from nvshare.relay.allocations import Allocation
from nvshare.relay.guests import Admins
from nvshare.relay.service import Relay
from nvshare.relay.session import ServerAddress
from nvshare.v1.node_pb2 import RelayState

GPU = "GPU-00000000-0000-0000-0000-000000000001"
PEER_PROGRAM = Path(__file__).with_name("peer_program.py")


@dataclass
class States:
    """The RelayStates that arrive."""

    latest: RelayState | None = None
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def receive(self, subject: str, state: RelayState) -> None:
        async with self._news:
            self.latest = state
            self._news.notify_all()

    async def until(self, true: Callable[[RelayState], bool], timeout_seconds: float = 5.0) -> RelayState:
        """The first state from now on, or the present one, that is `true`."""
        async with asyncio.timeout(timeout_seconds), self._news:
            await self._news.wait_for(lambda: self.latest is not None and true(self.latest))
        assert self.latest is not None
        return self.latest


@dataclass
class PeerProcess:
    """A running peer_program.py."""

    process: asyncio.subprocess.Process
    client: str

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), 5)).decode().strip()

    def write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@dataclass
class Node:
    """A node with its relay: in a process of its own once `start_relay` was called, else in this one."""

    keys: NodeKeys
    directory: NodeDirectory
    nats: NatsServer
    bus: Bus
    states: States
    peers: list[PeerProcess] = field(default_factory=list)
    clients: list[AllocationClient] = field(default_factory=list)
    relay: asyncio.subprocess.Process | None = None

    async def start_relay(self) -> None:
        reading, writing = os.pipe()
        os.write(writing, self.keys.signer.to_bytes())
        os.close(writing)
        environment = {
            **os.environ,
            "NVSHARE_NODE_DIR": str(self.directory.path),
            "NVSHARE_NODE": self.keys.node,
            "NVSHARE_NATS_URL": self.nats.url,
            "NVSHARE_SIGNING_SEEDS_FD": str(reading),
            "NVSHARE_PARENT_DEATH": "1",
            "NVSHARE_LOG": "warn",
        }
        self.states.latest = None
        self.relay = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "nvshare.relay", env=environment, pass_fds=[reading]
        )
        os.close(reading)
        await self.states.until(lambda state: True, 20)

    async def kill_relay(self) -> None:
        assert self.relay is not None
        self.relay.kill()
        await self.relay.wait()

    async def stop_relay(self) -> None:
        if self.relay is not None and self.relay.returncode is None:
            self.relay.terminate()
            await asyncio.wait_for(self.relay.wait(), 10)

    async def allocation(self, name: str = "a", uid: int = -1, source: str = "device-plugin") -> Path:
        """Makes an allocation's folder as the device plugin does; its socket, when the relay listens there."""
        folder = self.directory.allocation(name)
        folder.mkdir(parents=True)
        text = Allocation(name, (GPU,), name, uid, 0, 0, source).to_json()
        self.directory.allocation_description(name).write_text(text)
        await self.states.until(lambda state: any(one.id == name for one in state.allocations))
        return self.directory.allocation_socket(name)

    async def peer(self, path: Path, *mode: str) -> PeerProcess:
        """Starts a process that joins at `path`; back when the relay says that it did."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-IS",
            PEER_PROGRAM,
            path,
            secrets.token_hex(8),
            *mode,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        peer = PeerProcess(process, "")
        self.peers.append(peer)
        peer.client = await peer.line()
        await self.states.until(lambda state: any(one.client == peer.client for one in state.peers))
        return peer

    async def client(self, path: Path, nonce: str | None = None) -> AllocationClient:
        """Joins at `path` from this process."""
        client = await AllocationClient.open(path, nonce)
        self.clients.append(client)
        return client


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a short path: that of a unix socket has at most 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="nvs-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def bare_node(short_folder: Path) -> AsyncIterator[Node]:
    """A node whose relay does not run yet."""
    keys = NodeKeys.generate("node-1")
    nats = NatsServer(keys, short_folder / "nats")
    await nats.start()
    bus = await Bus.connect(url=nats.url, jwt=keys.signer.service_jwt("test"), name="test")
    node = Node(keys, NodeDirectory(short_folder), nats, bus, States())
    await bus.subscribe(subjects.relay("node-1"), RelayState, node.states.receive)
    await bus.flush()
    yield node
    for peer in node.peers:
        await peer.kill()
    for client in node.clients:
        await client.close()
    await node.stop_relay()
    await bus.close()
    await nats.stop()


@pytest.fixture
async def relay_process(bare_node: Node) -> Node:
    """A node whose relay runs in a process of its own: `python -m nvshare.relay`."""
    await bare_node.start_relay()
    return bare_node


@pytest.fixture
async def node(bare_node: Node) -> AsyncIterator[Node]:
    """A node whose relay runs in this process, which is quicker to start."""
    address = urlsplit(bare_node.nats.url)
    server = ServerAddress(str(address.hostname), int(address.port or 0))
    admins = Admins(node_uid=os.geteuid(), group=None)
    stop = asyncio.Event()
    relay = Relay(bare_node.directory, server, bare_node.keys.signer, admins, scan_seconds=0.02)
    running = asyncio.ensure_future(relay.run(stop))
    await bare_node.states.until(lambda state: True)
    yield bare_node
    stop.set()
    await running
