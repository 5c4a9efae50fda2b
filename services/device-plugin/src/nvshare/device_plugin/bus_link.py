"""The plugin on the node's bus, and through it on the cluster's hub: both may be away for as long as they like.

From the node's bus it hears the relay. From the hub it follows the pods' quotas; there it publishes what it has joined,
and says on pods what became of their quotas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from nvshare.bus import subjects
from nvshare.bus.bucket import Bucket
from nvshare.bus.connection import Bus
from nvshare.bus.credentials import CredentialError
from nvshare.bus.hub import Hub
from nvshare.bus.hub_server import ALLOCATIONS, QUOTAS
from nvshare.bus.node_directory import NodeDirectory
from nvshare.device_plugin.notices import Notices
from nvshare.device_plugin.records import Record
from nvshare.device_plugin.relay_view import RelayView
from nvshare.device_plugin.settings import Settings
from nvshare.v1.kubernetes_pb2 import PodNotice, PodQuota
from nvshare.v1.node_pb2 import Allocation, RelayState

SERVICE = "device-plugin"


_LOOK_SECONDS = 0.5
_AGAIN_SECONDS = 1.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _WayIn:
    node: str
    url: str
    jwt: str


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
        """Joins the bus as soon as there is one, and again when it is another one, until it is cancelled."""
        said = False
        while True:
            way_in = self._way_in()
            if way_in is None:
                if not said:
                    said = True
                    _log.warning("the node has no bus yet; serving without")
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            staying = asyncio.create_task(self._stay(way_in))
            try:
                # A link that was started anew may have other keys.
                while not staying.done() and self._way_in() in (way_in, None):
                    await asyncio.wait({staying}, timeout=_LOOK_SECONDS)
            finally:
                staying.cancel()
                await asyncio.gather(staying, return_exceptions=True)
            if not staying.cancelled() and (failure := staying.exception()) is not None:
                _log.error("left the bus", error=repr(failure))
                await asyncio.sleep(_AGAIN_SECONDS)

    def publish(self, records: Mapping[str, Record]) -> None:
        """These are the allocations now; those that are joined are told."""
        joined = {one.id: one.to_message() for one in records.values() if one.pod is not None}
        if joined != self._allocations:
            self._allocations = joined
            self._news.set()

    async def _stay(self, way_in: _WayIn) -> None:
        try:
            bus = await Bus.connect(url=way_in.url, jwt=way_in.jwt, name=SERVICE)
        except CredentialError as error:
            _log.error("the credential is of no use", error=str(error))
            await asyncio.Event().wait()
            return
        try:
            await bus.subscribe(subjects.relay(way_in.node), RelayState, self._relay.hear)
            async with Hub(bus, on_reachable=self._reached) as hub, asyncio.TaskGroup() as tasks:
                _log.info("joined the bus", node=way_in.node)
                subject = subjects.notice(way_in.node)

                async def say(notice: PodNotice) -> bool:
                    return await hub.publish_kept(subject, notice)

                tasks.create_task(hub.bucket(QUOTAS, PodQuota).mirror(self._told))
                tasks.create_task(self._notices.deliver(say))
                tasks.create_task(self._keep_published(hub.bucket(ALLOCATIONS, Allocation), way_in.node))
        finally:
            await self._reached(False)
            await bus.close()

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

    def _way_in(self) -> _WayIn | None:
        """The node's name on the bus, where that is, and the plugin's credential; None: they are not there yet."""
        try:
            node, url = self._settings.node, self._settings.nats_url
            if not node or not url:
                description = self._directory.read_description()
                node, url = node or str(description["node"]), url or str(description["nats_url"])
            jwt = self._directory.service_credentials(SERVICE).read_text().strip()
        except (OSError, ValueError, KeyError):
            return None
        return _WayIn(node, url, jwt)
