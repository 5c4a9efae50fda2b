"""C1, C4: whatever happens to kubelet, to the device plugin and to GPUs, in any order, the node soon offers exactly the
shares of its healthy GPUs again, and pods that run notice nothing.

The plugin is the real one, in a process of its own, on two emulated GPUs. NVSHARE_TEST_ORDERS is how many orders run;
a long run takes 50.
"""

import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nvshare.cli.environment import EmulatedCards, with_emulator
from nvshare.emulator import library_directory
from nvshare.fake_kubelet.host_paths import HostPaths
from nvshare.fake_kubelet.kubelet import Kubelet
from nvshare.fake_kubelet.node import Node
from nvshare.fake_kubelet.nvshare_paths import VARIABLES
from nvshare.fake_kubelet.pod_worker import PodWorker
from nvshare.fake_kubelet.pods import Container, Pod
from nvshare.fake_kubelet.process_runner import ProcessRunner

RESOURCE = "nvshare.com/gpu"
GPUS = 2
SHARES = 10
RIGHT_AGAIN_SECONDS = 5.0
ORDERS = int(os.environ.get("NVSHARE_TEST_ORDERS", "16"))
START_SECONDS = 30.0
STARTED = b"device-plugin: starts"
XIDS = (48, 79)  # a GPU that must be reset, and one that is lost

LANES = 2
"""Nodes side by side: the orders mostly wait."""

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]


@dataclass
class Facts:
    """What must be the same before and after."""

    pids: list[str]
    devices: list[dict[str, tuple[str, ...]]]
    allocations: dict[str, object]


@dataclass
class World:
    """A node with its plugin, its GPUs, and two pods that run."""

    node: Node
    directory: Path
    pods: list[PodWorker] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)
    plugin: asyncio.subprocess.Process | None = None

    @property
    def environment(self) -> dict[str, str]:
        cards = EmulatedCards(self.directory / "cards", library_directory())
        return with_emulator(
            {
                **os.environ,
                "NVSHARE_NODE": "node-1",
                "NVSHARE_NODE_DIR": str(self.directory / "node"),
                "NVSHARE_KUBELET_DIR": str(self.node.kubelet.plugin_directory),
                "NVSHARE_POD_RESOURCES_SOCKET": str(self.node.kubelet.pod_resources_socket),
                "NVSHARE_SHARES": str(SHARES),
                "NVSHARE_DEVICE_LIST": "emulated",
                "NVSHARE_EMULATOR_LIBRARIES": str(cards.libraries),
                "NVSHARE_EMULATOR_DEVICES": str(GPUS),
                "NVSHARE_PARENT_DEATH": "1",
            },
            cards,
        )

    async def start_plugin(self) -> None:
        """Returns when it has begun its work: how long a busy host takes to load a program is not what is tested."""
        path = self.directory / "plugin.log"
        with path.open("ab") as output:
            start = output.tell()
            self.plugin = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "nvshare.device_plugin", env=self.environment, stdout=output, stderr=output
            )
        async with asyncio.timeout(START_SECONDS):
            while STARTED not in path.read_bytes()[start:]:
                assert self.plugin.returncode is None, path.read_text()
                await asyncio.sleep(0.01)

    async def kill_plugin(self) -> None:
        assert self.plugin is not None
        assert self.plugin.returncode is None, "the plugin ended by itself"
        self.plugin.kill()
        await self.plugin.wait()

    async def card(self, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "nvshare.emulator", *arguments, env=self.environment
        )
        assert await process.wait() == 0

    def facts(self) -> Facts:
        return Facts(
            pids=[running.id for pod in self.pods if (running := pod.process_of("main")) is not None],
            devices=[self.node.kubelet.devices_of(pod.pod.uid, "main") for pod in self.pods],
            allocations={
                path.parent.name: json.loads(path.read_text())
                for path in sorted((self.directory / "node" / "allocations").glob("*/allocation.json"))
            },
        )

    async def until_right(self, when: str) -> None:
        """Exactly the shares of the GPUs that have not failed can be given, by a plugin whose socket is there. Whether
        the others are listed as unhealthy or not at all makes no difference: a GPU that is lost when the plugin starts
        is not there for it.
        """
        kubelet = self.node.kubelet
        expected = (GPUS - len(self.failed)) * SHARES
        try:
            await kubelet.until(
                lambda: kubelet.capacity(RESOURCE).allocatable == expected and bool(self.plugin_sockets()),
                RIGHT_AGAIN_SECONDS,
            )
        except TimeoutError:
            log = (self.directory / "plugin.log").read_text().splitlines()[-15:]
            found = f"{when}: {kubelet.capacity(RESOURCE)}, not {expected} that can be given"
            raise AssertionError("\n".join([found, *log])) from None

    def plugin_sockets(self) -> list[Path]:
        kubelet = self.node.kubelet
        return [path for path in kubelet.plugin_directory.glob("*.sock") if path != kubelet.registration_socket]


