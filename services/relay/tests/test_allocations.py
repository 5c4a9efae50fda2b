"""What an allocation may be."""

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvshare.relay.allocations import Allocation, AllocationError, parse_allocation, requested_allocation
from nvshare.v1.control_pb2 import AllocateRequest

GPU = "GPU-01234567-89ab-cdef-0123-456789abcdef"
GOOD = Allocation("run-1", ("GPU-1", "GPU-2"), "my job", 1000, 2**32, 30, "run")


def test_what_was_written_is_read() -> None:
    assert parse_allocation(GOOD.to_json(), "run-1") == GOOD


def test_e15_a_member_of_a_later_version_is_ignored() -> None:
    text = json.dumps({**asdict(GOOD), "colour": "blue"})
    assert parse_allocation(text, "run-1") == GOOD


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
        {"source": "a.b"},
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
