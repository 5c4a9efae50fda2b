"""The watcher between an API server and a bucket: what is annotated is in the bucket, whatever happens."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from nvshare.bus.api_access import Access
from nvshare.bus.hub import NotNowError
from nvshare.fake_api_server.faults import Action, Fault
from nvshare.fake_api_server.objects import pod
from nvshare.fake_api_server.resources import EVENTS, PODS, Target
from nvshare.fake_api_server.server import FakeApiServer
from nvshare.quota_watcher import annotations
from nvshare.quota_watcher.annotations import CORE_LIMIT
from nvshare.quota_watcher.api import Api
from nvshare.quota_watcher.events import BURST
from nvshare.quota_watcher.service import Watcher
from nvshare.v1.kubernetes_pb2 import PodNotice
from nvshare.v1.node_pb2 import Pod
from quota_bucket import MemoryBucket

NODE = "nvshare.v1.node.n1.notice"


@dataclass
class Cluster:
    """An API server, a bucket, and as many watchers as a test starts."""

    server: FakeApiServer
    bucket: MemoryBucket = field(default_factory=MemoryBucket)

    def add(self, name: str, cores: str = "", *, node: str = "") -> str:
        """The UID of a new pod."""
        made = self.server.add(pod(name, annotations={CORE_LIMIT: cores} if cores else {}, node=node))
        return str(made["metadata"]["uid"])

    def annotate(self, name: str, cores: str | None) -> None:
        self.server.store.patch(target(name), {"metadata": {"annotations": {CORE_LIMIT: cores}}})

    def remove(self, name: str) -> None:
        self.server.store.delete(target(name), datetime.now(UTC))

    def finish(self, name: str) -> None:
        self.server.store.patch(Target(PODS, "default", name, "status"), {"status": {"phase": "Succeeded"}})

    async def until(self, cores: dict[str, int], seconds: float = 5.0) -> float:
        """Waits until the bucket holds exactly these core limits; the seconds that took. Raises TimeoutError."""
        begun = time.monotonic()
        await self.bucket.until(lambda: self.bucket.cores() == cores, seconds)
        return time.monotonic() - begun

    async def disturb(self, action: Action) -> None:
        """Lets `action` happen to the stream of the watcher, which it may not have opened yet."""
        await until(lambda: self.server.watches > 0)
        self.server.end_watches(action)

    async def events(self, count: int) -> list[dict[str, object]]:
        """Waits for so many events. Raises TimeoutError."""
        async with asyncio.timeout(5):
            while len(found := self.server.store.all(EVENTS)) < count:
                await asyncio.sleep(0.005)
        return [dict(event) for event in found]

    @contextlib.asynccontextmanager
    async def watcher(self) -> AsyncIterator[Watcher]:
        async with Api(Access(self.server.url), silence_seconds=1.0) as api:
            watcher = Watcher(api, self.bucket)
            task = asyncio.create_task(watcher.run())
            try:
                yield watcher
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


def target(name: str) -> Target:
    return Target(PODS, "default", name)


@pytest.fixture
def cluster(server: FakeApiServer) -> Cluster:
    return Cluster(server)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_b9_a_change_of_an_annotation_is_in_the_bucket_within_200_ms(cluster: Cluster) -> None:
    cluster.add("web", "10")
    async with cluster.watcher():
        await cluster.until({"web": 10})
        took = []
        for cores in range(20, 60):
            cluster.annotate("web", str(cores))
            took.append(await cluster.until({"web": cores}))
    assert max(took) <= 0.2


async def test_b10_an_annotation_that_is_removed_is_the_default_again(cluster: Cluster) -> None:
    cluster.add("web", "10")
    async with cluster.watcher():
        await cluster.until({"web": 10})
        cluster.annotate("web", None)
        await cluster.until({"web": 0})


async def test_a_pod_without_annotations_has_an_entry(cluster: Cluster) -> None:
    cluster.add("web")
    async with cluster.watcher():
        await cluster.until({"web": 0})


async def test_a_pod_that_asks_for_no_share_has_none(cluster: Cluster) -> None:
    body = pod("other", annotations={CORE_LIMIT: "30"})
    body["spec"]["containers"][0]["resources"] = {}
    cluster.server.add(body)
    cluster.add("web")
    async with cluster.watcher() as watcher:
        await until(lambda: watcher.ready)
    assert cluster.bucket.cores() == {"web": 0}


@pytest.mark.parametrize("end", [Cluster.remove, Cluster.finish])
async def test_a_pod_that_is_gone_or_has_ended_has_none(cluster: Cluster, end: Callable[[Cluster, str], None]) -> None:
    cluster.add("web", "10")
    cluster.add("other", "20")
    async with cluster.watcher():
        await cluster.until({"web": 10, "other": 20})
        end(cluster, "web")
        await cluster.until({"other": 20})


async def test_a_change_of_a_pod_that_is_none_of_its_quota_writes_nothing(cluster: Cluster) -> None:
    cluster.add("web", "10")
    async with cluster.watcher():
        await cluster.until({"web": 10})
        cluster.server.store.patch(target("web"), {"metadata": {"labels": {"a": "1"}}})
        cluster.add("later", "20")
        await cluster.until({"web": 10, "later": 20})
    assert cluster.bucket.puts == 2


@pytest.mark.parametrize("action", [Action.CUT, Action.GONE, Action.END, Action.ERROR])
async def test_b9_what_changed_while_a_stream_was_down_is_there_within_2_s(cluster: Cluster, action: Action) -> None:
    for name in "abc":
        cluster.add(name, "10")
    async with cluster.watcher():
        await cluster.until({"a": 10, "b": 10, "c": 10})
        await cluster.disturb(action)
        cluster.annotate("a", "20")
        cluster.remove("b")
        cluster.add("d", "30")
        if action is Action.GONE:
            cluster.server.store.compact()
        assert await cluster.until({"a": 20, "c": 10, "d": 30}) <= 2.0


@pytest.mark.parametrize("as_answer", [False, True])
async def test_b9_a_server_that_forgot_the_version_is_followed_again_within_2_s(
    cluster: Cluster, as_answer: bool
) -> None:
    cluster.server.expired_as_answer = as_answer
    cluster.add("a", "10")
    cluster.add("b", "10")
    async with cluster.watcher():
        await cluster.until({"a": 10, "b": 10})
        await until(lambda: cluster.server.watches > 0)
        refusing = cluster.server.faults.add(Fault(Action.STATUS, verb="watch", code=503))
        await cluster.disturb(Action.CUT)
        cluster.remove("a")
        cluster.annotate("b", "20")
        cluster.server.store.compact()
        cluster.server.remove_fault(refusing)
        assert await cluster.until({"b": 20}) <= 2.0


async def test_b9_a_server_that_was_started_again_is_followed_within_2_s(cluster: Cluster) -> None:
    cluster.add("a", "10")
    async with cluster.watcher():
        await cluster.until({"a": 10})
        await cluster.server.stop()
        cluster.annotate("a", "20")
        await asyncio.sleep(0.5)  # it is away for a while, in which the watcher tries less and less
        await cluster.server.start()
        assert await cluster.until({"a": 20}) <= 2.0


async def test_a_stream_that_fell_silent_is_given_up(cluster: Cluster) -> None:
    cluster.server.faults.add(Fault(Action.SILENT, verb="watch", count=1))
    cluster.add("a", "10")
    async with cluster.watcher():
        await cluster.until({"a": 10})
        cluster.annotate("a", "20")
        await cluster.until({"a": 20})


async def test_events_that_come_twice_or_late_change_nothing_else(cluster: Cluster) -> None:
    cluster.server.faults.add(Fault(Action.REPEAT, verb="watch"))
    cluster.server.faults.add(Fault(Action.DELAY, seconds=0.2))
    cluster.add("a", "10")
    async with cluster.watcher():
        await cluster.until({"a": 10})
        for cores in (20, 30):
            cluster.annotate("a", str(cores))
            await cluster.until({"a": cores})
    assert cluster.bucket.puts == 3


async def test_c5_a_server_that_takes_2_s_for_each_answer_is_followed(cluster: Cluster) -> None:
    cluster.server.faults.add(Fault(Action.DELAY, seconds=2.0))
    cluster.add("a", "10")
    async with cluster.watcher():
        await cluster.until({"a": 10})


async def test_what_changed_while_no_watcher_ran_is_found_when_one_starts(cluster: Cluster) -> None:
    for name in "abc":
        cluster.add(name, "10")
    async with cluster.watcher():
        await cluster.until({"a": 10, "b": 10, "c": 10})
    cluster.annotate("a", "20")
    cluster.remove("b")
    cluster.finish("c")
    async with cluster.watcher():
        await cluster.until({"a": 20})


async def test_e18_a_list_that_fails_half_way_removes_nothing(cluster: Cluster) -> None:
    for name in "abc":
        cluster.add(name, "10")
    async with cluster.watcher():
        await cluster.until({"a": 10, "b": 10, "c": 10})
    cluster.server.faults.add(Fault(Action.STATUS, verb="list", code=500))
    async with cluster.watcher():
        await until(lambda: sum(one.verb == "list" for one in cluster.server.requests) >= 4)
    assert (cluster.bucket.cores(), cluster.bucket.deletes) == ({"a": 10, "b": 10, "c": 10}, [])


async def test_a_pod_that_cannot_be_handled_keeps_no_other_from_its_quota(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = annotations.read

    def fail_for_99(texts: Mapping[str, str], *rest: Any) -> annotations.Reading:
        if texts.get(CORE_LIMIT) == "99":
            raise RuntimeError("a bug")
        return read(texts, *rest)

    monkeypatch.setattr("nvshare.quota_watcher.ledger.read", fail_for_99)
    cluster.add("a", "99")
    cluster.add("b", "20")
    async with cluster.watcher() as watcher:
        await cluster.until({"b": 20})
        assert watcher.failed_pods == 1


async def test_b11_a_bad_value_makes_an_event_and_changes_nothing(cluster: Cluster) -> None:
    uid = cluster.add("web", "10")
    async with cluster.watcher():
        await cluster.until({"web": 10})
        cluster.annotate("web", "500")
        (event,) = await cluster.events(1)
    assert (event["type"], event["reason"]) == ("Warning", "QuotaInvalid")
    assert "10 stays in force" in str(event["message"])
    assert isinstance(about := event["involvedObject"], dict)
    assert about["uid"] == uid
    assert cluster.bucket.cores() == {"web": 10}


async def test_b11_a_restart_counts_the_event_up_and_keeps_the_last_good_value(cluster: Cluster) -> None:
    cluster.add("web", "10")
    async with cluster.watcher():
        await cluster.until({"web": 10})
        cluster.annotate("web", "500")
        await cluster.events(1)
    async with cluster.watcher():
        await until(lambda: cluster.server.store.all(EVENTS)[0]["count"] == 2)
    assert len(cluster.server.store.all(EVENTS)) == 1
    assert cluster.bucket.cores() == {"web": 10}


async def test_c5_events_that_cannot_be_written_hold_nothing_up(cluster: Cluster) -> None:
    hanging = cluster.server.faults.add(Fault(Action.HANG, path="*/events*"))
    cluster.add("bad", "500")
    async with cluster.watcher():
        await cluster.until({"bad": 0})
        cluster.add("web", "10")
        assert await cluster.until({"bad": 0, "web": 10}) <= 0.5
        cluster.server.remove_fault(hanging)
        await cluster.events(1)


async def test_b9_the_hub_gets_what_changed_while_it_was_away(cluster: Cluster) -> None:
    cluster.add("a", "10")
    cluster.add("b", "10")
    async with cluster.watcher() as watcher:
        await cluster.until({"a": 10, "b": 10})
        cluster.bucket.away = True
        cluster.annotate("a", "20")
        cluster.remove("b")
        await until(lambda: not watcher.ready)
        cluster.bucket.away = False
        assert await cluster.until({"a": 20}) <= 2.0


async def test_a_hub_that_lost_everything_gets_everything_again(cluster: Cluster) -> None:
    cluster.add("a", "10")
    async with cluster.watcher() as watcher:
        await cluster.until({"a": 10})
        cluster.bucket.held.clear()
        watcher.hub_changed(True)
        await cluster.until({"a": 10})


async def test_a_watcher_that_starts_without_the_hub_waits_for_it(cluster: Cluster) -> None:
    cluster.bucket.away = True
    cluster.add("a", "10")
    async with cluster.watcher() as watcher:
        begun = watcher.follower.active_at
        await until(lambda: watcher.follower.active_at > begun)
        cluster.bucket.away = False
        await cluster.until({"a": 10})


async def test_two_watchers_at_once_do_no_harm(cluster: Cluster) -> None:
    cluster.add("a", "10")
    async with cluster.watcher(), cluster.watcher():
        await cluster.until({"a": 10})
        cluster.add("bad", "500")
        await cluster.until({"a": 10, "bad": 0})
        cluster.annotate("a", "20")
        cluster.remove("bad")
        await cluster.until({"a": 20})
        await until(lambda: len(cluster.server.store.all(EVENTS)) == 1)


async def test_an_entry_of_a_pod_that_this_watcher_has_not_seen_yet_stays(cluster: Cluster) -> None:
    cluster.add("a", "10")
    async with cluster.watcher() as watcher:
        await cluster.until({"a": 10})
        # Another watcher is ahead: this one's stream is silent.
        await cluster.disturb(Action.SILENT)
        cluster.add("b", "20")
        async with cluster.watcher():
            await cluster.until({"a": 10, "b": 20})
        asked = len(cluster.server.requests)
        watcher.hub_changed(True)
        await until(lambda: any(one.path.endswith("/pods/b") for one in list(cluster.server.requests)[asked:]))
        await until(lambda: watcher.ready)
    assert cluster.bucket.cores() == {"a": 10, "b": 20}


def notice(name: str = "web", uid: str = "", reason: str = "QuotaApplied") -> PodNotice:
    return PodNotice(pod=Pod(namespace="default", name=name, uid=uid, container="main"), reason=reason, text="30 %")


async def test_e16_a_notice_of_a_node_becomes_an_event_on_the_pod(cluster: Cluster) -> None:
    uid = cluster.add("web", "30", node="n1")
    async with cluster.watcher() as watcher:
        await cluster.until({"web": 30})
        await watcher.handle_notice(NODE, notice())
    (event,) = await cluster.events(1)
    about = event["involvedObject"]
    assert isinstance(about, dict)
    assert (event["type"], event["reason"], event["message"]) == ("Normal", "QuotaApplied", "30 %")
    assert (about["uid"], about["fieldPath"]) == (uid, "spec.containers{main}")


@pytest.mark.parametrize("bad", [notice(name="../../secrets"), notice(reason="a b"), notice(uid="\n"), PodNotice()])
async def test_a_notice_that_is_nonsense_is_refused_and_counted(cluster: Cluster, bad: PodNotice) -> None:
    async with cluster.watcher() as watcher:
        await watcher.handle_notice(NODE, bad)
        assert watcher.refused_notices == 1
    assert not cluster.server.store.all(EVENTS)


@pytest.mark.parametrize("sender", ["n2", "worker-2", "worker"])
async def test_a_notice_about_a_pod_on_another_node_is_refused(cluster: Cluster, sender: str) -> None:
    cluster.add("web", "30", node="worker.1")
    async with cluster.watcher() as watcher:
        await cluster.until({"web": 30})
        await watcher.handle_notice(f"nvshare.v1.node.{sender}.notice", notice())
        assert watcher.refused_notices == 1
    assert not cluster.server.store.all(EVENTS)


async def test_a_node_whose_name_is_no_token_is_believed_of_its_own_pods(cluster: Cluster) -> None:
    cluster.add("web", "30", node="worker.1")
    async with cluster.watcher() as watcher:
        await cluster.until({"web": 30})
        await watcher.handle_notice("nvshare.v1.node.worker-1.notice", notice())
    await cluster.events(1)


async def test_a_notice_about_an_earlier_pod_of_the_name_or_one_without_a_node_is_refused(cluster: Cluster) -> None:
    cluster.add("web", "30", node="n1")
    cluster.add("waiting", "30")
    async with cluster.watcher() as watcher:
        await watcher.handle_notice(NODE, notice(uid="another"))
        await watcher.handle_notice(NODE, notice("waiting"))
        await watcher.handle_notice(NODE, notice("gone"))
        assert watcher.refused_notices == 3
    assert not cluster.server.store.all(EVENTS)


async def test_a_notice_about_a_pod_that_the_watcher_has_not_seen_yet_is_believed(cluster: Cluster) -> None:
    async with cluster.watcher() as watcher:
        await until(lambda: watcher.ready)
        await cluster.disturb(Action.SILENT)
        cluster.add("web", "30", node="n1")
        await watcher.handle_notice(NODE, notice())
    await cluster.events(1)


async def test_a_notice_comes_again_for_as_long_as_the_api_server_does_not_answer(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvshare.quota_watcher.event_writer._PATIENCE_SECONDS", 0.02)
    cluster.add("web", "30", node="n1")
    async with cluster.watcher() as watcher:
        await cluster.until({"web": 30})
        cluster.server.faults.add(Fault(Action.HANG, path="*/events*"))
        for _ in range(2 * BURST):  # tries that do not count against what a pod may have of events
            with pytest.raises(NotNowError):
                await watcher.handle_notice(NODE, notice())
        cluster.server.clear_faults()
        await watcher.handle_notice(NODE, notice())
    assert len(await cluster.events(1)) == 1
