"""What should be in the bucket gets there, whatever the hub does meanwhile."""

import asyncio
import contextlib
import random
from dataclasses import dataclass, field

import pytest

from nvshare.quota_watcher.publisher import Publisher
from nvshare.v1.kubernetes_pb2 import PodQuota
from quota_bucket import MemoryBucket


@dataclass
class BadBucket(MemoryBucket):
    """Loses a third of what it is told, and says of another third that it lost it; until it is `healed`."""

    chance: random.Random = field(default_factory=random.Random)
    healed: bool = False

    async def put(self, key: str, message: PodQuota) -> bool:
        await asyncio.sleep(0)
        arrives, answers = self._luck()
        return (await super().put(key, message) and answers) if arrives else False

    async def delete(self, key: str) -> bool:
        await asyncio.sleep(0)
        arrives, answers = self._luck()
        return (await super().delete(key) and answers) if arrives else False

    def _luck(self) -> tuple[bool, bool]:
        luck = 1.0 if self.healed else self.chance.random()
        return luck > 1 / 3, luck > 2 / 3


@pytest.mark.parametrize("seed", range(10))
async def test_in_the_end_the_bucket_holds_what_it_should(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvshare.quota_watcher.publisher._TRY_AGAIN_SECONDS", 0.0)
    chance = random.Random(seed)
    bucket = BadBucket({"old": PodQuota(uid="old", name="v0")}, chance=chance)
    wanted: dict[str, PodQuota] = {}
    publisher = Publisher(bucket, wanted)
    await publisher.read()
    task = asyncio.create_task(publisher.run())
    for number in range(300):
        uid = chance.choice(["a", "b", "c", "old"])
        match chance.choice(["put", "put", "delete", "lose", "read", "pass"]):
            case "put":
                wanted[uid] = PodQuota(uid=uid, name=f"v{number}")
                publisher.mark(uid)
            case "delete":
                wanted.pop(uid, None)
                publisher.mark(uid)
            case "lose":
                bucket.held.pop(uid, None)
            case "read":
                await publisher.read()
            case _:
                await asyncio.sleep(0)
    bucket.healed = True
    await publisher.read()
    for uid in publisher.superfluous:
        publisher.mark(uid)
    async with asyncio.timeout(5):
        while not publisher.settled:
            await asyncio.sleep(0)
    assert bucket.held == wanted
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_another_version_of_a_pod_is_not_written() -> None:
    bucket = MemoryBucket()
    wanted = {"a": PodQuota(uid="a", resource_version="1")}
    publisher = Publisher(bucket, wanted)
    task = asyncio.create_task(publisher.run())
    for version in "12":
        wanted["a"] = PodQuota(uid="a", resource_version=version)
        publisher.mark("a")
        async with asyncio.timeout(5):
            while not publisher.settled:
                await asyncio.sleep(0)
    assert bucket.puts == 1
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