@contextlib.asynccontextmanager
async def started_world() -> AsyncIterator[World]:
    runner = ProcessRunner(HostPaths({"PATH": os.environ["PATH"]}, lambda path: Path(path).read_text(), VARIABLES))
    with tempfile.TemporaryDirectory(prefix="capacity-") as name:
        directory = Path(name)
        async with Node(Kubelet(directory / "kubelet"), runner) as node:
            world = World(node, directory)
            await world.start_plugin()
            try:
                await node.kubelet.until_allocatable(RESOURCE, GPUS * SHARES, timeout_seconds=20)
                for number in range(2):
                    container = Container("main", {RESOURCE: 2}, command=("sleep", "1000000"))
                    world.pods.append(node.run(Pod(f"pod-{number}", f"uid-{number}", (container,), grace_seconds=1)))
                await node.kubelet.until(lambda: all(pod.process_of("main") is not None for pod in world.pods), 20)
                yield world
            finally:
                await world.kill_plugin()


async def restart_kubelet(world: World, chance: random.Random) -> None:
    await world.node.kubelet.restart()


async def delete_sockets(world: World, chance: random.Random) -> None:
    """The plugin's alone: kubelet's own is there, and says nothing."""
    for path in world.plugin_sockets():
        path.unlink()


async def replace_plugin(world: World, chance: random.Random) -> None:
    await world.kill_plugin()
    await world.start_plugin()


async def fail_gpu(world: World, chance: random.Random) -> None:
    gpu = chance.randrange(GPUS)
    world.failed.add(gpu)
    await world.card("fail", str(gpu), "--xid", str(chance.choice(XIDS)))


async def recover_gpu(world: World, chance: random.Random) -> None:
    gpu = chance.choice(sorted(world.failed) or range(GPUS))
    world.failed.discard(gpu)
    await world.card("recover", str(gpu))


EVENTS: list[Callable[[World, random.Random], Awaitable[None]]] = [
    restart_kubelet,
    delete_sockets,
    replace_plugin,
    fail_gpu,
    recover_gpu,
]


async def run_order(world: World, seed: int) -> None:
    """Lets all events happen, in an order and at a pace that `seed` says."""
    chance = random.Random(seed)
    before = world.facts()
    assert len(before.pids) == len(before.allocations) == len(world.pods)

    for event in chance.sample(EVENTS, len(EVENTS)):
        await event(world, chance)
        if chance.random() < 0.2:
            await world.until_right(f"order {seed}, after {event.__name__}")

    await world.until_right(f"order {seed}, at its end")
    assert world.facts() == before, f"order {seed}"


async def test_c1_c4_after_any_order_of_faults_the_capacity_is_right_within_5_s_and_pods_run_on() -> None:
    seeds = iter(range(ORDERS))

    async def lane() -> None:
        async with started_world() as world:
            for seed in seeds:
                await run_order(world, seed)

    async with asyncio.TaskGroup() as lanes:
        for _ in range(LANES):
            lanes.create_task(lane())
