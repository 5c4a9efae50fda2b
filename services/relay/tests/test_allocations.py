"""What an allocation may be."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvshare.relay.allocations import (
    Allocation,
    AllocationError,
    changed_allocation,
    parse_allocation,
    requested_allocation,
)
from nvshare.v1.control_pb2 import AllocateRequest, QuotaRequest
from nvshare.v1.node_pb2 import PRIORITY_BEST_EFFORT, PRIORITY_LATENCY_CRITICAL

GPU = "GPU-01234567-89ab-cdef-0123-456789abcdef"
GOOD = Allocation(
    "run-1", ("GPU-1", "GPU-2"), "my job", 1000, 2**32, 30, "run", 400, "latency-critical", core_burst=True
)


def test_what_was_written_is_read() -> None:
    assert parse_allocation(GOOD.to_json(), "run-1") == GOOD


def test_e15_a_member_of_a_later_version_is_ignored() -> None:
    text = json.dumps({**asdict(GOOD), "colour": "blue"})
    assert parse_allocation(text, "run-1") == GOOD


def test_e15_members_that_an_earlier_version_did_not_write_have_their_defaults() -> None:
    written = {name: value for name, value in asdict(GOOD).items() if name not in ("weight", "priority", "core_burst")}
    allocation = parse_allocation(json.dumps(written), "run-1")
    assert (allocation.weight, allocation.priority, allocation.core_burst) == (100, "normal", False)


def test_a_containers_pod_is_told_to_the_services() -> None:
    pod = {"namespace": "default", "name": "web", "uid": "uid-1", "container": "app"}
    text = json.dumps({**json.loads(GOOD.to_json()), "pod": pod})
    told = parse_allocation(text, "run-1").to_message().pod
    assert (told.namespace, told.name, told.uid, told.container) == ("default", "web", "uid-1", "app")


@pytest.mark.parametrize("pod", [None, "web", {"namespace": 3}, {"namespace": "default", "name": "w" * 300}])
def test_a_pod_that_cannot_be_read_is_left_out(pod: object) -> None:
    text = json.dumps({**json.loads(GOOD.to_json()), "pod": pod})
    assert not parse_allocation(text, "run-1").to_message().HasField("pod")


def test_e16_the_state_says_where_a_quota_is_from_and_since_when() -> None:
    text = json.dumps({**json.loads(GOOD.to_json()), "quota_source": "pod", "quota_since_unix_ns": 10**18})
    told = parse_allocation(text, "run-1").to_message()
    assert (told.quota_source, told.quota_since_unix_ns) == ("pod", 10**18)


def test_the_state_names_the_priority_by_its_number() -> None:
    message = GOOD.to_message()
    assert (message.weight, message.priority, message.core_burst) == (400, PRIORITY_LATENCY_CRITICAL, True)


@pytest.mark.parametrize(
    "member",
    [
        {"id": "run-2"},
        {"id": "../run-1"},
        {"gpus": []},
        {"gpus": ["*"]},
        {"gpus": ["GPU-1", "GPU-1"]},
        {"gpus": "GPU-1"},
        {"name": "x" * 65},
        {"name": "a\nb"},
        {"name": None},
        {"uid": -2},
        {"uid": "0"},
        {"uid": True},
        {"memory_limit_bytes": -1},
        {"memory_limit_bytes": 1.5},
        {"memory_limit_bytes": 2**64},
        {"core_limit_percent": 101},
        {"core_limit_percent": -1},
        {"weight": 0},
        {"weight": 1001},
        {"weight": "100"},
        {"priority": "urgent"},
        {"priority": 2},
        {"core_burst": 1},
        {"source": "a.b"},
        {"quota_source": "a.b"},
        {"quota_source": None},
        {"quota_since_unix_ns": -1},
    ],
)
def test_a_bad_member_is_refused(member: dict[str, Any]) -> None:
    with pytest.raises(AllocationError) as raised:
        parse_allocation(json.dumps({**asdict(GOOD), **member}), "run-1")
    assert "\n" not in str(raised.value)


@given(st.text(max_size=60))
def test_any_other_text_is_an_allocation_error(text: str) -> None:
    with pytest.raises(AllocationError):
        parse_allocation(text, "run-1")


def test_a_request_becomes_an_allocation_of_who_asks() -> None:
    request = AllocateRequest(gpus=[GPU], name="job", memory_limit_bytes=7, core_limit_percent=30)
    assert requested_allocation(request, "run-1", 1000) == Allocation("run-1", (GPU,), "job", 1000, 7, 30, "run")


@pytest.mark.parametrize(
    "gpus",
    [["GPU-1"], ["GPU-" + "x" * 36], [GPU + "0"], [GPU.upper()], [f"GPU-{number:036x}" for number in range(17)]],
)
def test_a_request_for_what_is_no_gpu_or_for_too_many_is_refused(gpus: list[str]) -> None:
    with pytest.raises(AllocationError, match="it names no GPU, too many"):
        requested_allocation(AllocateRequest(gpus=gpus), "run-1", 1000)


def test_a_request_without_a_weight_and_a_priority_gets_the_usual_ones() -> None:
    allocation = requested_allocation(AllocateRequest(gpus=[GPU]), "run-1", 1000)
    assert (allocation.weight, allocation.priority) == (100, "normal")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (AllocateRequest(gpus=[GPU], core_limit_percent=500), "1 to 100 percent, or 0 for none"),
        (AllocateRequest(gpus=[GPU], weight=1001), "1 to 1000"),
        (AllocateRequest(gpus=[GPU], priority=99), "best-effort, normal, latency-critical"),  # type: ignore[arg-type]
    ],
)
def test_b11_a_share_that_makes_no_sense_is_refused_with_what_is_allowed(request_: AllocateRequest, words: str) -> None:
    with pytest.raises(AllocationError, match=words):
        requested_allocation(request_, "run-1", 1000)


@pytest.mark.parametrize(
    ("request_", "changes"),
    [
        (QuotaRequest(memory_limit_bytes=7), {"memory_limit_bytes": 7}),
        (QuotaRequest(), {"memory_limit_bytes": 0}),
        (QuotaRequest(keep_memory_limit=True), {}),
        (QuotaRequest(keep_memory_limit=True, core_limit_percent=60), {"core_limit_percent": 60}),
        (QuotaRequest(keep_memory_limit=True, core_limit_percent=0), {"core_limit_percent": 0}),
        (QuotaRequest(keep_memory_limit=True, weight=0), {"weight": 100}),
        (QuotaRequest(keep_memory_limit=True, priority=PRIORITY_BEST_EFFORT), {"priority": "best-effort"}),
        (QuotaRequest(keep_memory_limit=True, core_burst=False), {"core_burst": False}),
    ],
)
def test_a_change_is_of_what_the_request_names_and_of_nothing_else(
    request_: QuotaRequest, changes: dict[str, Any]
) -> None:
    assert changed_allocation(GOOD, request_) == replace(GOOD, **changes)
