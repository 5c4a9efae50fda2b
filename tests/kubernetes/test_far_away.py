"""The API server and the hub are far away, and programs that share a GPU never notice."""

import asyncio
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nvshare.fake_api_server.faults import Action, Fault
from nvshare.fake_kubelet.pods import Container, Pod
from plugin_node import RESOURCE
from whole_cluster import MEMORY_WATCH, WholeCluster, whole_cluster

pytestmark = pytest.mark.heavy

QUANTUM_SECONDS = 0.2
WINDOW_SECONDS = 5.0
LOOK_AT_TURNS = """
import json, time
from nvshare.emulator.account import turns
now_ns = time.monotonic_ns()
print(json.dumps([[turn.pid, turn.start_ns, turn.end_ns] for turn in turns(0) if turn.end_ns <= now_ns]))
"""


class Window:
    """What the card's own account says of some seconds in which programs took turns."""

    def __init__(self, turns: list[list[int]]) -> None:
        last_ns = turns[-1][2]
        recent = [turn for turn in turns if turn[1] >= last_ns - WINDOW_SECONDS * 1e9]
        busy_ns = sum(end - start for _, start, end in recent)
        gaps_ms = [(later[1] - earlier[2]) / 1e6 for earlier, later in pairwise(recent) if earlier[0] != later[0]]
        self.busy = busy_ns / (last_ns - recent[0][1])
        self.hand_overs = len(gaps_ms)
        self.p99_ms = sorted(gaps_ms)[int(0.99 * len(gaps_ms))]

    def __repr__(self) -> str:
        return f"busy {self.busy:.3f}, {self.hand_overs} hand-overs, p99 {self.p99_ms:.1f} ms"


@pytest.mark.timeout(120)
async def test_c5_e5_a_slow_or_dead_api_server_and_a_cut_hub_delay_no_lock(short_folder: Path) -> None:
    async with whole_cluster(
        short_folder,
        gpus=1,
        NVSHARE_MODE="serial",
        NVSHARE_QUANTUM=str(QUANTUM_SECONDS),
        NVSHARE_QUOTA_WAIT_SECONDS="1",
    ) as cluster:
        for name in ("one", "two"):
            words = f"-m nvshare.cli.workloads.emulated --name {name} --seconds 60"
            await cluster.run_pod(name, [*words.split(), "--memory-bytes=67108864", "--kernel-ns=5000000"])
        async with asyncio.timeout(30):
            while len({turn[0] for turn in await cluster.look(LOOK_AT_TURNS)}) < 2:
                await asyncio.sleep(0.2)
        healthy = await window(cluster, "healthy")
        faults: dict[str, Callable[[], Any]] = {
            "slow": lambda: cluster.api.faults.add(Fault(Action.DELAY, seconds=2.0)),
            "dead": cluster.api.freeze,
            "cut": cluster.hub.stop,
        }
        for name, begin in faults.items():
            outcome = begin()
            if asyncio.iscoroutine(outcome):
                await outcome
            faulty = await window(cluster, name)
            assert faulty.busy >= 0.97 * healthy.busy, (name, healthy, faulty)
            assert faulty.p99_ms <= 1.5 * healthy.p99_ms + 10, (name, healthy, faulty)
            assert faulty.hand_overs >= 0.8 * healthy.hand_overs, (name, healthy, faulty)


async def window(cluster: WholeCluster, name: str) -> Window:
    """Some seconds, in which a pod starts, too: kubelet had it before the API server was away."""
    await asyncio.sleep(0.5)
    command = (sys.executable, str(MEMORY_WATCH), str(cluster.folder / f"new-{name}.answers"), "once")
    pod = Pod(f"new-{name}", f"uid-{name}", (Container("app", {RESOURCE: 1}, command=command),), restart_policy="Never")
    cluster.node.run(pod)
    await asyncio.sleep(WINDOW_SECONDS)  # what is measured is this time
    assert cluster.answers(f"new-{name}"), f"a pod starts while the API server is {name}"
    return Window(await cluster.look(LOOK_AT_TURNS))
