"""`python -m nvshare.quota_watcher` between an API server and a real hub."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nvshare.bus.connection import Bus
from nvshare.bus.credentials import NodeKeys
from nvshare.bus.hub import Hub
from nvshare.bus.hub_access import HubAccess
from nvshare.bus.hub_server import QUOTAS, HubOptions, HubServer
from nvshare.bus.nats_server import NatsServer
from nvshare.fake_api_server.faults import Action
from nvshare.fake_api_server.objects import pod
from nvshare.fake_api_server.resources import EVENTS, PODS, Target
from nvshare.fake_api_server.server import FakeApiServer
from nvshare.quota_watcher.__main__ import main
from nvshare.quota_watcher.annotations import CORE_LIMIT
from nvshare.quota_watcher.quotas import values_of
from nvshare.v1.kubernetes_pb2 import PodNotice, PodQuota
from nvshare.v1.node_pb2 import Pod

PASSWORD = "of-a-test"


@dataclass
class Seen:
    """What a reader of the bucket sees: core limits by the pods' names."""

    cores: dict[str, int] = field(default_factory=dict)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __call__(self, quotas: Mapping[str, PodQuota], _: frozenset[str]) -> None:
        async with self._changed:
            found = {quota.name: values_of(quota).get((CORE_LIMIT, ""), 0) for quota in quotas.values()}
            self.cores = {name: int(limit) for name, limit in found.items()}
            self._changed.notify_all()

    async def until(self, cores: dict[str, int], seconds: float = 20.0) -> float:
        """Waits until it is so; the seconds that took. Raises TimeoutError."""
        begun = time.monotonic()
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: self.cores == cores)
        return time.monotonic() - begun


@pytest.fixture
async def hub_server(tmp_path: Path) -> AsyncIterator[HubServer]:
    options = HubOptions(
        store=tmp_path / "store",
        port=-1,
        leaf_port=-1,
        nodes={"n1": PASSWORD},
        watcher_password=PASSWORD,
        tool_password=PASSWORD,
    )
    server = HubServer(options, tmp_path / "hub")
    await server.start()
    yield server
    await server.stop()


@contextlib.asynccontextmanager
async def at_the_hub(server: HubServer) -> AsyncIterator[Hub]:
    bus = await Bus.connect_hub(HubAccess(server.url, user="watcher", secret=PASSWORD), name="test")
    try:
        async with Hub(bus) as hub:
            yield hub
    finally:
        await bus.close()


@contextlib.asynccontextmanager
async def on_a_node(server: HubServer, folder: Path) -> AsyncIterator[Hub]:
    """The hub as the node `n1` sees it."""
    keys = NodeKeys.generate("n1")
    leaf = NatsServer(keys, folder, hub=HubAccess(server.leaf_url, user="leaf-n1", secret=PASSWORD))
    await leaf.start()
    bus = await Bus.connect(url=leaf.url, jwt=keys.signer.service_jwt("device-plugin"), name="device-plugin")
    try:
        async with Hub(bus) as hub:
            yield hub
    finally:
        await bus.close()
        await leaf.stop()


@pytest.fixture
async def seen(hub_server: HubServer) -> AsyncIterator[Seen]:
    """The bucket as somebody else reads it."""
    async with at_the_hub(hub_server) as hub:
        seen = Seen()
        task = asyncio.create_task(hub.bucket(QUOTAS, PodQuota).mirror(seen))
        yield seen
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@dataclass
class Process:
    """The watcher as a process."""

    environment: dict[str, str]
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.running = subprocess.Popen(
            [sys.executable, "-m", "nvshare.quota_watcher"], env={**os.environ, **self.environment}
        )

    def kill(self) -> None:
        assert self.running is not None
        self.running.kill()
        self.running.wait()

    def stop(self) -> int:
        assert self.running is not None
        self.running.terminate()
        return self.running.wait(timeout=10)


