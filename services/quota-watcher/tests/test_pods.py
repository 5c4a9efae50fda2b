"""Pods as the API server writes them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvshare.fake_api_server.objects import pod
from nvshare.fake_api_server.store import Store
from nvshare.quota_watcher.pods import MalformedPodError, parse_pod

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def stored(body: dict[str, Any]) -> Any:
    return Store().create_object(body, NOW)


def test_a_pod_is_read() -> None:
    body = pod("web", node="n1", annotations={"nvshare.com/gpu-core-limit": "30", "other": "x"})
    found = parse_pod(stored(body))
    assert (str(found), found.node, found.containers) == ("default/web", "n1", ("main",))
    assert found.created_unix_ns == int(NOW.timestamp()) * 10**9
    assert (found.shares, found.ended) == (True, False)
    assert found.annotations == {"nvshare.com/gpu-core-limit": "30"}


def test_init_containers_count() -> None:
    body = pod("web")
    body["spec"]["initContainers"] = [{**body["spec"]["containers"][0], "name": "first"}]
    del body["spec"]["containers"][0]["resources"]
    found = parse_pod(stored(body))
    assert (found.shares, found.containers) == (True, ("first", "main"))


def test_a_pod_that_asks_for_no_share() -> None:
    body = pod("web")
    body["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    assert not parse_pod(stored(body)).shares


@pytest.mark.parametrize(("phase", "ended"), [("Running", False), ("Succeeded", True), ("Failed", True)])
def test_a_pod_that_ended(phase: str, ended: bool) -> None:
    assert parse_pod({**stored(pod("web")), "status": {"phase": phase}}).ended is ended


documents = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["metadata", "spec", "uid", "name", "containers", "annotations"]), inner)
    ),
    max_leaves=10,
)


@given(documents)
def test_what_is_no_pod_is_refused(document: Any) -> None:
    with pytest.raises(MalformedPodError):
        parse_pod(document)
