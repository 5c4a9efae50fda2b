"""Whether a quota is in force, which, and from where, can be seen; and it does not come and go."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from nvshare.bus.node_directory import NodeDirectory
from nvshare.bus.version import BUILD
from nvshare.cli.node_query import fetch_status
from nvshare.cli.status import status_document
from nvshare.fake_api_server.faults import Action, Fault
from whole_cluster import MEMORY, WholeCluster, whole_cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
IN_FORCE_SECONDS = 1.0
CHANGES = 10


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster() -> AsyncIterator[WholeCluster]:
    folder = Path(tempfile.mkdtemp(prefix="nvs-"))
    folder.chmod(0o755)
    async with whole_cluster(folder, gpus=1) as cluster:
        yield cluster
    shutil.rmtree(folder)


async def watching(cluster: WholeCluster, name: str, size_mib: int) -> None:
    """A pod that has this quota."""
    await cluster.create_pod(name, {MEMORY: f"{size_mib}Mi"})
    await cluster.until_told(name, size_mib * MIB, 20)


async def allocation_of(cluster: WholeCluster, pod: str) -> dict[str, Any]:
    """What the node's status says of a pod's container."""
    status = status_document(await fetch_status(NodeDirectory(cluster.folder / "node")))
    (found,) = (one for one in status["allocations"] if one["pod"]["name"] == pod)
    return dict(found)


async def event_about(cluster: WholeCluster, pod: str, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while not (found := [event for event in await cluster.events(pod) if is_it(event)]):
            await asyncio.sleep(0.02)
    return found[0]


async def test_b9_annotations_are_in_force_in_the_program_within_a_second(cluster: WholeCluster) -> None:
    await watching(cluster, "changing", 256)
    waits = []
    for size_mib in range(300, 300 + CHANGES):
        began_ns = time.monotonic_ns()
        await cluster.annotate("changing", {MEMORY: f"{size_mib}Mi"})
        await cluster.until_told("changing", size_mib * MIB, 5)
        waits.append((cluster.answers("changing")[-1]["at_ns"] - began_ns) / 1e9)
    assert max(waits) <= IN_FORCE_SECONDS, waits


async def test_e16_status_event_and_logs_say_the_quota_in_force_its_source_and_since_when(
    cluster: WholeCluster,
) -> None:
    await watching(cluster, "seen", 256)
    asked_ns = time.time_ns()
    await cluster.annotate("seen", {MEMORY: "320Mi"})
    await cluster.until_told("seen", 320 * MIB, 5)
    told_ns = time.time_ns()

    status = await allocation_of(cluster, "seen")
    assert (status["memory_limit_bytes"], status["quota_source"]) == (320 * MIB, "pod")
    assert asked_ns <= status["quota_since_unix_ns"] <= told_ns

    event = await event_about(
        cluster, "seen", lambda event: event["reason"] == "QuotaApplied" and "320" in event["message"]
    )
    assert "from its annotations" in event["message"]
    assert event["message"].count(BUILD) == 2, "the builds of the node's services and of the library"

    logs = {name: (cluster.folder / f"{name}.log").read_text() for name in ("quota-watcher", "device-plugin")}
    assert f"key={MEMORY} before=256Mi now=320Mi" in logs["quota-watcher"]
    assert event["message"] in logs["device-plugin"]


async def test_e16_a_pod_without_annotations_says_that_it_has_the_nodes_default(cluster: WholeCluster) -> None:
    await cluster.create_pod("plain")
    await cluster.until(lambda: bool(cluster.answers("plain")), 20, "an answer")
    assert (await allocation_of(cluster, "plain"))["quota_source"] == "default"


async def test_e18_what_fails_or_is_read_in_part_never_takes_a_limit_away(cluster: WholeCluster) -> None:
    both = {MEMORY: "256Mi", f"{MEMORY}.app": "256Mi"}
    await cluster.create_pod("kept", both)
    await cluster.until_told("kept", 256 * MIB, 20)
    for fault in (
        Fault(Action.STATUS, verb="list", code=500, count=2),
        Fault(Action.STATUS, verb="list", code=410, count=1),
        Fault(Action.RESET, verb="list", count=2),
        Fault(Action.RESET, verb="watch", count=2),
        Fault(Action.CUT, verb="watch", count=1),
        Fault(Action.GONE, verb="watch", count=1),
    ):
        cluster.api.faults.add(fault)
        cluster.api.store.compact()
        cluster.api.end_watches(Action.GONE)
        await cluster.until(lambda: not cluster.api.faults.listing(), 20, f"{fault} has happened")
    await cluster.annotate("kept", {f"{MEMORY}.app": "400Mi"})
    await cluster.until_told("kept", 400 * MIB, 20)
    assert [answer["total_bytes"] for answer in cluster.answers("kept")] == [256 * MIB, 400 * MIB]
    log = (cluster.folder / "quota-watcher.log").read_text()
    changes = [line for line in log.splitlines() if "quota changed" in line and "default/kept" in line]
    assert len(changes) == 3, "the two annotations as they came, and the one that changed"
