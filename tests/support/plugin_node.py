"""A node for tests of the device plugin: kubelet's stand-in on real sockets, GPUs that fail when a test says so, and
the plugin in the process of the test.
"""

import asyncio
import itertools
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from nvshare.device_plugin.allocator import Load
from nvshare.device_plugin.devices import Gpu
from nvshare.device_plugin.records import Record, parse_record
from nvshare.device_plugin.service import DevicePlugin
from nvshare.device_plugin.settings import Settings
from nvshare.device_plugin.shares import Share, parse_share
from nvshare.fake_kubelet.kubelet import Kubelet
from nvshare.fake_kubelet.options import Options
from nvshare.fake_kubelet.pods import Container, Kind, Pod

RESOURCE = "nvshare.com/gpu"
CARD_BYTES = 16 * 2**30


@dataclass
class Cards:
    """GPUs as a test says; a DeviceSource."""

    gpus: tuple[Gpu, ...] | None
    busy: dict[str, int] = field(default_factory=dict)
    _on_change: Callable[[], None] = lambda: None

    @classmethod
    def of(cls, count: int) -> "Cards":
        return cls(tuple(Gpu(f"GPU-{index}", index, CARD_BYTES) for index in range(count)))

    async def watch(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        await asyncio.Event().wait()

    async def busy_permille(self) -> Mapping[str, int]:
        return self.busy

    def appear(self, gpus: tuple[Gpu, ...] | None) -> None:
        """The driver answers."""
        self.gpus = gpus
        self._on_change()

    def set_health(self, uuid: str, healthy: bool) -> None:
        assert self.gpus is not None
        self.gpus = tuple(replace(gpu, healthy=healthy) if gpu.uuid == uuid else gpu for gpu in self.gpus)
        self._on_change()


@dataclass
class Node:
    """One node. `settings` are those of the next plugin that starts."""

    folder: Path
    kubelet: Kubelet
    cards: Cards
    settings: Settings
    plugin: DevicePlugin | None = None
    _running: asyncio.Task[None] | None = None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _uids: Iterator[int] = field(default_factory=itertools.count)

    async def start_plugin(self) -> DevicePlugin:
        self._stop = asyncio.Event()
        self.plugin = DevicePlugin(self.settings, self.cards)
        self._running = asyncio.ensure_future(self.plugin.run(self._stop))
        return self.plugin

    async def stop_plugin(self) -> None:
        """As SIGTERM does."""
        if self._running is not None:
            self._stop.set()
            await self._running
            self._running = None

    def detach_plugin(self) -> tuple[asyncio.Event, asyncio.Task[None]]:
        """Leaves the plugin running; the caller ends it by the event, and waits for the task."""
        assert self._running is not None
        stop, running = self._stop, self._running
        self._running = None
        return stop, running

    async def kill_plugin(self) -> None:
        """As SIGKILL does, but that the sockets' other ends are closed by us."""
        assert self.plugin is not None
        assert self._running is not None
        server = self.plugin.registration.server
        leftover = None if server is None else server.path
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        self._running = None
        if leftover is not None and leftover.parent.is_dir() and not leftover.exists():
            leave_dead_socket(leftover)

    async def until_listed(self, count: int, timeout_seconds: float = 5.0) -> None:
        await self.kubelet.until_allocatable(RESOURCE, count, timeout_seconds)

    def pod(self, shares: int = 1, name: str = "", init_shares: int = 0) -> Pod:
        uid = f"uid-{next(self._uids)}"
        containers = [Container("app", {RESOURCE: shares})]
        if init_shares:
            containers.insert(0, Container("init", {RESOURCE: init_shares}, Kind.INIT))
        return Pod(name or f"pod-{uid}", uid, tuple(containers))

    async def run(self, shares: int = 1, name: str = "", init_shares: int = 0) -> Pod:
        """Admits a pod and starts its containers."""
        pod = self.pod(shares, name, init_shares)
        await self.kubelet.admit(pod)
        for container in pod.containers:
            await self.kubelet.start_container(pod.uid, container.name)
            if container.kind is Kind.INIT:
                self.kubelet.end_container(pod.uid, container.name)
        return pod

    def end(self, pod: Pod) -> None:
        self.kubelet.end(pod.uid)
        self.kubelet.remove(pod.uid)

    def gpus_of(self, pod: Pod) -> list[str]:
        ids = self.kubelet.devices_of(pod.uid, "app").get(RESOURCE, ())
        return sorted(device.partition("::")[0] for device in ids)

    def taken(self) -> list[Share]:
        """The shares of pods that have not ended."""
        return [
            parse_share(device)
            for uid, state in self.kubelet.pods.items()
            if not state.ended
            for container in state.pod.containers
            for device in self.kubelet.devices_of(uid, container.name).get(RESOURCE, ())
        ]

    async def until_settled(self, count: int, timeout_seconds: float = 5.0) -> None:
        """Waits until kubelet listens to a plugin that is there, and has so many healthy shares."""

        def is_settled() -> bool:
            server = None if self.plugin is None else self.plugin.registration.server
            return server is not None and server.is_there and server.streams > 0

        async with asyncio.timeout(timeout_seconds):
            await until(is_settled, timeout_seconds)
            await self.until_listed(count, timeout_seconds)

    def in_use(self) -> list[int]:
        """Shares in use of each GPU, as kubelet counts them."""
        counted = Counter(device.partition("::")[0] for held in self.kubelet.accounts.holdings for device in held.ids)
        return [counted[gpu.uuid] for gpu in self.cards.gpus or ()]

    def records(self) -> dict[str, Record]:
        """What is on disk, by the folder's name."""
        found = {}
        for path in (self.folder / "node" / "allocations").glob("*/allocation.json"):
            found[path.parent.name] = parse_record(path.read_text(), path.parent.name)
        return found

    def record_of(self, pod: Pod, container: str = "app") -> Record:
        """The newest of a container."""
        found = [
            one
            for one in self.records().values()
            if one.pod is not None and (one.pod.name, one.pod.container) == (pod.name, container)
        ]
        return max(found, key=lambda one: one.made_unix_ns)


def gpus_by_requirement(
    listed: Sequence[Share], taken: Collection[Share], loads: Mapping[str, Load], size: int
) -> list[str]:
    """The GPU of each share of a request, as the requirement says, found by looking at every free share and at
    everybody who has one, again for each share. GPUs come in the order in which they are listed.
    """
    order = list(dict.fromkeys(share.gpu for share in listed))
    own: list[Share] = []

    def wish(share: Share) -> tuple[bool, int, int, int, int]:
        load = loads.get(share.gpu, Load())
        neighbours = sum(one.gpu == share.gpu for one in [*taken, *own])
        has_it = any(one.gpu == share.gpu for one in own)
        return has_it, neighbours, load.promised_bytes, load.busy_permille, order.index(share.gpu)

    while len(own) < size:
        free = [share for share in listed if share not in taken and share not in own]
        if not free:
            break
        own.append(min(free, key=wish))
    return [share.gpu for share in own]


async def until(condition: Callable[[], bool], timeout_seconds: float = 5.0) -> None:
    async with asyncio.timeout(timeout_seconds):
        while not condition():
            await asyncio.sleep(0.01)


def leave_dead_socket(path: Path) -> None:
    """The file of a socket that nobody listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.bind(str(path))


@asynccontextmanager
async def make_node(
    folder: Path, gpus: int = 2, options: Options | None = None, **settings: object
) -> AsyncIterator[Node]:
    """A node with kubelet; its plugin is not started yet."""
    async with Kubelet(folder / "kubelet", options) as kubelet:
        values = {
            "node_dir": folder / "node",
            "kubelet_dir": kubelet.plugin_directory,
            "pod_resources_socket": kubelet.pod_resources_socket,
            "quota_wait_seconds": 0.5,
            "reconcile_seconds": 0.3,
            **settings,
        }
        node = Node(folder, kubelet, Cards.of(gpus), Settings.model_validate(values))
        try:
            yield node
        finally:
            await node.stop_plugin()
