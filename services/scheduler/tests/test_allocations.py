"""What the relay says of an allocation's shares of the GPU, as the scheduler takes it over."""

from dataclasses import replace
from typing import Any

import pytest
from services.scheduler.tests.conftest import MakeDesk

from nvshare.scheduler.model import Allocation, Priority
from nvshare.scheduler.policy import GIB
from nvshare.scheduler.wire import relay_state_from
from nvshare.v1 import node_pb2

GPU = "GPU-00000000-0000-0000-0000-000000000000"


def taken_over(**shares: Any) -> Allocation:
    described = node_pb2.Allocation(id="a", gpus=[GPU], **shares)
    (allocation,) = relay_state_from(node_pb2.RelayState(allocations=[described]), GPU).allocations
    return allocation


def test_an_allocation_that_asked_for_no_share_is_a_normal_one() -> None:
    allocation = taken_over()
    assert (allocation.core_limit_percent, allocation.weight) == (0, 100)
    assert (allocation.priority, allocation.core_burst) == (Priority.NORMAL, False)


def test_an_allocation_has_the_shares_that_the_relay_names() -> None:
    allocation = taken_over(
        core_limit_percent=30, weight=400, priority=node_pb2.PRIORITY_LATENCY_CRITICAL, core_burst=True
    )
    assert (allocation.core_limit_percent, allocation.weight) == (30, 400)
    assert (allocation.priority, allocation.core_burst) == (Priority.LATENCY_CRITICAL, True)


def test_a_priority_of_a_newer_relay_counts_as_normal() -> None:
    assert taken_over(priority=99).priority == Priority.NORMAL


def test_a_core_limit_and_a_weight_stay_within_their_bounds() -> None:
    allocation = taken_over(core_limit_percent=4_000_000_000, weight=4_000_000_000)
    assert (allocation.core_limit_percent, allocation.weight) == (100, 1000)


@pytest.mark.parametrize("priority", Priority)
def test_priorities_have_the_numbers_of_the_contract(priority: Priority) -> None:
    assert node_pb2.Priority.Name(priority) == f"PRIORITY_{priority.name}"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"memory_limit_bytes": GIB}, "memory limit of training is now 1.0 GiB (was the whole card)"),
        ({"core_limit_percent": 30}, "core quota of training is now 30 % (was none)"),
        ({"weight": 400}, "weight of training is now 400 (was 100)"),
        ({"priority": Priority.BEST_EFFORT}, "priority of training is now best-effort (was normal)"),
        ({"core_burst": True}, "core burst of training is now on (was off)"),
    ],
)
def test_b9_a_quota_that_changes_is_told_with_what_it_was(
    make_desk: MakeDesk, change: dict[str, Any], text: str
) -> None:
    desk = make_desk()
    desk.allocations["a"] = Allocation("a", "training")
    desk.join("a", "a")
    desk.relay()
    assert [event.text for event in desk.events if event.kind == "quota-changed"] == []
    desk.allocations["a"] = replace(desk.allocations["a"], **change)
    desk.relay()
    assert [event.text for event in desk.events if event.kind == "quota-changed"] == [text]
