"""A node's kubelet for tests: real sockets for device plugins, real answers, and no container behind them.

Who also wants containers gives `nvshare.fake_kubelet.node` a runner.
"""

from __future__ import annotations

import logging
import secrets
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc.aio

from nvshare.fake_kubelet.accounting import Accounts, AdmissionError, Capacity, Holding
from nvshare.fake_kubelet.changes import Changes
from nvshare.fake_kubelet.device_manager import DeviceManager
from nvshare.fake_kubelet.options import Options
from nvshare.fake_kubelet.paths import CHECKPOINT, DEVICE_PLUGINS, POD_RESOURCES_SOCKET, REGISTRATION_SOCKET
from nvshare.fake_kubelet.plugin_client import PluginError
from nvshare.fake_kubelet.pod_resources import serve_pod_resources
from nvshare.fake_kubelet.pods import Kind, Pod
from nvshare.fake_kubelet.registration import serve_registration
from nvshare.fake_kubelet.run_options import RunOptions

log = logging.getLogger(__name__)

NOTHING = Capacity(0, 0)
_DIRECTORY_MODE = 0o750


@dataclass(slots=True)
class PodState:
    """A pod that kubelet knows: until it is removed, and it counts for devices until it has ended."""

    pod: Pod
    ended: bool = False
    rejection: AdmissionError | None = None
    running: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    """Init containers that have run to their end."""
    last_holdings: tuple[Holding, ...] = ()


