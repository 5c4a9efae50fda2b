"""What is kept at the hub, seen from a node through the leaf: buckets, kept messages, and whether the hub answers."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from services.bus.tests.conftest import hub_access

from nvshare.bus.bucket import Bucket
from nvshare.bus.connection import Bus
from nvshare.bus.credentials import NodeKeys
from nvshare.bus.hub import NOTICES, Hub, NotNowError
from nvshare.bus.hub_server import ALLOCATIONS, QUOTAS, HubServer
from nvshare.bus.nats_server import NatsServer
from nvshare.v1.kubernetes_pb2 import PodNotice, PodQuota
from nvshare.v1.node_pb2 import Allocation

UNKNOWN_FIELD = b"\xf8\x7f\x01"  # field 2047, varint 1


class Mirrored:
    """What a mirror told."""

    def __init__(self) -> None:
        self.values: Mapping[str, PodQuota] = {}
        self.told: list[frozenset[str]] = []
        self._changed = asyncio.Condition()

    async def __call__(self, values: Mapping[str, PodQuota], changed: frozenset[str]) -> None:
        async with self._changed:
            self.values = values
            self.told.append(changed)
            self._changed.notify_all()

    @property
    def names(self) -> dict[str, str]:
        return {key: quota.name for key, quota in self.values.items()}

    async def until(self, names: dict[str, str], seconds: float = 5) -> None:
        """Waits until it was told that the bucket has these keys, with pods of these names."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: bool(self.told) and self.names == names)


@asynccontextmanager
async def mirrored(bucket: Bucket[PodQuota], read_again_seconds: float = 30) -> AsyncIterator[Mirrored]:
    seen = Mirrored()
    task = asyncio.create_task(bucket.mirror(seen, read_again_seconds))
    yield seen
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@asynccontextmanager
async def kept_notices(hub: Hub) -> AsyncIterator["asyncio.Queue[tuple[str, str]]"]:
    """Subject and reason of each kept notice."""
    read: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    task = asyncio.create_task(
        hub.consume_kept(NOTICES, "events", PodNotice, lambda subject, one: read.put_nowait((subject, one.reason)))
    )
    yield read
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.fixture
async def node(keys: NodeKeys, leaf: NatsServer) -> AsyncIterator[Hub]:
    """The hub as a service of the node sees it."""
    bus = await Bus.connect(url=leaf.url, jwt=keys.signer.service_jwt("device-plugin"), name="device-plugin")
    async with Hub(bus) as hub:
        await becomes(hub, reachable=True)
        yield hub
    await bus.close()


@pytest.fixture
async def watcher_bus(hub_server: HubServer) -> AsyncIterator[Bus]:
    bus = await Bus.connect_hub(hub_access(hub_server.url, "watcher"), name="quota-watcher")
    yield bus
    await bus.close()


@pytest.fixture
async def watcher(watcher_bus: Bus) -> AsyncIterator[Hub]:
    """The hub as quota-watcher sees it, at the hub itself."""
    async with Hub(watcher_bus) as hub:
        yield hub


