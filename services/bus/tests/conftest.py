"""A real nats-server with a node's keys, and a bare connection to it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from nvshare.bus.credentials import NodeKeys, ServiceCredential
from nvshare.bus.frames import Connect, Err, Frame, FrameParser, Ping, Pong, Source, encode
from nvshare.bus.hub_access import HubAccess
from nvshare.bus.hub_server import HubOptions, HubServer
from nvshare.bus.nats_server import MAX_PAYLOAD_BYTES, NatsServer

GPU = "GPU-00000000-0000-0000-0000-000000000001"
PASSWORD = "p:/w@#"


@dataclass
class BareClient:
    """A NATS connection with a token and no manners: it sends what the test says."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    parser: FrameParser
    closed_by_server: bool = False

    @classmethod
    async def connect(cls, url: str, jwt: str) -> "BareClient":
        """Connects; whether the server lets the token in, `flush` shows."""
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        client = cls(reader, writer, FrameParser(Source.SERVER, MAX_PAYLOAD_BYTES))
        options = {"verbose": False, "headers": True, "no_responders": True}
        if jwt.count(".") == 3:  # a service's
            credential = ServiceCredential.from_text(jwt)
            nonce = json.loads((await reader.readline()).removeprefix(b"INFO "))["nonce"]
            client.send(Connect({**options, "jwt": credential.jwt, "sig": credential.signature(nonce).decode()}))
        else:
            client.send(Connect({**options, "jwt": jwt}))
        return client

    def send(self, frame: Frame) -> None:
        self.writer.write(encode(frame))

    async def flush(self) -> list[Frame]:
        """What the server sent until it answered a PING, or closed the connection."""
        frames: list[Frame] = []
        try:
            self.send(Ping())
            async with asyncio.timeout(5):
                while Pong() not in frames and not self.closed_by_server:
                    data = await self.reader.read(65536)
                    frames += self.parser.feed(data)
                    self.closed_by_server = not data
        except ConnectionError:
            self.closed_by_server = True
        return [frame for frame in frames if not isinstance(frame, Pong)]

    async def errors(self) -> list[str]:
        """The texts of the errors that the server sent until it answered a PING."""
        return [frame.text for frame in await self.flush() if isinstance(frame, Err)]

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


ConnectBare = Callable[[str], Awaitable[BareClient]]
"""Connects with a token; the connection is closed after the test."""


@pytest.fixture
def keys() -> NodeKeys:
    """The keys of a node."""
    return NodeKeys.generate("node-1")


@pytest.fixture
async def nats(keys: NodeKeys, tmp_path: Path) -> AsyncIterator[NatsServer]:
    """The node's server."""
    server = NatsServer(keys, tmp_path / "nats")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def connect(nats: NatsServer) -> AsyncIterator[ConnectBare]:
    """Bare connections to the node's server."""
    clients: list[BareClient] = []

    async def open_one(jwt: str) -> BareClient:
        clients.append(await BareClient.connect(nats.url, jwt))
        return clients[-1]

    yield open_one
    for client in clients:
        await client.close()


@pytest.fixture
async def hub_server(tmp_path: Path) -> AsyncIterator[HubServer]:
    """A hub that runs."""
    server = HubServer(hub_options(tmp_path / "store"), tmp_path / "hub")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def leaf(keys: NodeKeys, hub_server: HubServer, tmp_path: Path) -> AsyncIterator[NatsServer]:
    """The server of `node-1`, a leaf of the hub's."""
    server = NatsServer(keys, tmp_path / "leaf", hub=hub_access(hub_server.leaf_url, "leaf-node-1"))
    await server.start()
    yield server
    await server.stop()


def hub_options(store: Path) -> HubOptions:
    """A hub for `node-1` and `node-2`; everybody's password is PASSWORD."""
    nodes = {"node-1": PASSWORD, "node-2": PASSWORD}
    return HubOptions(
        store=store, port=-1, leaf_port=-1, nodes=nodes, watcher_password=PASSWORD, tool_password=PASSWORD
    )


def hub_access(url: str, user: str) -> HubAccess:
    return HubAccess(url, user=user, secret=PASSWORD)
