"""Events at the API server."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from nvshare.bus.api_access import Access
from nvshare.fake_api_server.faults import Action, Fault
from nvshare.fake_api_server.resources import EVENTS, Target
from nvshare.fake_api_server.server import FakeApiServer
from nvshare.fake_api_server.store import Store
from nvshare.quota_watcher.api import Api
from nvshare.quota_watcher.event_writer import EventWriter
from nvshare.quota_watcher.events import Notice

NOTICE = Notice("default", "web", "uid-1", True, "QuotaInvalid", "nvshare.com/gpu-core-limit is bad")


@pytest.fixture
async def api(server: FakeApiServer) -> AsyncIterator[Api]:
    async with Api(Access(server.url)) as api:
        yield api


def counts(store: Store) -> list[int]:
    return [event["count"] for event in store.all(EVENTS)]


async def test_the_same_event_is_counted_up(server: FakeApiServer, api: Api) -> None:
    writer = EventWriter(api)
    for _ in range(3):
        await writer.write(NOTICE)
    assert counts(server.store) == [3]


async def test_what_another_watcher_wrote_is_counted_on(server: FakeApiServer, api: Api) -> None:
    one, other = EventWriter(api), EventWriter(api)
    for writer in (one, other, other):
        await writer.write(NOTICE)
    assert counts(server.store) == [3]


async def test_an_event_that_the_server_forgot_is_written_anew(server: FakeApiServer, api: Api) -> None:
    writer = EventWriter(api)
    await writer.write(NOTICE)
    (event,) = server.store.all(EVENTS)
    server.store.delete(Target(EVENTS, "default", event["metadata"]["name"]), datetime.now(UTC))
    await writer.write(NOTICE)
    assert counts(server.store) == [1]


async def test_a_server_that_is_busy_is_asked_again(server: FakeApiServer, api: Api) -> None:
    server.faults.add(Fault(Action.STATUS, code=503, count=2))
    assert await EventWriter(api).write(NOTICE)
    assert counts(server.store) == [1]


@pytest.mark.parametrize("code", [403, 404, 422])
async def test_a_refusal_is_final(server: FakeApiServer, api: Api, code: int) -> None:
    server.faults.add(Fault(Action.STATUS, code=code))
    writer = EventWriter(api)
    assert await writer.write(NOTICE)
    assert (writer.counters.failed, len(server.requests)) == (1, 1)


async def test_too_many_that_wait_are_dropped_and_counted(api: Api) -> None:
    writer = EventWriter(api)
    for number in range(1100):
        writer.submit(replace(NOTICE, uid=str(number)))
    assert writer.counters.crowded_out == 100
