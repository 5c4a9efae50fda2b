"""From an annotation on the API server to what a program in the pod sees, over every service."""

import asyncio
import time
from pathlib import Path

import pytest

from whole_cluster import MEMORY, whole_cluster

pytestmark = pytest.mark.heavy

MIB = 2**20
CARD_BYTES = 16 * 2**30


@pytest.mark.timeout(180)
async def test_b3_the_first_answer_of_a_hundred_fresh_pods_is_the_annotations(short_folder: Path) -> None:
    async with whole_cluster(short_folder) as cluster:
        for batch in range(10):
            pods = {f"pod-{batch}-{number}": 256 + 64 * batch + number for number in range(10)}
            for name, size in pods.items():
                await cluster.create_pod(name, {MEMORY: f"{size}Mi"}, once=True)
            await cluster.until(lambda pods=pods: all(map(cluster.answers, pods)), 30, "an answer of each pod")  # type: ignore[misc]
            assert {name: cluster.answers(name)[0]["total_bytes"] for name in pods} == {
                name: size * MIB for name, size in pods.items()
            }


@pytest.mark.timeout(120)
async def test_b9_a_hundred_changes_are_in_force_in_the_program_within_a_second(short_folder: Path) -> None:
    async with whole_cluster(short_folder) as cluster:
        await cluster.create_pod("web", {MEMORY: "1Gi"})
        await cluster.until_told("web", 1024 * MIB, 20)
        waits = []
        for number in range(100):
            began_ns = time.monotonic_ns()
            size = 300 + number
            await cluster.annotate("web", {MEMORY: f"{size}Mi"})
            await cluster.until_told("web", size * MIB, 2)
            waits.append((cluster.answers("web")[-1]["at_ns"] - began_ns) / 1e9)
        assert max(waits) <= 1.0, sorted(waits)[-10:]


async def test_b11_a_bad_value_makes_an_event_and_changes_nothing(short_folder: Path) -> None:
    async with whole_cluster(short_folder) as cluster:
        await cluster.create_pod("web", {MEMORY: "1Gi"})
        await cluster.until_told("web", 1024 * MIB, 20)
        await cluster.annotate("web", {MEMORY: "lots"})
        async with asyncio.timeout(5):
            while not any("lots" in event["message"] for event in await cluster.events("web")):
                await asyncio.sleep(0.02)
        assert [answer["total_bytes"] for answer in cluster.answers("web")] == [1024 * MIB]
        await cluster.annotate("web", {MEMORY: None})
        await cluster.until(lambda: cluster.answers("web")[-1]["total_bytes"] > 1024 * MIB, 2, "the whole card")


async def test_with_the_hub_cut_a_pod_has_the_default_and_its_own_within_two_seconds_after(short_folder: Path) -> None:
    async with whole_cluster(short_folder, NVSHARE_DEFAULT_MEMORY="512Mi") as cluster:
        await cluster.create_pod("first", {MEMORY: "1Gi"})
        await cluster.until_told("first", 1024 * MIB, 20)
        await cluster.hub.stop()
        await asyncio.sleep(1.5)  # until the node's probe has failed: nobody says so from outside
        await cluster.create_pod("web", {MEMORY: "2Gi"})
        await cluster.until_told("web", 512 * MIB, 10)
        await cluster.annotate("first", {MEMORY: "3Gi"})
        await cluster.hub.start()
        await cluster.until_told("web", 2048 * MIB, 2)
        await cluster.until_told("first", 3072 * MIB, 2)
        async with asyncio.timeout(10):
            while "QuotaDefault" not in {event["reason"] for event in await cluster.events("web")}:
                await asyncio.sleep(0.02)