class Kubelet:
    """Kubelet of a node whose files are in `directory` (`/var/lib/kubelet` on a real one). Use it with `async with`,
    or `start` and `stop` it.

    A stop is that of the process: containers, the checkpoint, and what the API server knows are still there.
    """

    def __init__(self, directory: Path, options: Options | None = None) -> None:
        self.directory = directory
        self.options = options or Options()
        self.changes = Changes()
        self.pods: dict[str, PodState] = {}
        self.boot_id = secrets.token_hex(8)
        self.started = False
        self._starts = 0
        self._devices = DeviceManager(directory / CHECKPOINT, self.options, self.changes, self._active_pods)
        self._servers: list[grpc.aio.Server] = []

    @property
    def plugin_directory(self) -> Path:
        """Where device plugins have their sockets."""
        return self.directory / DEVICE_PLUGINS

    @property
    def registration_socket(self) -> Path:
        return self.directory / REGISTRATION_SOCKET

    @property
    def pod_resources_socket(self) -> Path:
        return self.directory / POD_RESOURCES_SOCKET

    @property
    def accounts(self) -> Accounts:
        """The devices, and who has them."""
        return self._devices.accounts

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self, *, admit_pods: bool = True) -> None:
        """Reads the checkpoint, deletes all sockets of plugins, serves, and admits anew the pods that it knows.

        A real kubelet admits them at once: a pod none of whose containers runs then fails when its plugin is not there
        yet. `admit_pods=False` plays a plugin that was quicker: call `admit_again` later.
        """
        self.plugin_directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        self.pod_resources_socket.parent.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
        self._devices.start(self.boot_id)
        self.delete_sockets()
        self.pod_resources_socket.unlink(missing_ok=True)
        self._servers = [
            await serve_registration(self.registration_socket, self.plugin_directory, self._devices.connect),
            await serve_pod_resources(self.pod_resources_socket, self, self.options),
        ]
        self._starts += 1
        if admit_pods:
            await self.admit_again()
        self.changes.notify()

    async def stop(self) -> None:
        """The process ends; plugins see the end of their streams."""
        self.started = False
        servers, self._servers = self._servers, []
        for server in servers:
            await server.stop(grace=None)
        await self._devices.stop()
        self.changes.notify()

    async def restart(self) -> None:
        """The process ends and starts: registrations are lost, running containers go on."""
        await self.stop()
        await self.start()

    def reboot_node(self) -> None:
        """What a reboot does while kubelet is stopped: no container runs any more. `start` it then."""
        if self.started:
            raise RuntimeError("stop kubelet first: a node does not reboot under it")
        self.boot_id = secrets.token_hex(8)
        for state in self.pods.values():
            state.running.clear()

    def delete_sockets(self) -> None:
        """Deletes the sockets of all plugins, and kubelet's own, as a starting kubelet does; folders and the checkpoint
        stay."""
        for path in self.plugin_directory.iterdir():
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()

    async def admit(self, pod: Pod) -> None:
        """Takes a pod, and gives its containers their devices. Raises AdmissionError: the pod has failed for good."""
        state = self.pods.setdefault(pod.uid, PodState(pod))
        while True:
            await self.until_started()
            start = self._starts
            try:
                await self._devices.admit(pod, state.running | state.done)
            except AdmissionError as error:
                if not self.started or self._starts != start:
                    continue  # kubelet ended under it, and its successor admits the pod anew
                if state.rejection is None:
                    self._reject(state, error)
                raise
            if state.rejection is not None:
                raise state.rejection
            return

    async def admit_again(self) -> None:
        """Admits all pods that have not ended, as kubelet does after its start. Those that fail have ended then. Only
        then it takes others, and starts containers."""
        for state in [state for state in self.pods.values() if not state.ended]:
            try:
                await self._devices.admit(state.pod, state.running | state.done)
            except AdmissionError as error:
                self._reject(state, error)
        self.started = True
        self.changes.notify()

    def _reject(self, state: PodState, error: AdmissionError) -> None:
        log.info("pod %s/%s was rejected: %s", state.pod.namespace, state.pod.name, error)
        state.rejection = error
        self.end(state.pod.uid)

    async def start_container(self, pod_uid: str, name: str) -> RunOptions:
        """What is done before each start of a container, PreStartContainer first; it counts as running from then on.

        Raises PluginError where kubelet would try again after a while, AdmissionError where the pod has failed.
        """
        if not self.started:
            raise PluginError("kubelet is not running")
        state = self.pods[pod_uid]
        try:
            options = await self._devices.prepare(state.pod, state.pod.container(name))
        except AdmissionError as error:
            self._reject(state, error)
            raise
        state.running.add(name)
        return options

    def end_container(self, pod_uid: str, name: str, *, done: bool = True) -> None:
        """The container's process has ended; `done`: an init container need not run again."""
        state = self.pods[pod_uid]
        state.running.discard(name)
        if done and state.pod.container(name).kind is Kind.INIT:
            state.done.add(name)

    def end(self, pod_uid: str) -> None:
        """The pod has ended (Succeeded or Failed). Its devices are freed later, when kubelet next looks."""
        state = self.pods[pod_uid]
        if not state.ended:
            state.last_holdings = self._holdings(pod_uid)
            state.ended = True
            state.running.clear()
            self.changes.notify()

    def remove(self, pod_uid: str) -> None:
        """The pod was deleted from the API server. Its devices are freed later."""
        self.pods.pop(pod_uid, None)
        self.changes.notify()

    def devices_of(self, pod_uid: str, container: str) -> dict[str, tuple[str, ...]]:
        """The IDs of a container's devices, by resource."""
        return {held.resource: held.ids for held in self.accounts.held(pod_uid, container)}

    def capacity(self, resource: str) -> Capacity:
        """What the node offers of `resource` now."""
        return self.capacities().get(resource, NOTHING)

    def capacities(self) -> dict[str, Capacity]:
        return self._devices.capacities()

    async def until(self, condition: Callable[[], bool], timeout_seconds: float = 5.0) -> None:
        """Waits for what becomes true by an event here. Raises TimeoutError."""
        await self.changes.until(condition, timeout_seconds)

    async def until_started(self) -> None:
        """Waits until kubelet runs."""
        await self.changes.until(lambda: self.started)

    async def until_allocatable(self, resource: str, count: int, timeout_seconds: float = 5.0) -> None:
        """Waits until the node has `count` healthy devices of `resource`. Raises TimeoutError with what it had."""
        try:
            await self.until(lambda: self.capacity(resource).allocatable == count, timeout_seconds)
        except TimeoutError:
            message = f"{resource} has {self.capacity(resource)} after {timeout_seconds} s, not {count} healthy devices"
            raise TimeoutError(message) from None

    def listed_pods(self) -> Sequence[tuple[Pod, Sequence[Holding]]]:
        """The pods that PodResources shows, each with what its containers have."""
        return [
            (state.pod, state.last_holdings if state.ended else self._holdings(uid))
            for uid, state in self.pods.items()
            if not state.ended or self.options.list_ended_pods
        ]

    def release(self) -> None:
        """Frees the devices of pods that have ended or are deleted."""
        self._devices.release()

    def _holdings(self, pod_uid: str) -> tuple[Holding, ...]:
        return tuple(held for held in self.accounts.holdings if held.pod_uid == pod_uid)

    def _active_pods(self) -> frozenset[str]:
        return frozenset(uid for uid, state in self.pods.items() if not state.ended)


async def reboot(kubelet: Kubelet, *, admit_pods: bool = True) -> None:
    """Kubelet, containers and all end; then kubelet starts. Plugins are the caller's to end and start."""
    await kubelet.stop()
    kubelet.reboot_node()
    await kubelet.start(admit_pods=admit_pods)


__all__ = ["AdmissionError", "Capacity", "Kubelet", "PluginError", "PodState", "reboot"]
