"""Pods without a node get one that has what they ask for."""

from nvshare.fake_api_server.binder import place
from nvshare.fake_api_server.objects import node, pod
from nvshare.fake_api_server.resources import PODS
from nvshare.fake_api_server.server import FakeApiServer


def on(name: str, node_name: str, *, phase: str = "Running", shares: int = 1) -> dict[str, object]:
    return {**pod(name, node=node_name, shares=shares), "status": {"phase": phase}}


def test_a_pod_goes_where_the_fewest_are() -> None:
    assert place(pod("c"), [node("n1", shares=4), node("n2", shares=4)], [on("a", "n1")]) == "n2"


def test_a_node_that_has_too_few_left_is_none() -> None:
    assert place(pod("b", shares=2), [node("n1", shares=3)], [on("a", "n1", shares=2)]) is None


def test_what_ended_takes_nothing() -> None:
    assert place(pod("b"), [node("n1", shares=1)], [on("a", "n1", phase="Succeeded")]) == "n1"


def test_init_containers_take_no_more_than_one_of_them() -> None:
    with_init = pod("a", shares=1)
    with_init["spec"]["initContainers"] = [{**with_init["spec"]["containers"][0], "name": name} for name in "xy"]
    assert place(with_init, [node("n1", shares=1)], []) == "n1"


def test_a_node_that_is_not_ready_is_none() -> None:
    away = node("n1", shares=1)
    away["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    assert place(pod("a"), [away], []) is None


def test_a_pod_waits_for_a_node_with_room() -> None:
    server = FakeApiServer(bind_pods=True)
    server.add(pod("a"))
    assert "nodeName" not in server.store.all(PODS)[0]["spec"]
    server.add(node("n1", shares=1))
    server.add(pod("b"))
    assert [one["spec"].get("nodeName") for one in server.store.all(PODS)] == ["n1", None]
