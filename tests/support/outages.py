"""Windows of time in which the API server or the hub is far away, and what the card's own account says of each: of how
long it was in use, and of how long it stood still between two programs.

In each window the same happens: a pod starts, a quota is changed at the API server, and the scheduler is restarted.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

from nvshare.fake_api_server.faults import Action, Fault
from nvshare.fake_api_server.resources import PODS, Target
from nvshare.fake_kubelet.pods import Container, Pod
from plugin_node import RESOURCE
from whole_cluster import MEMORY, MEMORY_WATCH, WholeCluster

MIB = 2**20
SETTINGS = {"NVSHARE_MODE": "serial", "NVSHARE_QUANTUM": "0.2", "NVSHARE_QUOTA_WAIT_SECONDS": "1"}
COMPUTING = ("one", "two")
WATCHING = "watching"  # a pod whose quota is changed
LATENCY_SECONDS = 2.0
HEALED_SECONDS = 10.0
LOOK_AT_TURNS = """
import json, time
from nvshare.emulator.account import turns
now_ns = time.monotonic_ns()
print(json.dumps([[turn.pid, turn.start_ns, turn.end_ns] for turn in turns(0) if turn.end_ns <= now_ns]))
"""


@dataclass(frozen=True)
class Window:
    """`busy`: the part of the time that the card was in use. The others: how long it stood still when another program
    got it, in ms.
    """

    busy: float
    hand_overs: int
    median_ms: float
    p99_ms: float

    @classmethod
    def of(cls, turns: list[list[int]], seconds: float) -> "Window":
        """The last so many seconds of the card's turns."""
        last_ns = turns[-1][2]
        recent = [turn for turn in turns if turn[1] >= last_ns - seconds * 1e9]
        busy_ns = sum(end - start for _, start, end in recent)
        gaps_ms = sorted((later[1] - earlier[2]) / 1e6 for earlier, later in pairwise(recent) if earlier[0] != later[0])
        count = len(gaps_ms)
        return cls(
            busy_ns / (last_ns - recent[0][1]), count, gaps_ms[count // 2], gaps_ms[min(count - 1, int(0.99 * count))]
        )

    def __str__(self) -> str:
        hand_overs = f"{self.hand_overs} hand-overs of {self.median_ms:.2f} ms, p99 {self.p99_ms:.2f} ms"
        return f"busy {100 * self.busy:.1f} %, {hand_overs}"


@asynccontextmanager
async def healthy(cluster: WholeCluster) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def slow_api_server(cluster: WholeCluster) -> AsyncIterator[None]:
    number = cluster.api.faults.add(Fault(Action.DELAY, seconds=LATENCY_SECONDS))
    yield
    cluster.api.remove_fault(number)


@asynccontextmanager
async def dead_api_server(cluster: WholeCluster) -> AsyncIterator[None]:
    cluster.api.freeze()
    yield
    cluster.api.thaw()


@asynccontextmanager
async def hub_cut(cluster: WholeCluster) -> AsyncIterator[None]:
    await cluster.hub.stop()
    yield
    await cluster.hub.start()


OUTAGES: dict[str, Callable[[WholeCluster], AbstractAsyncContextManager[None]]] = {
    "healthy": healthy,
    "API server slow": slow_api_server,
    "API server dead": dead_api_server,
    "hub cut": hub_cut,
}


async def measured_outages(cluster: WholeCluster, seconds: float) -> dict[str, Window]:
    """A window of so many seconds for each of OUTAGES; after each the quota that was changed in it must come in force.
    The cluster has one card, and SETTINGS.
    """
    for name in COMPUTING:
        words = f"-m nvshare.cli.workloads.emulated --name {name} --seconds 100000"
        await cluster.run_pod(name, [*words.split(), "--memory-bytes=67108864", "--kernel-ns=5000000"])
    await cluster.create_pod(WATCHING, {MEMORY: "100Mi"})
    await cluster.until_told(WATCHING, 100 * MIB, 20)
    async with asyncio.timeout(30):
        while len({turn[0] for turn in await cluster.look(LOOK_AT_TURNS)}) < len(COMPUTING):
            await asyncio.sleep(0.2)
    windows = {}
    for number, (name, outage) in enumerate(OUTAGES.items()):
        size_mib = 200 + number
        async with outage(cluster):
            windows[name] = await _window(cluster, seconds, number, size_mib)
        await cluster.until_told(WATCHING, size_mib * MIB, HEALED_SECONDS)
    return windows


async def _window(cluster: WholeCluster, seconds: float, number: int, size_mib: int) -> Window:
    ends = asyncio.get_running_loop().time() + seconds
    new = f"new-{number}"
    command = (sys.executable, str(MEMORY_WATCH), str(cluster.folder / f"{new}.answers"), "once")
    # kubelet had it before the API server was away.
    cluster.node.run(
        Pod(new, f"uid-{new}", (Container("app", {RESOURCE: 1}, command=command),), restart_policy="Never")
    )
    change = {"metadata": {"annotations": {MEMORY: f"{size_mib}Mi"}}}
    cluster.api.store.patch(Target(PODS, "default", WATCHING), change)
    await asyncio.sleep(seconds / 3)
    await cluster.stop_service("scheduler")
    await cluster.start_service("scheduler")
    await asyncio.sleep(ends - asyncio.get_running_loop().time())  # what is measured is this time
    assert cluster.answers(new), f"{new} started meanwhile"
    return Window.of(await cluster.look(LOOK_AT_TURNS), seconds)