@pytest.fixture
def process(server: FakeApiServer, hub_server: HubServer, tmp_path: Path) -> Iterator[Process]:
    secret = tmp_path / "secret"
    secret.write_text(f"watcher:{PASSWORD}")
    process = Process(
        {
            "NVSHARE_API_SERVER": server.url,
            "NVSHARE_HUB_URL": hub_server.url,
            "NVSHARE_HUB_CREDENTIALS": str(secret),
            "NVSHARE_PARENT_DEATH": "1",
        }
    )
    process.start()
    yield process
    if process.running is not None and process.running.poll() is None:
        process.kill()


def annotate(server: FakeApiServer, name: str, cores: str) -> None:
    server.store.patch(Target(PODS, "default", name), {"metadata": {"annotations": {CORE_LIMIT: cores}}})


def add(server: FakeApiServer, name: str, cores: str, *, node: str = "") -> None:
    server.add(pod(name, annotations={CORE_LIMIT: cores}, node=node))


async def test_b9_annotations_reach_the_hub_within_200_ms(server: FakeApiServer, process: Process, seen: Seen) -> None:
    add(server, "web", "1")
    await seen.until({"web": 1})
    took = []
    for cores in range(2, 52):
        annotate(server, "web", str(cores))
        took.append(await seen.until({"web": cores}))
    assert max(took) <= 0.2
    assert process.stop() == 0


async def test_b9_over_restarts_of_the_hub_and_cuts_nothing_is_lost(
    server: FakeApiServer, process: Process, seen: Seen, hub_server: HubServer
) -> None:
    add(server, "a", "10")
    add(server, "b", "10")
    await seen.until({"a": 10, "b": 10})
    await hub_server.kill()
    annotate(server, "a", "20")
    server.store.delete(Target(PODS, "default", "b"), datetime.now(UTC))
    server.store.compact()
    server.end_watches(Action.CUT)
    await hub_server.start()
    assert await seen.until({"a": 20}) <= 2.0


@pytest.mark.heavy
async def test_a_watcher_that_was_killed_finds_what_changed(
    server: FakeApiServer, process: Process, seen: Seen
) -> None:
    for name in "ab":
        add(server, name, "10")
    await seen.until({"a": 10, "b": 10})
    process.kill()
    annotate(server, "a", "500")
    server.store.delete(Target(PODS, "default", "b"), datetime.now(UTC))
    add(server, "c", "30")
    process.start()
    await seen.until({"a": 10, "c": 30})


async def test_e16_notices_of_nodes_become_events_also_over_a_kill(
    server: FakeApiServer, process: Process, hub_server: HubServer, seen: Seen, tmp_path: Path
) -> None:
    add(server, "web", "10", node="n1")
    await seen.until({"web": 10})
    process.kill()
    uid = server.store.all(PODS)[0]["metadata"]["uid"]
    notice = PodNotice(pod=Pod(namespace="default", name="web", uid=uid), reason="QuotaApplied", text="10 % of 1 GPU")
    async with on_a_node(hub_server, tmp_path / "leaf") as hub:
        async with asyncio.timeout(20):
            while not await hub.publish_kept("nvshare.v1.node.n1.notice", notice):
                await asyncio.sleep(0.05)
    process.start()
    async with asyncio.timeout(20):
        while not (events := server.store.all(EVENTS)):
            await asyncio.sleep(0.01)
    assert (events[0]["reason"], events[0]["involvedObject"]["uid"]) == ("QuotaApplied", uid)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "NVSHARE_KUBECONFIG or NVSHARE_API_SERVER"),
        ({"NVSHARE_API_SERVER": "x"}, "write it like http"),
        ({"NVSHARE_API_SERVER": "http://127.0.0.1:1", "NVSHARE_HUB_URL": "x"}, "no address of a hub"),
        ({"NVSHARE_HEALTH_PORT": "x"}, "health_port"),
    ],
)
def test_a_setting_that_cannot_be_used_is_said(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("NVSHARE_API_SERVER", "NVSHARE_KUBECONFIG", "NVSHARE_HUB_URL", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
