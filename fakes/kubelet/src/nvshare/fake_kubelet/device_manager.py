"""The shell around the accounts of devices: the plugins that are connected, and the checkpoint file."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from nvshare.fake_kubelet.accounting import Accounts, AdmissionError, Capacity, Device, Holding
from nvshare.fake_kubelet.changes import Changes
from nvshare.fake_kubelet.checkpoint import CheckpointError, decode, encode
from nvshare.fake_kubelet.options import Options
from nvshare.fake_kubelet.plugin_client import PluginClient, PluginError
from nvshare.fake_kubelet.pods import Container, Kind, Pod
from nvshare.fake_kubelet.run_options import RunOptions, merge
from nvshare.kubelet.device_plugin_pb2 import DevicePluginOptions

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Endpoint:
    """A plugin that has registered. Without a client: one that had registered before kubelet started."""

    client: PluginClient | None = None
    options: DevicePluginOptions | None = None
    devices: Sequence[Device] | None = None
    stopped_seconds: float | None = None
    watch: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def connected(self) -> bool:
        return self.stopped_seconds is None


class DeviceManager:
    """Knows the plugins, gives devices to pods. `active_pods` says whose devices are not freed."""

    def __init__(
        self, checkpoint: Path, options: Options, changes: Changes, active_pods: Callable[[], Collection[str]]
    ) -> None:
        self._checkpoint = checkpoint
        self._options = options
        self._changes = changes
        self._active_pods = active_pods
        self._endpoints: dict[str, dict[Path, Endpoint]] = {}
        self._admission = asyncio.Lock()
        self._random = Random(options.seed)
        self._boot_id = ""
        self.accounts = Accounts(self._random, options.topology)

    def start(self, boot_id: str) -> None:
        """Begins with what the checkpoint says: who has what, and no device known of any plugin."""
        self._boot_id = boot_id
        self.accounts = Accounts(self._random, self._options.topology)
        try:
            checkpoint = decode(self._checkpoint.read_text())
        except FileNotFoundError:
            return
        except CheckpointError as error:
            log.error("continuing without the checkpoint: %s", error)
            return
        self.accounts.restore(checkpoint.holdings, checkpoint.registered)
        now = time.monotonic()
        self._endpoints = {name: {Path(): Endpoint(stopped_seconds=now)} for name in checkpoint.registered}

    async def stop(self) -> None:
        """Leaves all plugins."""
        endpoints = [endpoint for group in self._endpoints.values() for endpoint in group.values()]
        self._endpoints = {}
        for endpoint in endpoints:
            if endpoint.watch is not None:
                endpoint.watch.cancel()
            if endpoint.client is not None:
                await endpoint.client.close()
            if endpoint.watch is not None:
                with contextlib.suppress(asyncio.CancelledError):
                    await endpoint.watch

    async def connect(self, resource: str, socket: Path) -> None:
        """A plugin has called Register: calls it back. Raises PluginError."""
        before = self._endpoints.get(resource, {}).get(socket)
        if before is not None and before.connected:
            raise PluginError(f"device plugin already connected: {socket}")
        client = PluginClient(resource, socket)
        try:
            options = await client.options(self._options.register_seconds)
        except BaseException:
            await client.close()
            raise
        self.accounts.expect(resource)
        endpoint = Endpoint(client, options)
        kept = {path: one for path, one in self._endpoints.get(resource, {}).items() if one.connected}
        kept.pop(socket, None)
        self._endpoints[resource] = {**kept, socket: endpoint}  # the last one counts
        endpoint.watch = asyncio.create_task(self._watch(resource, endpoint, client))
        self._changes.notify()

    async def _watch(self, resource: str, endpoint: Endpoint, client: PluginClient) -> None:
        def on_devices(devices: Sequence[Device]) -> None:
            endpoint.devices = devices
            if self._primary(resource) is endpoint:
                self._list_devices(resource, devices)

        try:
            await client.watch(on_devices)
        finally:
            endpoint.stopped_seconds = time.monotonic()
        await client.close()
        left = self._primary(resource)
        if self._options.overlapping_plugins and left is not None and left.connected:
            if left.devices is not None:
                self._list_devices(resource, left.devices)
        else:
            self.accounts.withdraw(resource)
        self._changes.notify()

    def _list_devices(self, resource: str, devices: Sequence[Device]) -> None:
        self.accounts.list_devices(resource, devices)
        self._write_checkpoint()
        self._changes.notify()

    def _primary(self, resource: str) -> Endpoint | None:
        """The plugin that counts for `resource`: the last one that registered and is connected, else the last one."""
        endpoints = list(self._endpoints.get(resource, {}).values())
        return next((one for one in reversed(endpoints) if one.connected), endpoints[-1] if endpoints else None)

    def capacities(self) -> dict[str, Capacity]:
        """What the node offers. Drops resources whose plugin is gone for long."""
        expired = time.monotonic() - self._options.stopped_capacity_seconds
        for resource in list(self.accounts.resources):
            primary = self._primary(resource)
            if primary is None or (primary.stopped_seconds is not None and primary.stopped_seconds < expired):
                self.accounts.drop(resource)
                self._endpoints.pop(resource, None)
                self._write_checkpoint()
        return {
            resource: Capacity(len(devices.healthy) + len(devices.unhealthy), len(devices.healthy))
            for resource, devices in self.accounts.resources.items()
        }

    async def admit(self, pod: Pod, running: Collection[str] = ()) -> None:
        """Gives the pod's containers their devices, in the order of their starts. Raises AdmissionError.

        A container that already has its devices keeps them if they are healthy; of those `running` nothing is asked.
        """
        async with self._admission:
            released = False
            reusable: dict[str, set[str]] = {}
            for container in pod.containers:
                for resource, size in container.limits.items():
                    if not self.accounts.knows(resource):
                        continue  # somebody else's resource, for all that kubelet knows
                    if not released:
                        self.release()
                        released = True
                    held = self.accounts.held_of(pod.uid, container.name, resource)
                    if held is None:
                        await self._allocate(pod, container, resource, size, reusable.setdefault(resource, set()))
                    elif container.name not in running:
                        self.accounts.check_again(held, size)
                self._update_reusable(pod, container, reusable)

    def _update_reusable(self, pod: Pod, container: Container, reusable: dict[str, set[str]]) -> None:
        for held in self.accounts.held(pod.uid, container.name):
            ids = reusable.setdefault(held.resource, set())
            if container.kind is Kind.INIT:
                ids.update(held.ids)
            else:
                ids.difference_update(held.ids)

    async def _allocate(self, pod: Pod, container: Container, resource: str, size: int, reusable: set[str]) -> None:
        choice = self.accounts.choose(resource, size, reusable)
        endpoint = self._primary(resource)
        try:
            preferred: tuple[str, ...] = ()
            if endpoint is None or endpoint.client is None or not endpoint.connected:
                raise PluginError(f"endpoint of {resource} has been stopped")
            if choice.open and endpoint.options and endpoint.options.get_preferred_allocation_available:
                offered = self._random.sample(sorted(choice.offered), len(choice.offered))
                preferred = await endpoint.client.preferred(offered, choice.taken, size)
            ids = self.accounts.complete(choice, preferred)
            response = await endpoint.client.allocate(ids)
        except PluginError as error:
            raise AdmissionError(str(error)) from error
        self.accounts.give(pod.uid, container.name, resource, ids, response.SerializeToString())
        self._write_checkpoint()
        self._changes.notify()

    async def prepare(self, pod: Pod, container: Container) -> RunOptions:
        """Before each start of a container: PreStartContainer, then the answers kept since Allocate.

        Raises PluginError where the start must be tried again later, AdmissionError where the pod has failed.
        """
        for resource in container.limits:
            if not self.accounts.knows(resource):
                continue
            held = self.accounts.held_of(pod.uid, container.name, resource)
            if held is None:
                await self.admit(pod)  # its plugin was not known when the pod was admitted
                held = self.accounts.held_of(pod.uid, container.name, resource)
            if held is not None and self._options.health_at_restart:
                self.accounts.check_again(held, container.limits[resource])
            await self._pre_start(resource, held)
        return merge(held.response for held in self.accounts.held(pod.uid, container.name))

    async def _pre_start(self, resource: str, held: Holding | None) -> None:
        endpoint = self._primary(resource)
        if endpoint is None:
            raise PluginError(f"endpoint not found in cache for a registered resource: {resource}")
        if endpoint.options is None or not endpoint.options.pre_start_required or held is None:
            return  # also between kubelet's start and the plugin's registration: nobody is asked
        if endpoint.client is None or not endpoint.connected:
            raise PluginError(f"device plugin PreStartContainer rpc failed with err: endpoint of {resource} is stopped")
        ids = self._random.sample(held.ids, len(held.ids))
        await endpoint.client.pre_start(ids, self._options.pre_start_seconds)

    def release(self) -> None:
        """Frees the devices of pods that have ended. Kubelet gets to that late; the checkpoint follows later still."""
        if self.accounts.release_all_but(self._active_pods()):
            self._changes.notify()

    def _write_checkpoint(self) -> None:
        registered = {resource: devices.healthy.keys() for resource, devices in self.accounts.resources.items()}
        draft = self._checkpoint.with_name(f".{self._checkpoint.name}")
        draft.write_text(encode(self.accounts.holdings, registered, self._boot_id))
        draft.replace(self._checkpoint)