async def becomes(hub: Hub, *, reachable: bool, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while hub.reachable != reachable:
            await asyncio.sleep(0.005)


async def arrives(write: Callable[[], Awaitable[bool]]) -> None:
    """Writes until the hub has it."""
    async with asyncio.timeout(5):
        while not await write():
            await asyncio.sleep(0.005)


async def test_what_the_watcher_puts_the_node_sees(node: Hub, watcher: Hub) -> None:
    quotas = watcher.bucket(QUOTAS, PodQuota)
    assert await quotas.put("u-1", PodQuota(name="before"))
    async with mirrored(node.bucket(QUOTAS, PodQuota)) as seen:
        await seen.until({"u-1": "before"})
        assert await quotas.put("u-1", PodQuota(name="after"))
        await seen.until({"u-1": "after"})
        assert await quotas.put("u-2", PodQuota(name="another"))
        await seen.until({"u-1": "after", "u-2": "another"})
        assert await quotas.delete("u-1")
        await seen.until({"u-2": "another"})
    assert seen.told == [frozenset({"u-1"}), frozenset({"u-1"}), frozenset({"u-2"}), frozenset({"u-1"})]


async def test_an_empty_bucket_is_told_once(node: Hub) -> None:
    async with mirrored(node.bucket(QUOTAS, PodQuota)) as seen:
        await seen.until({})
    assert seen.told == [frozenset()]


async def test_read_all_is_what_the_bucket_has_now(node: Hub) -> None:
    allocations = node.bucket(ALLOCATIONS, Allocation)
    assert await allocations.read_all() == {}
    for name in ("a", "b", "c"):
        assert await allocations.put(f"node-1.{name}", Allocation(id=name))
    assert await allocations.delete("node-1.b")
    assert await allocations.read_all() == {"node-1.a": Allocation(id="a"), "node-1.c": Allocation(id="c")}


async def test_a_bucket_of_many_values_is_read_whole(node: Hub, watcher: Hub) -> None:
    quotas = watcher.bucket(QUOTAS, PodQuota)
    async with asyncio.TaskGroup() as tasks:
        for number in range(600):
            tasks.create_task(quotas.put(f"u-{number}", PodQuota(name=str(number))))
    async with mirrored(node.bucket(QUOTAS, PodQuota)) as seen:
        await seen.until({f"u-{number}": str(number) for number in range(600)})
    assert len(seen.told) == 1


async def test_a_value_that_cannot_be_parsed_changes_nothing(
    node: Hub, watcher: Hub, watcher_bus: Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    quotas = watcher.bucket(QUOTAS, PodQuota)
    assert await quotas.put("u-1", PodQuota(name="good"))
    bus = node.bus
    async with mirrored(node.bucket(QUOTAS, PodQuota), read_again_seconds=0) as seen:
        await seen.until({"u-1": "good"})
        for _ in range(2):
            await watcher_bus.request(f"$JS.hub.API.$KV.{QUOTAS}.u-1", b"\xff\xff", timeout_seconds=1)
        async with asyncio.timeout(5):
            while bus.malformed_messages < 2:  # also of the bucket when it is read again
                await asyncio.sleep(0.005)
        await quotas.put("u-2", PodQuota(name="next"))
        await seen.until({"u-1": "good", "u-2": "next"})
    assert capsys.readouterr().out.count("malformed message") == 1


async def test_e15_a_value_with_unknown_fields_counts_and_is_used(node: Hub, watcher_bus: Bus, watcher: Hub) -> None:
    assert await watcher.bucket(QUOTAS, PodQuota).put("u-0", PodQuota())
    value = PodQuota(name="newer").SerializeToString() + UNKNOWN_FIELD
    await watcher_bus.request(f"$JS.hub.API.$KV.{QUOTAS}.u-1", value, timeout_seconds=1)
    read = await node.bucket(QUOTAS, PodQuota).read_all()
    assert read is not None
    assert read["u-1"].name == "newer"
    assert node.bus.unknown_messages == 1


async def test_a_mirror_reads_a_bucket_once_and_then_follows_it(
    node: Hub, watcher: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvshare.bus.jetstream._PULL_SECONDS", 0.05)
    asked: list[str] = []
    ask = node.bus.ask

    async def count(subject: str, *rest: Any) -> None:
        asked.append(subject)
        await ask(subject, *rest)

    monkeypatch.setattr(node.bus, "ask", count)
    quotas = watcher.bucket(QUOTAS, PodQuota)
    for number in range(3):
        await quotas.put(f"u-{number}", PodQuota(name=str(number)))
    async with mirrored(node.bucket(QUOTAS, PodQuota)), asyncio.timeout(5):
        while len(asked) < 6:
            await asyncio.sleep(0.005)
    assert len(set(asked[:6])) == 1  # of one consumer


async def test_a_mirror_whose_handler_raises_goes_on(node: Hub, watcher: Hub) -> None:
    seen: asyncio.Queue[int] = asyncio.Queue()

    def handle(values: Mapping[str, PodQuota], changed: frozenset[str]) -> None:
        if len(values) == 1:
            raise RuntimeError("one is too few")
        seen.put_nowait(len(values))

    task = asyncio.create_task(node.bucket(QUOTAS, PodQuota).mirror(handle))
    assert await asyncio.wait_for(seen.get(), 5) == 0
    quotas = watcher.bucket(QUOTAS, PodQuota)
    await quotas.put("u-1", PodQuota())
    await quotas.put("u-2", PodQuota())
    assert await asyncio.wait_for(seen.get(), 5) == 2
    assert node.bus.failed_handlers == 1
    task.cancel()


@pytest.mark.parametrize("key", ["", "a.", ".a", "a..b", "a b", "a.*", "a.>", "x" * 256, "ä"])
async def test_a_key_that_could_mean_another_is_refused(key: str, watcher: Hub) -> None:
    with pytest.raises(ValueError, match="is no key"):
        await watcher.bucket(QUOTAS, PodQuota).put(key, PodQuota())


async def test_a_hub_that_was_away_is_said_and_nothing_raises(
    keys: NodeKeys, leaf: NatsServer, hub_server: HubServer
) -> None:
    told: list[bool] = []
    bus = await Bus.connect(url=leaf.url, jwt=keys.signer.service_jwt("device-plugin"), name="device-plugin")
    async with Hub(bus, on_reachable=told.append) as hub:
        await becomes(hub, reachable=True)
        await hub_server.kill()
        await becomes(hub, reachable=False)
        bucket = hub.bucket(ALLOCATIONS, Allocation)
        assert not await bucket.put("node-1.a", Allocation())
        assert not await bucket.delete("node-1.a")
        assert await bucket.read_all() is None
        assert not await hub.publish_kept("nvshare.v1.node.node-1.notice", PodNotice())
        await hub_server.start()
        await becomes(hub, reachable=True)
        assert await bucket.put("node-1.a", Allocation())
    assert told == [True, False, True]
    await bus.close()


async def test_the_nodes_own_server_away_is_no_error_either(leaf: NatsServer, node: Hub) -> None:
    async with mirrored(node.bucket(QUOTAS, PodQuota)) as seen:
        await seen.until({})
        await leaf.kill()
        await becomes(node, reachable=False)
        assert not await node.bucket(ALLOCATIONS, Allocation).put("node-1.a", Allocation())
        await leaf.start()
        await becomes(node, reachable=True)
        assert await node.bucket(ALLOCATIONS, Allocation).put("node-1.a", Allocation())


async def test_what_changed_while_the_hub_was_away_is_seen_when_it_is_back(
    node: Hub, watcher: Hub, hub_server: HubServer
) -> None:
    quotas = watcher.bucket(QUOTAS, PodQuota)
    await quotas.put("u-1", PodQuota(name="one"))
    await quotas.put("u-2", PodQuota(name="two"))
    async with mirrored(node.bucket(QUOTAS, PodQuota)) as seen:
        await seen.until({"u-1": "one", "u-2": "two"})
        await hub_server.kill()
        await becomes(node, reachable=False)
        assert seen.names == {"u-1": "one", "u-2": "two"}
        await hub_server.start()
        await arrives(lambda: quotas.delete("u-1"))
        await arrives(lambda: quotas.put("u-2", PodQuota(name="later")))
        await seen.until({"u-2": "later"}, seconds=2)


async def test_a_bucket_that_somebody_deleted_is_made_again(
    node: Hub, watcher: Hub, hub_server: HubServer, tmp_path: Path
) -> None:
    quotas = watcher.bucket(QUOTAS, PodQuota)
    await quotas.put("u-1", PodQuota(name="one"))
    async with mirrored(node.bucket(QUOTAS, PodQuota)) as seen:
        await seen.until({"u-1": "one"})
        await hub_server.kill()
        shutil.rmtree(tmp_path / "store")
        await hub_server.start()
        await seen.until({})
        await arrives(lambda: quotas.put("u-2", PodQuota(name="new")))
        await seen.until({"u-2": "new"})


async def test_a_kept_message_reaches_who_reads_later_and_once(node: Hub, watcher: Hub) -> None:
    notice = PodNotice(reason="QuotaDefault", time_unix_ns=1)
    for _ in range(2):  # as one does who got no answer
        assert await node.publish_kept("nvshare.v1.node.node-1.notice", notice)
    assert await node.publish_kept("nvshare.v1.node.node-1.notice", PodNotice(reason="QuotaApplied"))

    async with kept_notices(watcher) as read:
        got = [await asyncio.wait_for(read.get(), 5) for _ in range(2)]
    assert got == [("nvshare.v1.node.node-1.notice", reason) for reason in ("QuotaDefault", "QuotaApplied")]

    assert await node.publish_kept("nvshare.v1.node.node-1.notice", PodNotice(reason="QuotaRefused"))
    async with kept_notices(watcher) as read:  # goes on behind what was handled
        assert await asyncio.wait_for(read.get(), 5) == ("nvshare.v1.node.node-1.notice", "QuotaRefused")


async def test_a_kept_message_whose_handling_fails_comes_again(node: Hub, watcher: Hub) -> None:
    assert await node.publish_kept("nvshare.v1.node.node-1.notice", PodNotice(reason="QuotaApplied"))
    tries: asyncio.Queue[str] = asyncio.Queue()

    def handle(subject: str, notice: PodNotice) -> None:
        tries.put_nowait(notice.reason)
        if tries.qsize() == 1:
            raise RuntimeError("the API server is away")

    task = asyncio.create_task(watcher.consume_kept(NOTICES, "events", PodNotice, handle))
    async with asyncio.timeout(5):
        while tries.qsize() < 2:
            await asyncio.sleep(0.005)
    assert (watcher.bus.failed_handlers, watcher.poisonous_messages) == (1, 0)
    task.cancel()


async def test_a_kept_message_that_cannot_be_handled_now_is_not_given_up(
    node: Hub, watcher: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvshare.bus.hub._LONGEST_TRY_AGAIN_SECONDS", 0)
    assert await node.publish_kept("nvshare.v1.node.node-1.notice", PodNotice(reason="QuotaApplied"))
    tries: list[str] = []
    done = asyncio.Event()

    def handle(subject: str, notice: PodNotice) -> None:
        tries.append(notice.reason)
        if len(tries) < 12:
            raise NotNowError("the API server is away")
        done.set()

    task = asyncio.create_task(watcher.consume_kept(NOTICES, "events", PodNotice, handle))
    await asyncio.wait_for(done.wait(), 5)
    assert (watcher.bus.failed_handlers, watcher.poisonous_messages) == (0, 0)
    task.cancel()


async def test_kept_messages_that_wait_long_for_their_turn_come_once(
    node: Hub, watcher: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvshare.bus.hub._ACKNOWLEDGE_SECONDS", 0.5)
    for number in range(12):
        assert await node.publish_kept("nvshare.v1.node.node-1.notice", PodNotice(reason=f"r{number}"))
    seen: list[str] = []
    done = asyncio.Event()

    async def handle(subject: str, notice: PodNotice) -> None:
        await asyncio.sleep(0.08)  # all of them take longer than the hub waits for one
        seen.append(notice.reason)
        if notice.reason == "r11":
            done.set()

    task = asyncio.create_task(watcher.consume_kept(NOTICES, "events", PodNotice, handle))
    await asyncio.wait_for(done.wait(), 5)
    assert seen == [f"r{number}" for number in range(12)]
    task.cancel()


async def test_a_kept_message_that_cannot_be_parsed_is_given_up(node: Hub, watcher: Hub) -> None:
    assert await node.publish_kept("nvshare.v1.node.node-1.notice", PodNotice(reason="first"))
    await node.bus.request("nvshare.v1.node.node-1.notice", b"\xff\xff", timeout_seconds=1)
    assert await node.publish_kept("nvshare.v1.node.node-1.notice", PodNotice(reason="last"))
    async with kept_notices(watcher) as read:
        assert [(await asyncio.wait_for(read.get(), 5))[1] for _ in range(2)] == ["first", "last"]
    assert watcher.poisonous_messages == 1
