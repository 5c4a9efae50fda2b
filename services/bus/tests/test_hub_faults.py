"""The hub is cut off in each way (design, section 10): the node goes on with what it had, and what changed meanwhile is
in force within 2 s after the hub answers again.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from services.bus.tests.conftest import GPU, hub_access
from services.bus.tests.test_hub import Mirrored, becomes, mirrored

from nvshare.bus import subjects
from nvshare.bus.connection import Bus
from nvshare.bus.credentials import NodeKeys
from nvshare.bus.hub import Hub
from nvshare.bus.hub_server import QUOTAS, HubServer
from nvshare.bus.leaf_watch import watch_leaf
from nvshare.bus.nats_server import NatsServer
from nvshare.v1.client_pb2 import Report
from nvshare.v1.kubernetes_pb2 import PodQuota

pytestmark = [
    pytest.mark.heavy,
    # nats-py leaves what it tried to connect with to the collector when the server says nothing.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

BACK_SECONDS = 2.0
SILENT_SECONDS = 3.0  # until a connection that died without a word is given up


class Proxy:
    """A TCP proxy before the hub's leaf port that can swallow what passes, in both directions, without a word.
    Connections of that time stay dead; new ones pass once it is over.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._swallowing = False
        self._dead: set[asyncio.Task[None]] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def swallow(self) -> None:
        self._swallowing = True

    def pass_on(self) -> None:
        self._swallowing = False
        self._dead |= self._pumps

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        for source, target in ((reader, back), (there, writer)):
            pump = asyncio.create_task(self._pump(source, target))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                if not self._swallowing and this not in self._dead:
                    target.write(data)
                    await target.drain()
        target.close()


@pytest.fixture
async def proxy(hub_server: HubServer) -> AsyncIterator[Proxy]:
    proxy = Proxy(hub_server.leaf_port)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def bus(keys: NodeKeys, proxy: Proxy, tmp_path: Path) -> AsyncIterator[Bus]:
    """A service of a node that reaches its hub through the proxy."""
    server = NatsServer(keys, tmp_path / "leaf", hub=hub_access(f"nats-leaf://127.0.0.1:{proxy.port}", "leaf-node-1"))
    await server.start()
    watching = asyncio.create_task(watch_leaf(server.url, keys))
    bus = await Bus.connect(url=server.url, jwt=keys.signer.service_jwt("device-plugin"), name="device-plugin")
    yield bus
    await bus.close()
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    await server.stop()


async def goes_on(bus: Bus, seen: Mirrored) -> None:
    """The node's own messages pass while the hub is away, and the quotas are those of before."""
    passed = asyncio.Event()
    await bus.subscribe(subjects.report(GPU, "a", "1-a"), Report, lambda subject, report: passed.set())
    await bus.publish(subjects.report(GPU, "a", "1-a"), Report())
    await asyncio.wait_for(passed.wait(), 1)
    assert seen.names == {"u-1": "before"}


@pytest.mark.parametrize(
    ("fault", "away_seconds"),
    [
        ("killed", 0),
        ("killed", 4),
        ("stopped", 4),
        ("stopped", 10),
        ("swallowed", 0),
        ("swallowed", 4),
        ("swallowed", 10),
    ],
)
async def test_a_new_quota_is_in_force_within_2_s_after_the_hub_answers_again(
    fault: str, away_seconds: int, bus: Bus, hub_server: HubServer, proxy: Proxy
) -> None:
    watcher_bus = await Bus.connect_hub(hub_access(hub_server.url, "watcher"), name="watcher")
    async with Hub(watcher_bus) as watcher, Hub(bus) as node:
        quotas = watcher.bucket(QUOTAS, PodQuota)
        assert await quotas.put("u-1", PodQuota(name="before"))
        async with mirrored(node.bucket(QUOTAS, PodQuota)) as seen:
            await seen.until({"u-1": "before"})
            match fault:
                case "killed":
                    await hub_server.kill()
                case "stopped":
                    os.kill(hub_server.pid or 0, signal.SIGSTOP)
                case _:
                    proxy.swallow()
            if away_seconds:
                await becomes(node, reachable=False)
            await goes_on(bus, seen)
            await asyncio.sleep(away_seconds)
            match fault:
                case "killed":
                    await hub_server.start()
                case "stopped":
                    os.kill(hub_server.pid or 0, signal.SIGCONT)
                case _:
                    proxy.pass_on()
            answers = time.monotonic()
            while not await quotas.put("u-1", PodQuota(name="after")):
                answers = time.monotonic()
                await asyncio.sleep(0.01)
            await seen.until({"u-1": "after"}, seconds=30)
            seconds = time.monotonic() - answers
    await watcher_bus.close()
    unnoticed_seconds = SILENT_SECONDS - away_seconds if fault == "swallowed" else 0
    assert seconds <= max(unnoticed_seconds, 0) + BACK_SECONDS
