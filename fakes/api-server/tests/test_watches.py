"""Watches, in good order and in bad."""

import asyncio
import time

import pytest
from aiohttp import ClientError, ClientPayloadError

from api_client import PODS, Client, Stream
from nvshare.fake_api_server.faults import Action, Fault
from nvshare.fake_api_server.objects import pod
from nvshare.fake_api_server.server import FakeApiServer


async def test_a_watch_goes_on_from_its_version(client: Client, server: FakeApiServer) -> None:
    server.add(pod("a"))
    version = (await client.get("/api/v1/pods"))["metadata"]["resourceVersion"]
    server.add(pod("b"))
    stream = await client.watch(resourceVersion=version)
    await client.ask("PATCH", f"{PODS}/a", {"metadata": {"labels": {"x": "1"}}})
    await client.ask("DELETE", f"{PODS}/b")
    assert await stream.names(3) == [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]


async def test_a_watch_without_a_version_begins_with_all_that_is_there(client: Client, server: FakeApiServer) -> None:
    server.add(pod("a"))
    stream = await client.watch()
    server.add(pod("b"))
    assert await stream.names(2) == [("ADDED", "a"), ("ADDED", "b")]


async def test_the_event_of_a_deletion_carries_the_version_of_the_deletion(
    client: Client, server: FakeApiServer
) -> None:
    server.add(pod("a"))
    stream = await client.watch()
    _, there = await stream.next()
    await client.ask("DELETE", f"{PODS}/a")
    _, gone = await stream.next()
    assert gone["metadata"]["resourceVersion"] == server.store.version != there["metadata"]["resourceVersion"]


async def test_what_begins_and_ceases_to_be_selected_is_added_and_deleted(
    client: Client, server: FakeApiServer
) -> None:
    server.add(pod("a"))
    stream = await client.watch(labelSelector="app=x")
    for app in ("x", "y"):
        await client.ask("PATCH", f"{PODS}/a", {"metadata": {"labels": {"app": app}}})
    assert await stream.names(2) == [("ADDED", "a"), ("DELETED", "a")]


async def test_a_watch_ends_after_its_time_with_a_bookmark(client: Client, server: FakeApiServer) -> None:
    stream = await client.watch(allowWatchBookmarks="true", timeoutSeconds="1")
    kind, bookmark = await stream.next()
    assert (kind, bookmark["metadata"]["resourceVersion"]) == ("BOOKMARK", server.store.version)
    with pytest.raises(EOFError):
        await stream.next()


async def test_bookmarks_come_when_nothing_happens(client: Client, server: FakeApiServer) -> None:
    server.bookmark_seconds = 0.02
    stream = await client.watch(allowWatchBookmarks="true")
    assert [(await stream.next())[0] for _ in range(2)] == ["BOOKMARK", "BOOKMARK"]


@pytest.mark.parametrize("as_answer", [False, True])
async def test_a_version_that_is_forgotten_is_gone(client: Client, server: FakeApiServer, as_answer: bool) -> None:
    old = server.store.version
    server.add(pod("a"))
    server.store.compact()
    server.expired_as_answer = as_answer
    if as_answer:
        status, body = await client.ask("GET", "/api/v1/pods", query={"watch": "1", "resourceVersion": old})
        assert status == 410
    else:
        kind, body = await (await client.watch(resourceVersion=old)).next()
        assert kind == "ERROR"
    assert (body["kind"], body["code"], body["reason"]) == ("Status", 410, "Expired")


async def test_a_version_of_another_server_is_gone(client: Client) -> None:
    version = FakeApiServer().store.version
    kind, body = await (await client.watch(resourceVersion=version)).next()
    assert (kind, body["code"]) == ("ERROR", 410)


async def test_a_stream_breaks_off_in_the_middle_of_a_line(client: Client, server: FakeApiServer) -> None:
    server.faults.add(Fault(Action.CUT, verb="watch", after_events=1))
    server.add(pod("a"))
    server.add(pod("b"))
    stream = await client.watch()
    assert await stream.names(1) == [("ADDED", "a")]
    with pytest.raises((ClientPayloadError, ValueError)):
        await stream.next()


