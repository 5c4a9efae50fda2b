"""Annotations that change while something between the API server and the program is away."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from nvshare.fake_api_server.faults import Action, Fault
from whole_cluster import MEMORY, WholeCluster, whole_cluster

pytestmark = pytest.mark.heavy

MIB = 2**20
IN_FORCE_SECONDS = 2.0


async def streams_cut(cluster: WholeCluster, change: Callable[[], Awaitable[None]]) -> None:
    cluster.api.end_watches(Action.CUT)
    await change()


async def watches_told_that_versions_are_forgotten(
    cluster: WholeCluster, change: Callable[[], Awaitable[None]]
) -> None:
    await change()
    cluster.api.store.compact()
    cluster.api.end_watches(Action.GONE)


async def versions_forgotten_while_away(cluster: WholeCluster, change: Callable[[], Awaitable[None]]) -> None:
    """410 in the shape that the server has now: an ERROR event of the stream, or the answer's status."""
    away = cluster.api.faults.add(Fault(Action.STATUS, verb="watch", code=503))
    cluster.api.end_watches(Action.CUT)
    await change()
    cluster.api.store.compact()
    cluster.api.expired_as_answer = not cluster.api.expired_as_answer
    cluster.api.remove_fault(away)


async def api_server_restarted(cluster: WholeCluster, change: Callable[[], Awaitable[None]]) -> None:
    await change()
    await cluster.api.stop()
    await cluster.api.start()


async def hub_restarted(cluster: WholeCluster, change: Callable[[], Awaitable[None]]) -> None:
    await cluster.hub.stop()
    await change()
    await cluster.hub.start()


CUTS = (
    streams_cut,
    watches_told_that_versions_are_forgotten,
    versions_forgotten_while_away,
    api_server_restarted,
    hub_restarted,
)


@pytest.mark.timeout(120)
async def test_b9_what_changed_meanwhile_is_in_force_within_two_seconds(short_folder: Path) -> None:
    async with whole_cluster(short_folder) as cluster:
        await cluster.create_pod("web", {MEMORY: "256Mi"})
        await cluster.until_told("web", 256 * MIB, 20)
        waits: dict[str, float] = {}
        size = 256
        for cut in CUTS * 2:
            size += 1

            async def change(size: int = size) -> None:
                await cluster.annotate("web", {MEMORY: f"{size}Mi"})

            await cut(cluster, change)
            began_s = time.monotonic()
            await cluster.until_told("web", size * MIB, 10)
            name = f"{cut.__name__} {size}"
            waits[name] = time.monotonic() - began_s
        assert max(waits.values()) <= IN_FORCE_SECONDS, waits


@pytest.mark.timeout(120)
async def test_a_quota_that_changed_while_a_service_of_the_node_was_away_is_in_force_when_it_is_back(
    short_folder: Path,
) -> None:
    async with whole_cluster(short_folder) as cluster:
        await cluster.create_pod("web", {MEMORY: "256Mi"})
        await cluster.until_told("web", 256 * MIB, 20)
        for size, service in ((300, "device-plugin"), (301, "scheduler"), (302, "quota-watcher")):
            await cluster.stop_service(service)
            await cluster.annotate("web", {MEMORY: f"{size}Mi"})
            await cluster.start_service(service)
            await cluster.until_told("web", size * MIB, 20)
