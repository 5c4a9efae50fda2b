"""Requests to the API server, whose answers are what they may be in bad times."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from nvshare.bus.api_access import Access
from nvshare.fake_api_server.faults import Action, Fault
from nvshare.fake_api_server.objects import pod
from nvshare.fake_api_server.server import FakeApiServer
from nvshare.quota_watcher.api import Api, RefusedError, UnreachableError


@pytest.fixture
async def api(server: FakeApiServer) -> AsyncIterator[Api]:
    async with Api(Access(server.url), silence_seconds=0.3) as api:
        yield api


async def kinds(api: Api, version: str) -> list[str]:
    """The types of a watch's events until the stream ends."""
    return [kind async for kind, _ in api.watch_pods(version, 1)]


async def test_a_list_comes_in_pages(server: FakeApiServer, api: Api) -> None:
    for name in "abc":
        server.add(pod(name))
    first = await api.list_pods(2, "")
    last = await api.list_pods(2, first.continue_token)
    assert [item["metadata"]["name"] for item in first.items + last.items] == ["a", "b", "c"]
    assert (last.continue_token, last.version) == ("", first.version)


async def test_a_refusal_has_its_code_and_when_to_come_again(server: FakeApiServer, api: Api) -> None:
    server.faults.add(Fault(Action.STATUS, code=429, retry_after_seconds=7))
    with pytest.raises(RefusedError, match="by script") as raised:
        await api.list_pods(0, "")
    assert (raised.value.code, raised.value.retry_after_seconds) == (429, 7.0)


@pytest.mark.parametrize("action", [Action.GONE, Action.ERROR])
async def test_a_failure_in_the_stream_is_a_refusal(server: FakeApiServer, api: Api, action: Action) -> None:
    server.faults.add(Fault(action, verb="watch", code=500))
    with pytest.raises(RefusedError) as raised:
        await kinds(api, server.store.version)
    assert raised.value.code == (410 if action is Action.GONE else 500)


@pytest.mark.parametrize("action", [Action.RESET, Action.CUT, Action.SILENT])
async def test_a_stream_that_breaks_off_or_falls_silent_is_no_answer(
    server: FakeApiServer, api: Api, action: Action
) -> None:
    server.faults.add(Fault(action, verb="watch"))
    with pytest.raises(UnreachableError):
        await kinds(api, server.store.version)


async def test_a_stream_brings_bookmarks_and_ends(server: FakeApiServer, api: Api) -> None:
    server.bookmark_seconds = 0.2
    assert set(await kinds(api, server.store.version)) == {"BOOKMARK"}


async def test_a_pod_longer_than_a_packet_arrives_whole(server: FakeApiServer, api: Api) -> None:
    version = server.store.version
    server.add(pod("a", annotations={"long": "x" * 500_000}))
    events = api.watch_pods(version, 1)
    kind, item = await anext(events)
    assert (kind, len(item["metadata"]["annotations"]["long"])) == ("ADDED", 500_000)
    await events.aclose()


async def test_one_pod_is_asked_for(server: FakeApiServer, api: Api) -> None:
    server.add(pod("a"))
    assert (await api.pod("default", "a") or {})["metadata"]["name"] == "a"
    assert await api.pod("default", "b") is None


async def test_a_name_that_is_none_makes_no_request(server: FakeApiServer, api: Api) -> None:
    with pytest.raises(ValueError, match="no name in Kubernetes"):
        await api.pod("default", "../../nodes/n1")
    assert not server.requests


async def raw_server(answer: bytes) -> asyncio.Server:
    """Answers whatever is asked with these bytes, and closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + answer)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(handle, "127.0.0.1", 0)


@pytest.mark.parametrize(
    "body", [b"", b"not json", b"[]", b'{"items":{}}', b'{"metadata":{},"items":"x"}', b'{"metadata":[]}']
)
async def test_a_list_that_is_none_is_no_answer(body: bytes) -> None:
    await expect_no_answer(body, lambda api: api.list_pods(0, ""))


@pytest.mark.parametrize(
    "body", [b"nonsense\n", b"[]\n", b'{"type":1,"object":{}}\n', b'{"type":"ADDED","object":[]}\n', b'{"type":"ADD']
)
async def test_an_event_that_is_none_is_no_answer(body: bytes) -> None:
    await expect_no_answer(body, lambda api: kinds(api, "1"))


async def expect_no_answer(body: bytes, ask: Callable[[Api], Awaitable[object]]) -> None:
    server = await raw_server(body)
    async with server, Api(Access(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")) as api:
        with pytest.raises(UnreachableError):
            await ask(api)