@pytest.mark.parametrize("action", [Action.GONE, Action.END, Action.CUT])
async def test_watches_that_run_are_ended(client: Client, server: FakeApiServer, action: Action) -> None:
    stream = await client.watch()
    _, body = await client.ask("POST", f"/fake/watches/{action}")
    assert body == {"watches": 1}
    if action is Action.GONE:
        assert (await stream.next())[1]["code"] == 410
    with pytest.raises((EOFError, ClientPayloadError, ValueError)):
        await stream.next()


async def test_events_are_held_back_while_bookmarks_come(client: Client, server: FakeApiServer) -> None:
    server.bookmark_seconds = 0.02
    before = server.store.version
    server.faults.add(Fault(Action.BOOKMARKS_ONLY, verb="watch"))
    stream = await client.watch(allowWatchBookmarks="true", resourceVersion=before)
    server.add(pod("a"))
    kind, bookmark = await stream.next()
    assert (kind, bookmark["metadata"]["resourceVersion"]) == ("BOOKMARK", before)


async def test_events_come_twice(client: Client, server: FakeApiServer) -> None:
    server.faults.add(Fault(Action.REPEAT, verb="watch"))
    server.add(pod("a"))
    assert await (await client.watch()).names(2) == [("ADDED", "a"), ("ADDED", "a")]


async def test_a_silent_stream_says_nothing_until_it_is_cut(client: Client, server: FakeApiServer) -> None:
    server.bookmark_seconds = 0.01
    server.faults.add(Fault(Action.SILENT, verb="watch"))
    stream = await client.watch(allowWatchBookmarks="true")
    server.add(pod("a"))
    with pytest.raises(TimeoutError):
        await read_within(stream, 0.1)
    server.end_watches(Action.END)
    with pytest.raises(EOFError):
        await stream.next()


async def test_a_frozen_server_says_nothing_and_loses_nothing(client: Client, server: FakeApiServer) -> None:
    stream = await client.watch()
    server.freeze()
    server.add(pod("a"))
    with pytest.raises(TimeoutError):
        await read_within(stream, 0.1)
    server.thaw()
    assert await stream.names(1) == [("ADDED", "a")]


async def read_within(stream: Stream, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await stream.next()


async def test_a_refusal_is_for_as_many_requests_as_it_says(client: Client) -> None:
    fault = {"action": "status", "code": 429, "verb": "list", "count": 2, "retry_after_seconds": 3}
    await client.ask("POST", "/fake/faults", fault)
    async with client.session.get(client.server.url + "/api/v1/pods") as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
    assert (await client.ask("GET", "/version"))[0] == 200
    assert [(await client.ask("GET", "/api/v1/pods"))[0] for _ in range(2)] == [429, 200]


async def test_a_request_that_hangs_is_closed_when_the_fault_is_removed(client: Client) -> None:
    _, answer = await client.ask("POST", "/fake/faults", {"action": "hang", "path": "/api/*"})
    # A client may ask once more by itself when its connection is closed, but not to create something.
    asked = asyncio.create_task(client.ask("POST", PODS, pod("a")))
    while not any(one.path == PODS for one in client.server.requests):
        await asyncio.sleep(0)
    await client.ask("DELETE", f"/fake/faults/{answer['number']}")
    with pytest.raises(ClientError):
        await asked


async def test_an_answer_comes_late(client: Client, server: FakeApiServer) -> None:
    server.faults.add(Fault(Action.DELAY, seconds=0.1))
    begun = time.monotonic()
    await client.get("/api/v1/pods")
    assert time.monotonic() - begun >= 0.1


async def test_a_fault_that_is_none_is_refused(client: Client) -> None:
    status, body = await client.ask("POST", "/fake/faults", {"action": "explode"})
    assert status == 400
    assert "bookmarks-only" in body["message"]


async def test_the_requests_are_remembered(client: Client) -> None:
    await client.get("/api/v1/pods", fieldSelector="spec.nodeName=n1")
    _, requests = await client.ask("GET", "/fake/requests")
    expected = {"verb": "list", "path": "/api/v1/pods", "query": {"fieldSelector": "spec.nodeName=n1"}}
    assert requests[-1] == expected
