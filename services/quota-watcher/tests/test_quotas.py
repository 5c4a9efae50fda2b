"""The message that nodes read."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nvshare.quota_watcher.annotations import CORE_LIMIT, GROUP, MANAGED, MEMORY_LIMIT, PRIORITY, Values
from nvshare.quota_watcher.pods import Pod
from nvshare.quota_watcher.quotas import quota_of, same_quota, values_of
from nvshare.v1.kubernetes_pb2 import ContainerQuota
from nvshare.v1.node_pb2 import PRIORITY_BEST_EFFORT

POD = Pod("uid-1", "v1", "default", "web", "n1", 5 * 10**9, False, True, ("main", "side"), {})


def test_a_pod_without_annotations_has_an_entry_that_says_so() -> None:
    quota = quota_of(POD, {})
    assert (quota.uid, quota.namespace, quota.name, quota.node) == ("uid-1", "default", "web", "n1")
    assert (quota.created_unix_ns, quota.resource_version, quota.opted_out) == (5 * 10**9, "v1", False)
    assert not quota.containers


def test_what_is_not_annotated_is_absent() -> None:
    quota = quota_of(POD, {(PRIORITY, ""): "best-effort"})
    assert list(quota.containers) == [ContainerQuota(priority=PRIORITY_BEST_EFFORT)]


def test_the_entry_of_a_container_is_complete() -> None:
    values: Values = {(MEMORY_LIMIT, ""): 8, (CORE_LIMIT, ""): 30, (CORE_LIMIT, "side"): 50, (GROUP, ""): "a"}
    assert list(quota_of(POD, values).containers) == [
        ContainerQuota(memory_limit_bytes=8, core_limit_percent=30, group="a"),
        ContainerQuota(container="side", memory_limit_bytes=8, core_limit_percent=50, group="a"),
    ]


def test_a_pod_can_opt_out() -> None:
    assert quota_of(POD, {(MANAGED, ""): False}).opted_out
    assert not quota_of(POD, {(MANAGED, ""): True}).opted_out


def test_another_version_of_the_pod_is_no_other_quota() -> None:
    quota = quota_of(POD, {(CORE_LIMIT, ""): 30})
    assert same_quota(quota, quota_of(replace(POD, version="v2"), {(CORE_LIMIT, ""): 30}))
    assert not same_quota(quota, quota_of(POD, {(CORE_LIMIT, ""): 31}))


whole_pod = st.fixed_dictionaries(
    {}, optional={MEMORY_LIMIT: st.integers(1, 9), CORE_LIMIT: st.integers(1, 9), GROUP: st.just("a")}
)
one_container = st.fixed_dictionaries({}, optional={CORE_LIMIT: st.integers(10, 19), PRIORITY: st.just("normal")})


@given(whole_pod, one_container)
def test_what_was_in_force_can_be_read_back(for_all: dict[str, int | str], own: dict[str, int | str]) -> None:
    values = {(key, ""): value for key, value in for_all.items()} | {(key, "side"): value for key, value in own.items()}
    assert values_of(quota_of(POD, values)) == values
