"""Objects as the API server makes, changes, lists and removes them."""

from typing import Any

import pytest
from aiohttp import ClientSession

from api_client import PODS, Client
from nvshare.fake_api_server.objects import pod
from nvshare.fake_api_server.server import FakeApiServer


async def test_a_new_pod_gets_what_the_server_gives(client: Client) -> None:
    status, made = await client.ask("POST", PODS, pod("web"))
    assert status == 201
    assert made["status"] == {"phase": "Pending"}
    assert {"uid", "creationTimestamp", "resourceVersion", "namespace"} <= made["metadata"].keys()


async def test_a_name_is_generated(client: Client) -> None:
    body = pod("web")
    body["metadata"] = {"generateName": "web-"}
    names = {(await client.ask("POST", PODS, body))[1]["metadata"]["name"] for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith("web-") and len(name) == 9 for name in names)


async def test_a_name_is_given_once(client: Client) -> None:
    await client.ask("POST", PODS, pod("web"))
    status, body = await client.ask("POST", PODS, pod("web"))
    assert (status, body["kind"], body["reason"]) == (409, "Status", "AlreadyExists")


async def test_each_change_has_a_version_of_its_own_and_no_change_has_none(client: Client) -> None:
    first = (await client.ask("POST", PODS, pod("web")))[1]["metadata"]
    patch = {"metadata": {"annotations": {"a": "1"}}}
    second = (await client.ask("PATCH", f"{PODS}/web", patch))[1]["metadata"]
    third = (await client.ask("PATCH", f"{PODS}/web", patch))[1]["metadata"]
    assert first["resourceVersion"] != second["resourceVersion"] == third["resourceVersion"]
    assert first["uid"] == second["uid"]


async def test_a_patch_merges_and_a_null_removes(client: Client) -> None:
    await client.ask("POST", PODS, pod("web", annotations={"a": "1", "b": "2"}))
    await client.ask("PATCH", f"{PODS}/web", {"metadata": {"annotations": {"a": None, "c": "3"}}})
    assert (await client.get(f"{PODS}/web"))["metadata"]["annotations"] == {"b": "2", "c": "3"}


async def test_a_change_to_an_older_version_is_a_conflict(client: Client) -> None:
    _, read = await client.ask("POST", PODS, pod("web"))
    await client.ask("PATCH", f"{PODS}/web", {"metadata": {"labels": {"a": "1"}}})
    status, body = await client.ask("PUT", f"{PODS}/web", {**read, "metadata": {**read["metadata"], "labels": {}}})
    assert (status, body["reason"]) == (409, "Conflict")


async def test_the_status_is_changed_by_its_subresource_alone(client: Client) -> None:
    await client.ask("POST", PODS, pod("web"))
    await client.ask("PATCH", f"{PODS}/web", {"status": {"phase": "Failed"}})
    assert (await client.get(f"{PODS}/web"))["status"]["phase"] == "Pending"
    change = {"metadata": {"labels": {"a": "1"}}, "status": {"phase": "Running"}}
    await client.ask("PATCH", f"{PODS}/web/status", change)
    now = await client.get(f"{PODS}/web")
    assert (now["status"]["phase"], now["metadata"]["labels"]) == ("Running", {})


async def test_the_node_of_a_pod_is_set_by_its_binding_alone(client: Client) -> None:
    await client.ask("POST", PODS, pod("web"))
    assert (await client.ask("PATCH", f"{PODS}/web", {"spec": {"nodeName": "n1"}}))[0] == 422
    binding = {"kind": "Binding", "target": {"kind": "Node", "name": "n1"}}
    assert (await client.ask("POST", f"{PODS}/web/binding", binding))[0] == 201
    assert (await client.ask("POST", f"{PODS}/web/binding", binding))[0] == 409
    assert (await client.get(f"{PODS}/web"))["spec"]["nodeName"] == "n1"


async def test_a_pod_on_a_node_is_deleted_in_two_steps(client: Client) -> None:
    await client.ask("POST", PODS, pod("web", node="n1"))
    _, ending = await client.ask("DELETE", f"{PODS}/web")
    assert ending["metadata"]["deletionGracePeriodSeconds"] == 30
    assert "deletionTimestamp" in (await client.get(f"{PODS}/web"))["metadata"]
    await client.ask("DELETE", f"{PODS}/web", {"gracePeriodSeconds": 0})
    assert (await client.ask("GET", f"{PODS}/web"))[0] == 404


async def test_a_pod_without_a_node_is_deleted_at_once(client: Client) -> None:
    await client.ask("POST", PODS, pod("web"))
    await client.ask("DELETE", f"{PODS}/web")
    assert (await client.ask("GET", f"{PODS}/web"))[0] == 404


