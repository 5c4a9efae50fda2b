"""The device plugin of one node: kubelet on one side, the node's bus, if there is one, on the other.

Kubelet comes first. Nothing that kubelet waits for needs the bus; what comes over it, quotas and who lives, is
followed when it is there.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from nvshare.bus.node_directory import NodeDirectory
from nvshare.bus.version import BUILD, VERSION
from nvshare.device_plugin.book import Book
from nvshare.device_plugin.bus_link import BusLink
from nvshare.device_plugin.checkpoint import FILE_NAME
from nvshare.device_plugin.devices import DeviceSource
from nvshare.device_plugin.folders import Folders
from nvshare.device_plugin.keeping import Absences, removable
from nvshare.device_plugin.known_quotas import KnownQuotas
from nvshare.device_plugin.library import current_version, prune
from nvshare.device_plugin.node_shares import NodeShares
from nvshare.device_plugin.notices import Notices
from nvshare.device_plugin.pod_resources import PodResources
from nvshare.device_plugin.registration import Registration
from nvshare.device_plugin.relay_view import RelayView
from nvshare.device_plugin.server import PluginServer, remove_dead_sockets
from nvshare.device_plugin.settings import Settings

_SPACING_SECONDS = 0.25  # between two reconciliations that something asked for
_BUSY_SECONDS = 1.0
_MISSES = 2  # in a row: kubelet may be just about to take it over
_NEW_SECONDS = 2.0  # after a registration kubelet need not know the list yet
_MOST_SECONDS = 300.0  # a kubelet that never shows what it was told is not asked to listen again and again

_log = structlog.get_logger()


class DevicePlugin:
    """One plugin for one kubelet."""

    def __init__(self, settings: Settings, source: DeviceSource) -> None:
        self._settings = settings
        self._source = source
        directory = NodeDirectory(settings.node_dir)
        self._folders = Folders(directory, settings.selinux_label)
        self._changed = asyncio.Event()
        self._known = asyncio.Event()  # the driver has answered
        self._quotas = KnownQuotas()
        self.relay = RelayView()
        self._notices = Notices()
        self._pod_resources = PodResources(settings.pod_resources_socket, settings.resource)
        self._book = Book(settings.rules, self._folders, source)
        self._absences = Absences(round(settings.absent_seconds * 1e9))
        self._registered_s = 0.0
        self._missed = 0
        self._trust_seconds = _NEW_SECONDS
        self._said = ""
        self.has_started = False
        self.shares = NodeShares(
            self._book,
            self._folders,
            settings.injections,
            self._pod_resources,
            (settings.kubelet_dir / FILE_NAME, settings.resource),
            self._quotas,
            self.relay,
            self._notices,
            self._changed.set,
            lambda: f"nvshare {VERSION} {BUILD}, library {current_version(settings.libraries)}",
            settings.waits,
        )
        self.registration = Registration(
            settings.kubelet_dir,
            settings.resource,
            lambda: PluginServer(settings.kubelet_dir, self.shares, self.shares.devices),
            self._on_registered,
        )
        self.link = BusLink(settings, directory, self.relay, self._notices, self._on_quotas)

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set. Raises what ended one of its parts."""
        _log.info("starts", resource=self._settings.resource, version=VERSION, build=BUILD)
        remove_dead_sockets(self._settings.kubelet_dir)
        async with asyncio.TaskGroup() as tasks:
            parts = [
                tasks.create_task(self._source.watch(self._on_gpus)),
                tasks.create_task(self._register_when_known()),
                tasks.create_task(self._reconcile()),
                tasks.create_task(self._sample()),
                tasks.create_task(self.link.run()),
            ]
            self.has_started = True
            await stop.wait()
            for part in parts:
                part.cancel()
        await self._pod_resources.close()
        _log.info("ended")

    async def _register_when_known(self) -> None:
        """Not before the driver has answered: an empty list would take the shares of running containers away."""
        self._on_gpus()
        await self._known.wait()
        await self.shares.tell_kubelet()
        await self.registration.keep()

    def _on_gpus(self) -> None:
        if self._book.gpus() is not None:
            self._known.set()
        self._changed.set()

    async def _on_registered(self) -> None:
        self._registered_s = time.monotonic()
        self._changed.set()

    async def _on_quotas(self) -> None:
        """The cluster says something new, or whether more can be hoped for."""
        await self._quotas.update(self.link.quotas, self.link.reachable)
        try:
            self.shares.follow_quotas()
        except OSError as error:
            self._say(f"cannot write quotas: {error}")
        await self.shares.tell_kubelet()
        self.link.publish(self._book.records)

    async def _reconcile(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._settings.reconcile_seconds):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            try:
                await self._reconcile_once()
                self._said = ""
            except OSError as error:
                self._say(f"cannot reconcile: {error}")
            await asyncio.sleep(_SPACING_SECONDS)

    async def _reconcile_once(self) -> None:
        """Brings all in line with what kubelet, the disk, the relay and the cluster say now. Raises OSError."""
        self._book.reload()
        held = await self._pod_resources.held()
        if held is not None:
            self.shares.join(held)
            self._absences.seen(self._book.looked(held), time.monotonic_ns())
        self.shares.follow_quotas()
        gone = self._absences.gone(time.monotonic_ns()) if held is not None else set()
        for allocation in removable(self._book.superseded(), gone, self.relay.living):
            _log.info("allocation ended", allocation=allocation)
            self._book.remove(allocation)
        await self.shares.tell_kubelet()
        self.link.publish(self._book.records)
        self._prune_libraries()
        await self._check_kubelet()

    def _prune_libraries(self) -> None:
        if self._settings.libraries.is_dir():
            for version in prune(
                self._settings.libraries, [record.made_unix_ns for record in self._book.records.values()]
            ):
                _log.info("library removed", folder=version)

    async def _check_kubelet(self) -> None:
        """What kubelet shows must be what it was told: an older kubelet withdraws everything when the plugin before
        this one ends.
        """
        if self.registration.server is None or time.monotonic() - self._registered_s < self._trust_seconds:
            self._missed = 0
            return
        shown = await self._pod_resources.allocatable()
        told = {one.share for one in self.shares.devices.listed if one.healthy}
        if shown is None or shown == told:
            self._missed = 0
            self._trust_seconds = _NEW_SECONDS if shown is not None else self._trust_seconds
            return
        self._missed += 1
        if self._missed <= _MISSES:
            await self.shares.tell_kubelet(again=True)
            self._changed.set()
            return
        _log.warning("kubelet shows other shares than it was told", shown=len(shown), told=len(told))
        self._missed = 0
        self._trust_seconds = min(2 * self._trust_seconds, _MOST_SECONDS)
        self.registration.renew()

    async def _sample(self) -> None:
        while True:
            self._book.busy.sampled(await self._source.busy_permille(), time.monotonic_ns())
            await asyncio.sleep(_BUSY_SECONDS)

    def _say(self, problem: str) -> None:
        if problem != self._said:
            self._said = problem
            _log.error(problem)
