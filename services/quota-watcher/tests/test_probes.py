"""The answers to kubelet's probes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession

from nvshare.bus.api_access import Access
from nvshare.fake_api_server.faults import Action, Fault
from nvshare.fake_api_server.objects import pod
from nvshare.fake_api_server.server import FakeApiServer
from nvshare.quota_watcher.api import Api
from nvshare.quota_watcher.health import health_server
from nvshare.quota_watcher.service import Watcher
from quota_bucket import MemoryBucket


async def probe(port: int, path: str) -> int:
    async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status


async def ready_within(port: int, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while await probe(port, "/readyz") != 200:
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(server: FakeApiServer, bucket: MemoryBucket) -> AsyncIterator[tuple[Watcher, int]]:
    async with Api(Access(server.url)) as api:
        watcher = Watcher(api, bucket)
        task = asyncio.create_task(watcher.run())
        async with health_server(lambda: watcher, 0, "127.0.0.1") as port:
            yield watcher, port
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_it_is_ready_when_all_quotas_are_published(server: FakeApiServer) -> None:
    server.add(pod("web"))
    bucket = MemoryBucket(away=True)
    async with running(server, bucket) as (_, port):
        assert await probe(port, "/readyz") == 503
        bucket.away = False
        await ready_within(port, 5)


async def test_it_is_alive_while_it_tries(server: FakeApiServer) -> None:
    server.faults.add(Fault(Action.STATUS, code=500))
    async with running(server, MemoryBucket()) as (_, port):
        assert await probe(port, "/livez") == 200


async def test_it_is_dead_when_nothing_is_tried_any_more(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvshare.quota_watcher.health._STUCK_SECONDS", 0.0)
    async with running(server, MemoryBucket()) as (_, port):
        await ready_within(port, 5)
        assert await probe(port, "/livez") == 503


async def test_it_is_alive_and_not_ready_while_it_waits_for_the_hub() -> None:
    async with health_server(lambda: None, 0, "127.0.0.1") as port:
        assert (await probe(port, "/livez"), await probe(port, "/readyz")) == (200, 503)
