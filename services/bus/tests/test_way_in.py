"""A service finds its node's bus by the node's folder, also when the bus is made anew."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from services.bus.tests.conftest import GPU

from nvshare.bus import subjects
from nvshare.bus.connection import Bus
from nvshare.bus.credentials import NodeKeys
from nvshare.bus.nats_server import NatsServer
from nvshare.bus.node_directory import NodeDirectory, write_atomically
from nvshare.bus.way_in import WayIn
from nvshare.v1.client_pb2 import Report

BACK_SECONDS = 2.0


class Links:
    """The links of one node, one life after the other: each has keys and a port of its own."""

    def __init__(self, directory: NodeDirectory, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.lives = 0
        self._stack = stack

    async def start(self) -> NatsServer:
        keys = NodeKeys.generate("node-1")
        self.lives += 1
        self.directory.credentials.mkdir(parents=True, exist_ok=True)
        write_atomically(self.directory.service_credentials("scheduler"), keys.signer.service_jwt("scheduler"))
        server = NatsServer(keys, self.directory.path / f"nats-{self.lives}")
        await server.start()
        self._stack.push_async_callback(server.stop)
        self.directory.write_description({"node": "node-1", "nats_url": server.url})
        return server


@pytest.fixture
async def links(tmp_path: Path) -> AsyncIterator[Links]:
    async with AsyncExitStack() as stack:
        yield Links(NodeDirectory(tmp_path / "node"), stack)


async def test_a_link_with_other_keys_elsewhere_is_found_within_2_s(links: Links) -> None:
    first = await links.start()
    back = asyncio.Event()
    bus = await Bus.connect_node(WayIn(links.directory, "scheduler"), on_reconnect=back.set)
    received: asyncio.Queue[int] = asyncio.Queue()
    await bus.subscribe(subjects.report_any(), Report, lambda subject, report: received.put_nowait(report.sequence))
    await first.kill()

    await links.start()
    started = time.monotonic()
    await asyncio.wait_for(back.wait(), 5)
    assert time.monotonic() - started <= BACK_SECONDS
    await bus.publish(subjects.report(GPU, "a", "1-a"), Report(sequence=7))
    assert await asyncio.wait_for(received.get(), 5) == 7
    await bus.close()


async def test_a_service_may_start_before_its_link(links: Links) -> None:
    connecting = asyncio.ensure_future(Bus.connect_node(WayIn(links.directory, "scheduler")))
    await asyncio.sleep(0)
    await links.start()
    bus = await asyncio.wait_for(connecting, 5)
    assert bus.connected
    await bus.close()


async def test_a_folder_that_goes_meanwhile_keeps_nobody_from_coming_back(links: Links) -> None:
    first = await links.start()
    back = asyncio.Event()
    bus = await Bus.connect_node(WayIn(links.directory, "scheduler"), on_reconnect=back.set)
    await first.kill()
    shutil.rmtree(links.directory.path)
    async with asyncio.timeout(5):
        while bus.connected:
            await asyncio.sleep(0.005)

    links.directory.path.mkdir()
    await links.start()
    await asyncio.wait_for(back.wait(), 5)
    await bus.close()
