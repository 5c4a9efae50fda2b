"""Quotas from the cluster, notices to it, and the life of folders: with a hub, a node's server, and the relay."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster_bus import ClusterBus, Watcher, make_cluster_bus
from nvshare.device_plugin.records import Record
from nvshare.v1.kubernetes_pb2 import ContainerQuota
from plugin_node import Node, make_node, until

GIB = 2**30


@dataclass
class Cluster:
    """A node with its plugin, and the bus."""

    node: Node
    bus: ClusterBus
    watcher: Watcher

    async def until_joined(self) -> None:
        """The plugin hears the relay and the hub."""
        plugin = self.node.plugin
        assert plugin is not None
        await until(lambda: plugin.link.reachable and plugin.relay.living is not None, 10)

    def record(self, name: str) -> Record:
        found = [one for one in self.node.records().values() if one.pod is not None and one.pod.name == name]
        return max(found, key=lambda one: one.made_unix_ns)

    def limit(self, name: str) -> int:
        return self.record(name).quota.memory_limit_bytes


@asynccontextmanager
async def make_cluster(folder: Path, gpus: int = 2, listed: int = 20, **settings: object) -> AsyncIterator[Cluster]:
    async with (
        make_node(folder, gpus, None, **{"absent_seconds": 0.2, **settings}) as node,
        make_cluster_bus(folder, folder / "node") as bus,
    ):
        assert bus.watcher is not None
        cluster = Cluster(node, bus, bus.watcher)
        await node.start_plugin()
        await node.until_listed(listed)
        await cluster.until_joined()
        yield cluster


@pytest.fixture
async def cluster(short_folder: Path) -> AsyncIterator[Cluster]:
    async with make_cluster(short_folder, quota_wait_seconds=5) as cluster:
        yield cluster


def memory(size_bytes: int, container: str = "") -> ContainerQuota:
    return ContainerQuota(container=container, memory_limit_bytes=size_bytes)


async def test_b3_a_container_starts_with_its_annotations_quota(cluster: Cluster) -> None:
    pod = cluster.node.pod(name="web")
    await cluster.watcher.say("web", pod.uid, memory(4 * GIB))
    await cluster.node.kubelet.admit(pod)
    await cluster.node.kubelet.start_container(pod.uid, "app")
    assert cluster.limit("web") == 4 * GIB
    plugin = cluster.node.plugin
    assert plugin is not None
    assert plugin.relay.shows(cluster.record("web"))


async def test_a_start_waits_for_a_quota_that_is_on_its_way(cluster: Cluster) -> None:
    pod = cluster.node.pod(name="web")
    await cluster.node.kubelet.admit(pod)
    starting = asyncio.ensure_future(cluster.node.kubelet.start_container(pod.uid, "app"))
    await until(lambda: any(one.pod is not None for one in cluster.node.records().values()))
    assert not starting.done()
    await cluster.watcher.say("web", pod.uid, memory(4 * GIB))
    await starting
    assert cluster.limit("web") == 4 * GIB


async def test_b9_a_changed_annotation_is_in_force_within_a_second_and_said(cluster: Cluster) -> None:
    pod = await start(cluster, "web", memory(4 * GIB))
    for gibibytes in (8, 2, 6):
        await cluster.watcher.say("web", pod, memory(gibibytes * GIB))
        await until(lambda size=gibibytes * GIB: cluster.limit("web") == size, 1.0)  # type: ignore[misc]
    await until(lambda: cluster.watcher.reasons("web") == ["QuotaApplied"] * 4)
    assert "6.0 GiB of memory" in cluster.watcher.notices[-1].text


async def test_b10_an_annotation_that_went_restores_the_default(cluster: Cluster) -> None:
    pod = await start(cluster, "web", memory(4 * GIB))
    await cluster.watcher.say("web", pod)
    await until(lambda: cluster.limit("web") == 0)


async def test_e18_an_entry_that_went_changes_nothing(cluster: Cluster) -> None:
    gone = await start(cluster, "gone", memory(4 * GIB))
    other = await start(cluster, "other", memory(4 * GIB))
    await cluster.watcher.quotas.delete(gone)
    await cluster.watcher.say("other", other, memory(2 * GIB))
    await until(lambda: cluster.limit("other") == 2 * GIB)
    assert cluster.limit("gone") == 4 * GIB


async def test_a_pod_that_opted_out_starts_without_the_library(cluster: Cluster) -> None:
    pod = cluster.node.pod(name="web")
    await cluster.watcher.say("web", pod.uid, opted_out=True)
    await cluster.node.kubelet.admit(pod)
    options = await cluster.node.kubelet.start_container(pod.uid, "app")
    preload = next(mount.host_path for mount in options.mounts if mount.container_path == "/etc/ld.so.preload")
    assert Path(preload).read_text() == ""


async def test_b4_a_quota_that_passes_the_cap_is_refused_and_said_once(short_folder: Path) -> None:
    async with make_cluster(short_folder, gpus=1, listed=4, overcommit=1.0, shares="4") as cluster:
        await start(cluster, "big", memory(12 * GIB))
        pod = await start(cluster, "web", memory(2 * GIB))
        await cluster.watcher.say("web", pod, memory(6 * GIB))
        await until(lambda: "QuotaRefused" in cluster.watcher.reasons("web"))
        await cluster.watcher.say("web", pod, memory(3 * GIB))
        await until(lambda: cluster.limit("web") == 3 * GIB)
        assert cluster.watcher.reasons("web").count("QuotaRefused") == 1


@pytest.mark.heavy
async def test_with_the_hub_away_a_pod_starts_at_once_by_default_and_gets_its_own_later(short_folder: Path) -> None:
    async with make_cluster(short_folder, default_memory="1Gi", quota_wait_seconds=20) as cluster:
        known = await start(cluster, "known", memory(4 * GIB))
        plugin = cluster.node.plugin
        assert plugin is not None
        await cluster.watcher.say("web", "uid-later", memory(2 * GIB))
        await cluster.bus.hub_server.stop()
        await until(lambda: not plugin.link.reachable)
        pod = cluster.node.pod(name="other")
        await cluster.node.kubelet.admit(pod)
        async with asyncio.timeout(5):
            await cluster.node.kubelet.start_container(pod.uid, "app")
            await cluster.node.kubelet.start_container(known, "app")
        assert (cluster.limit("other"), cluster.limit("known")) == (GIB, 4 * GIB)
        await cluster.bus.hub_server.start()
        await until(lambda: cluster.watcher.hub.reachable, 10)
        await cluster.watcher.say("other", pod.uid, memory(3 * GIB))
        await until(lambda: cluster.limit("other") == 3 * GIB, 2.0)
        await until(lambda: cluster.watcher.reasons("other") == ["QuotaDefault", "QuotaApplied"], 10)


async def test_what_was_joined_is_told_to_the_cluster_until_its_pod_is_gone(cluster: Cluster) -> None:
    pod = cluster.node.pod(name="web")
    await cluster.watcher.say("web", pod.uid)
    await cluster.node.kubelet.admit(pod)
    await cluster.node.kubelet.start_container(pod.uid, "app")
    key = f"node-1.{cluster.record('web').id}"
    await until_published(cluster, key, True)
    assert (await cluster.bus.allocations())[key].pod.name == "web"
    cluster.node.end(pod)
    await until_published(cluster, key, False)
    assert cluster.node.records() == {}


@pytest.mark.heavy
async def test_what_an_earlier_plugin_published_goes_with_its_folder(cluster: Cluster) -> None:
    pod = cluster.node.pod(name="web")
    await cluster.watcher.say("web", pod.uid)
    await cluster.node.kubelet.admit(pod)
    await cluster.node.kubelet.start_container(pod.uid, "app")
    key = f"node-1.{cluster.record('web').id}"
    await until_published(cluster, key, True)
    await cluster.node.stop_plugin()
    cluster.node.end(pod)
    await cluster.node.start_plugin()
    await until_published(cluster, key, False)


async def test_a_folder_stays_while_a_process_of_it_lives(cluster: Cluster) -> None:
    pod = cluster.node.pod(name="web")
    await cluster.watcher.say("web", pod.uid)
    await cluster.node.kubelet.admit(pod)
    await cluster.node.kubelet.start_container(pod.uid, "app")
    record = cluster.record("web")
    process = await cluster.bus.join(record.id)
    plugin = cluster.node.plugin
    assert plugin is not None
    await until(lambda: bool(plugin.relay.living))
    cluster.node.end(pod)
    other = await start(cluster, "other")
    cluster.node.kubelet.end(other)
    cluster.node.kubelet.remove(other)
    await until(lambda: "other" not in {one.pod.name for one in cluster.node.records().values() if one.pod})
    assert cluster.record("web").id == record.id  # absent for as long, and longer
    process.kill()
    await until(lambda: cluster.node.records() == {})


async def test_the_folder_of_a_pod_that_never_started_goes(cluster: Cluster) -> None:
    pod = cluster.node.pod(name="web")
    await cluster.node.kubelet.admit(pod)
    assert len(cluster.node.records()) == 1
    cluster.node.end(pod)
    await until(lambda: cluster.node.records() == {})


@pytest.mark.heavy
async def test_a_folder_that_was_allocated_again_goes_when_nobody_lives_in_it(short_folder: Path) -> None:
    async with make_cluster(short_folder, gpus=1, listed=1, shares="1", absent_seconds=3600) as cluster:
        first = await start(cluster, "db-0")
        before = cluster.record("db-0").id
        process = await cluster.bus.join(before)
        plugin = cluster.node.plugin
        assert plugin is not None
        await until(lambda: bool(plugin.relay.living))
        cluster.node.kubelet.end(first)
        cluster.node.kubelet.remove(first)
        await start(cluster, "db-0")
        assert before in cluster.node.records()
        process.kill()
        await until(lambda: list(cluster.node.records()) == [cluster.record("db-0").id])
        assert cluster.record("db-0").id != before


@pytest.mark.heavy
async def test_a_link_with_new_keys_is_joined_again(cluster: Cluster) -> None:
    plugin = cluster.node.plugin
    assert plugin is not None
    await cluster.bus.stop_link()
    await until(lambda: not plugin.link.reachable, 10)
    await cluster.bus.start_link()
    await cluster.until_joined()
    await start(cluster, "web", memory(4 * GIB))
    assert cluster.limit("web") == 4 * GIB


async def start(cluster: Cluster, name: str, *quotas: ContainerQuota) -> str:
    """Starts a pod whose quotas are known; its UID."""
    pod = cluster.node.pod(name=name)
    await cluster.watcher.say(name, pod.uid, *quotas)
    await cluster.node.kubelet.admit(pod)
    await cluster.node.kubelet.start_container(pod.uid, "app")
    return pod.uid


async def until_published(cluster: Cluster, key: str, there: bool) -> None:
    async with asyncio.timeout(10):
        while (key in await cluster.bus.allocations()) != there:
            await asyncio.sleep(0.05)


async def test_the_description_is_what_the_relay_reads(cluster: Cluster) -> None:
    await start(cluster, "web", memory(4 * GIB))
    folder = cluster.bus.node_directory.allocation(cluster.record("web").id)
    document = json.loads((folder / "allocation.json").read_text())
    assert document["pod"] == {"namespace": "default", "name": "web", "uid": document["pod"]["uid"], "container": "app"}
    assert (folder / "nvshare.sock").is_socket()
