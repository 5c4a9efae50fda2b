"""The plugin on the node's bus, and through it on the cluster's hub: both may be away for as long as they like.

From the node's bus it hears the relay. From the hub it follows the pods' quotas; there it publishes what it has joined,
and says on pods what became of their quotas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from nvshare.bus import subjects
from nvshare.bus.connection import Bus
from nvshare.bus.node_directory import NodeDirectory
from nvshare.device_plugin.notices import Notices
from nvshare.device_plugin.records import Record
from nvshare.device_plugin.relay_view import RelayView
from nvshare.device_plugin.settings import Settings
from nvshare.v1.kubernetes_pb2 import PodQuota
from nvshare.v1.node_pb2 import RelayState

SERVICE = "device-plugin"
_LOOK_SECONDS = 0.5

_log = structlog.get_logger()


class BusLink:
    """`on_quotas` is called when `quotas` or `reachable` have changed."""

    def __init__(
        self,
        settings: Settings,
        directory: NodeDirectory,
        relay: RelayView,
        notices: Notices,
        on_quotas: Callable[[], Awaitable[None]],
    ) -> None:
        self.quotas: Mapping[str, PodQuota] = {}
        self.reachable = False
        self._settings = settings
        self._directory = directory
        self._relay = relay
        self._notices = notices
        self._on_quotas = on_quotas

    async def run(self) -> None:
        """Joins the bus as soon as there is one, and stays until it is cancelled."""
        node, url, jwt = await self._way_in()
        bus = await Bus.connect(url=url, jwt=jwt, name=SERVICE)
        try:
            await bus.subscribe(subjects.relay(node), RelayState, self._relay.hear)
            _log.info("joined the bus", node=node)
            await asyncio.Event().wait()
        finally:
            await bus.close()

    def publish(self, records: Mapping[str, Record]) -> None:
        """These are the allocations now."""

    async def _way_in(self) -> tuple[str, str, str]:
        """The node's name on the bus, where that is, and the plugin's credential: once they are there."""
        said = False
        while True:
            try:
                node, url = self._settings.node, self._settings.nats_url
                if not node or not url:
                    description = self._directory.read_description()
                    node, url = node or str(description["node"]), url or str(description["nats_url"])
                return node, url, self._directory.service_credentials(SERVICE).read_text().strip()
            except (OSError, ValueError, KeyError) as error:
                if not said:
                    said = True
                    _log.warning("the node has no bus yet; serving without", reason=repr(error))
                await asyncio.sleep(_LOOK_SECONDS)
