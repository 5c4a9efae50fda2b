"""The plugin is known to kubelet soon, also when something happens while it registers."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

from nvshare.device_plugin.listing import ListedShare
from nvshare.device_plugin.registration import Registration
from nvshare.device_plugin.server import Devices, PluginServer
from nvshare.device_plugin.shares import RESOURCE, Share
from nvshare.kubelet.device_plugin_pb2 import ContainerAllocateResponse
from plugin_node import make_node


class NoShares:
    """Nobody asks for any."""

    def preferred(self, available: Sequence[str], must_include: Sequence[str], size: int) -> Sequence[str]:
        raise AssertionError

    def allocate(self, device_ids: Sequence[str]) -> ContainerAllocateResponse:
        raise AssertionError

    async def pre_start(self, device_ids: Sequence[str]) -> None:
        raise AssertionError


class Unlucky(PluginServer):
    """Its socket is deleted before kubelet is told of it."""

    async def start(self) -> None:
        await super().start()
        self.path.unlink()


async def test_c1_a_socket_that_goes_while_kubelet_dials_it_costs_no_ten_seconds(short_folder: Path) -> None:
    devices = Devices()
    await devices.tell((ListedShare(Share("GPU-0", 0), healthy=True),))
    kinds = iter([Unlucky, PluginServer])
    async with make_node(short_folder) as node:
        folder = node.kubelet.plugin_directory

        async def nothing() -> None:
            """Nobody waits for it."""

        registration = Registration(folder, RESOURCE, lambda: next(kinds)(folder, NoShares(), devices), nothing)
        keeping = asyncio.create_task(registration.keep())

        await node.kubelet.until_allocatable(RESOURCE, 1, timeout_seconds=5.0)

        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
