"""Which quota a container gets."""

import pytest

from nvshare.device_plugin.devices import Gpu
from nvshare.device_plugin.promises import Holding, Terms
from nvshare.device_plugin.quota_decision import applied_text, decide_quota, holding_of, refused_text
from nvshare.device_plugin.quotas import Quota, container_quota, newest_quota
from nvshare.device_plugin.records import DEFAULT, POD, Pod, Record
from nvshare.device_plugin.replicas import ReplicasError, parse_replicas
from nvshare.device_plugin.shares import Share
from nvshare.v1.kubernetes_pb2 import ContainerQuota, PodQuota
from nvshare.v1.node_pb2 import PRIORITY_BEST_EFFORT

GIB = 2**30
NODE_DEFAULT = Quota(memory_limit_bytes=2 * GIB)
RECORD = Record("ab12", (Share("GPU-0", 0),), 1, pod=Pod("default", "web", "", "app"), quota=NODE_DEFAULT)
TERMS = {"GPU-0": Terms(Gpu("GPU-0", 0, 16 * GIB), 10, 100)}


def pod(*containers: ContainerQuota, name: str = "web", uid: str = "uid-1", created: int = 1) -> PodQuota:
    return PodQuota(namespace="default", name=name, uid=uid, created_unix_ns=created, containers=containers)


def decide(said: PodQuota | None, record: Record = RECORD, others: tuple[Holding, ...] = ()) -> tuple[Record, str]:
    decision = decide_quota(record, said, NODE_DEFAULT, TERMS, [*others, holding_of(record)], 9)
    return decision.record, decision.refusal


def test_a_containers_own_annotation_comes_before_the_pods() -> None:
    said = pod(
        ContainerQuota(memory_limit_bytes=4 * GIB, weight=200),
        ContainerQuota(container="app", memory_limit_bytes=8 * GIB),
    )
    assert container_quota(said, "app", NODE_DEFAULT) == Quota(8 * GIB, weight=200)
    assert container_quota(said, "side", NODE_DEFAULT) == Quota(4 * GIB, weight=200)


def test_what_no_annotation_says_is_the_nodes_default() -> None:
    said = pod(ContainerQuota(priority=PRIORITY_BEST_EFFORT))
    assert container_quota(said, "app", NODE_DEFAULT) == Quota(2 * GIB, priority="best-effort")


def test_a_group_is_one_of_its_namespace() -> None:
    assert container_quota(pod(ContainerQuota(group="team")), "app", NODE_DEFAULT).group == "default/team"


def test_of_two_pods_with_one_name_the_later_one_counts() -> None:
    quotas = {"uid-1": pod(created=1), "uid-2": pod(uid="uid-2", created=2), "uid-3": pod(name="other", created=3)}
    assert newest_quota(quotas, "default", "web") == quotas["uid-2"]


def test_a_pod_with_a_known_uid_never_gets_the_quota_of_its_namesake() -> None:
    assert newest_quota({"uid-1": pod(created=1)}, "default", "web", "uid-2") is None


def test_an_annotation_is_put_in_force_with_its_source_and_time() -> None:
    record, refusal = decide(pod(ContainerQuota(memory_limit_bytes=4 * GIB)))
    assert (record.quota.memory_limit_bytes, record.quota_source, record.quota_since_unix_ns) == (4 * GIB, POD, 9)
    assert refusal == ""


def test_an_annotation_that_went_restores_the_default() -> None:
    record, _ = decide(pod(ContainerQuota(memory_limit_bytes=4 * GIB)))
    record, _ = decide(pod(), record)
    assert (record.quota, record.quota_source) == (NODE_DEFAULT, DEFAULT)


def test_e18_a_quota_that_is_not_known_any_more_stays() -> None:
    record, _ = decide(pod(ContainerQuota(memory_limit_bytes=4 * GIB)))
    assert decide(None, record) == (record, "")


def test_b4_a_quota_that_passes_the_cap_leaves_the_last_good_value() -> None:
    others = (Holding("other", {"GPU-0": 1}, 12 * GIB),)
    record, refusal = decide(pod(ContainerQuota(memory_limit_bytes=6 * GIB, core_limit_percent=30)), others=others)
    assert (record.quota.memory_limit_bytes, record.quota.core_limit_percent) == (2 * GIB, 30)
    assert "has promised 12.0 GiB to others" in refusal


def test_a_refused_quota_is_put_in_force_when_there_is_room() -> None:
    said = pod(ContainerQuota(memory_limit_bytes=6 * GIB))
    record, _ = decide(said, others=(Holding("other", {"GPU-0": 1}, 12 * GIB),))
    record, refusal = decide(said, record)
    assert (record.quota.memory_limit_bytes, refusal) == (6 * GIB, "")


def test_e16_a_sentence_says_what_is_in_force_and_why() -> None:
    record, _ = decide(pod(ContainerQuota(memory_limit_bytes=4 * GIB, core_limit_percent=30, core_burst=True)))
    assert applied_text(record, "nvshare 0.1.0 b1, library 0.1.0-b1") == (
        "container app has 4.0 GiB of memory, 30 % of the time while others want the card on GPU-0:"
        " from its annotations (nvshare 0.1.0 b1, library 0.1.0-b1)"
    )


def test_a_sentence_says_what_stays_in_force() -> None:
    assert refused_text(RECORD, "because") == "container app keeps 2.0 GiB of memory, no core limit: because"


def test_numbers_of_shares_differ_by_gpu() -> None:
    replicas = parse_replicas("5, GPU-x=4,0=2")
    assert [replicas.of(Gpu(uuid, index, 1)) for uuid, index in (("GPU-a", 0), ("GPU-x", 1), ("GPU-b", 2))] == [2, 4, 5]


@pytest.mark.parametrize("text", ["x", "=4", "GPU-1=", "-1", "100000"])
def test_what_is_no_number_of_shares_is_refused(text: str) -> None:
    with pytest.raises(ReplicasError):
        parse_replicas(text)
