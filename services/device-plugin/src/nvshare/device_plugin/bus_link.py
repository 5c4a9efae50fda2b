"""The plugin on the node's bus, and through it on the cluster's hub: both may be away for as long as they like.

From the node's bus it hears the relay. From the hub it follows the pods' quotas; there it publishes what it has joined,
and says on pods what became of their quotas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from nvshare.bus import subjects
from nvshare.bus.bucket import Bucket
from nvshare.bus.connection import Bus
from nvshare.bus.hub import Hub
from nvshare.bus.hub_server import ALLOCATIONS, QUOTAS
from nvshare.bus.node_directory import NodeDirectory
from nvshare.bus.way_in import WayIn
from nvshare.device_plugin.notices import Notices
from nvshare.device_plugin.records import Record
from nvshare.device_plugin.relay_view import RelayView
from nvshare.device_plugin.settings import Settings
from nvshare.v1.kubernetes_pb2 import PodNotice, PodQuota
from nvshare.v1.node_pb2 import Allocation, RelayState

SERVICE = "device-plugin"


_AGAIN_SECONDS = 1.0

_log = structlog.get_logger()


class BusLink:
    """`on_quotas` is called when `quotas` (by the pods' UIDs) or `reachable` have changed."""

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
        self._allocations: dict[str, Allocation] = {}
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Joins the bus as soon as there is one, and stays until it is cancelled."""
        way = WayIn(self._directory, SERVICE, self._settings.node or None, self._settings.nats_url or None)
        bus = await Bus.connect_node(way)
        try:
            await bus.subscribe(subjects.relay(bus.node), RelayState, self._relay.hear)
            async with Hub(bus, on_reachable=self._reached) as hub, asyncio.TaskGroup() as tasks:
                _log.info("joined the bus", node=bus.node)
                subject = subjects.notice(bus.node)

                async def say(notice: PodNotice) -> bool:
                    return await hub.publish_kept(subject, notice)

                tasks.create_task(hub.bucket(QUOTAS, PodQuota).mirror(self._told))
                tasks.create_task(self._notices.deliver(say))
                tasks.create_task(self._keep_published(hub.bucket(ALLOCATIONS, Allocation), bus.node))
        finally:
            await bus.close()

    def publish(self, records: Mapping[str, Record]) -> None:
        """These are the allocations now; those that are joined are told."""
        joined = {one.id: one.to_message() for one in records.values() if one.pod is not None}
        if joined != self._allocations:
            self._allocations = joined
            self._news.set()

    async def _reached(self, reachable: bool) -> None:
        self.reachable = reachable
        if reachable:
            self._news.set()
        await self._on_quotas()

    async def _told(self, quotas: Mapping[str, PodQuota], changed: frozenset[str]) -> None:
        self.quotas = dict(quotas)
        await self._on_quotas()

    async def _keep_published(self, bucket: Bucket[Allocation], node: str) -> None:
        """Brings what the bucket has of this node in line with the allocations, after each change and when the hub is
        back.
        """
        known: dict[str, Allocation] | None = None
        while True:
            self._news.clear()
            if self.reachable:
                if known is None:
                    known = await self._published(bucket, node)
                if known is not None and not await self._bring_in_line(bucket, node, known):
                    known = None
            else:
                known = None  # it may be another hub when it is back
            try:
                async with asyncio.timeout(_AGAIN_SECONDS if self.reachable and known is None else None):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _published(self, bucket: Bucket[Allocation], node: str) -> dict[str, Allocation] | None:
        everything = await bucket.read_all()
        if everything is None:
            return None
        prefix = f"{node}."
        return {key.removeprefix(prefix): one for key, one in everything.items() if key.startswith(prefix)}

    async def _bring_in_line(self, bucket: Bucket[Allocation], node: str, known: dict[str, Allocation]) -> bool:
        wanted = dict(self._allocations)
        for name, one in wanted.items():
            if known.get(name) != one:
                if not await bucket.put(f"{node}.{name}", one):
                    return False
                known[name] = one
        for name in known.keys() - wanted.keys():
            if not await bucket.delete(f"{node}.{name}"):
                return False
            del known[name]
        return True