async def test_a_deletion_for_another_uid_is_refused(client: Client) -> None:
    await client.ask("POST", PODS, pod("web"))
    status, _ = await client.ask("DELETE", f"{PODS}/web", {"preconditions": {"uid": "other"}})
    assert status == 409


async def test_a_selection_is_deleted(client: Client, server: FakeApiServer) -> None:
    for name, app in (("a", "x"), ("b", "x"), ("c", "y")):
        server.add(pod(name, labels={"app": app}))
    await client.ask("DELETE", PODS, query={"labelSelector": "app=x"})
    assert [item["metadata"]["name"] for item in (await client.get(PODS))["items"]] == ["c"]


async def test_an_event_belongs_to_the_namespace_of_what_it_is_about(client: Client) -> None:
    event = {"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": "other", "name": "web"}}
    assert (await client.ask("POST", "/api/v1/namespaces/default/events", event))[0] == 422
    assert (await client.ask("POST", "/api/v1/namespaces/other/events", event))[0] == 201
    status, body = await client.ask("PATCH", "/api/v1/namespaces/other/events/e", {"count": 2})
    assert (status, body["count"]) == (200, 2)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"fieldSelector": "spec.nodeName=n1"}, ["a", "b"]),
        ({"fieldSelector": "metadata.name=a"}, ["a"]),
        ({"fieldSelector": "spec.nodeName!=n1,status.phase=Pending"}, ["c"]),
        ({"labelSelector": "app=x"}, ["a", "c"]),
        ({"labelSelector": "app in (y, z)"}, ["b"]),
        ({"labelSelector": "app notin (y),tier"}, ["c"]),
        ({"labelSelector": "!tier"}, ["a", "b"]),
        ({"labelSelector": "app!=x", "fieldSelector": "spec.nodeName=n1"}, ["b"]),
    ],
)
async def test_a_list_is_selected(
    client: Client, server: FakeApiServer, query: dict[str, str], names: list[str]
) -> None:
    server.add(pod("a", node="n1", labels={"app": "x"}))
    server.add(pod("b", node="n1", labels={"app": "y"}))
    server.add(pod("c", namespace="other", labels={"app": "x", "tier": "1"}))
    listing = await client.get("/api/v1/pods", **query)
    assert [item["metadata"]["name"] for item in listing["items"]] == names


@pytest.mark.parametrize("query", [{"fieldSelector": "spec.hostname=a"}, {"labelSelector": "a = = b"}, {"limit": "x"}])
async def test_a_query_that_the_server_does_not_know_is_refused(client: Client, query: dict[str, str]) -> None:
    assert (await client.ask("GET", "/api/v1/pods", query=query))[0] == 400


async def pages(client: Client, **query: str) -> tuple[int, list[str], dict[str, Any]]:
    """Status, names and metadata of one page."""
    status, body = await client.ask("GET", "/api/v1/pods", query={"limit": "2", **query})
    names = [item["metadata"]["name"] for item in body.get("items", [])]
    return status, names, body["metadata"]


async def test_the_pages_of_a_list_are_of_one_revision(client: Client, server: FakeApiServer) -> None:
    for name in "abc":
        server.add(pod(name))
    _, names, first = await pages(client)
    assert (names, first["remainingItemCount"]) == (["a", "b"], 1)
    await client.ask("DELETE", f"{PODS}/c")
    server.add(pod("d"))
    _, names, last = await pages(client, **{"continue": first["continue"]})
    assert (names, last["resourceVersion"]) == (["c"], first["resourceVersion"])
    assert "continue" not in last


async def test_a_continue_token_expires_with_its_revision(client: Client, server: FakeApiServer) -> None:
    for name in "abc":
        server.add(pod(name))
    _, _, first = await pages(client)
    server.add(pod("d"))
    server.store.compact()
    assert (await pages(client, **{"continue": first["continue"]}))[0] == 410


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/version", 200),
        ("/healthz", 200),
        ("/api/v1", 200),
        ("/api/v1/widgets", 404),
        ("/api/v1/namespaces/default/pods/none", 404),
    ],
)
async def test_what_is_there_and_what_is_not(client: Client, path: str, status: int) -> None:
    assert (await client.ask("GET", path))[0] == status


async def test_only_merge_patches_are_understood(client: Client, server: FakeApiServer) -> None:
    server.add(pod("web"))
    headers = {"Content-Type": "application/json-patch+json"}
    async with client.session.patch(f"{server.url}{PODS}/web", data="[]", headers=headers) as answer:
        assert answer.status == 415


async def test_who_has_no_token_is_refused() -> None:
    server = FakeApiServer(token="secret")
    await server.start()
    try:
        async with ClientSession() as session:
            client = Client(session, server)
            assert (await client.ask("GET", "/api/v1/pods"))[0] == 401
            session.headers["Authorization"] = "Bearer secret"
            assert (await client.ask("GET", "/api/v1/pods"))[0] == 200
    finally:
        await server.stop()
