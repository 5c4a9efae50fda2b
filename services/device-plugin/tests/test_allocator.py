"""Which GPU each share is taken from."""

import json
import random
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvshare.device_plugin.allocator import Load, Policy, Request, preferred_shares
from nvshare.device_plugin.shares import Share
from plugin_node import gpus_by_requirement

LOPSIDED = Path(__file__).with_name("lopsided_requests.json")


def gpu_names(count: int) -> list[str]:
    return [f"GPU-{number}" for number in range(count)]


@dataclass
class Node:
    """A node as kubelet keeps it: who has which share. The plugin is told nothing of it but what is free."""

    gpus: list[str]
    shares: int = 10
    loads: dict[str, Load] = field(default_factory=dict)
    pods: list[tuple[Share, ...]] = field(default_factory=list)

    @property
    def listed(self) -> list[Share]:
        return [Share(gpu, number) for gpu in self.gpus for number in range(self.shares)]

    @property
    def taken(self) -> set[Share]:
        return {share for pod in self.pods for share in pod}

    @property
    def in_use(self) -> dict[str, int]:
        counted = Counter(share.gpu for share in self.taken)
        return {gpu: counted[gpu] for gpu in self.gpus}

    def choose(self, size: int, policy: Policy = Policy.SPREAD) -> tuple[Share, ...]:
        request = Request(frozenset(set(self.listed) - self.taken), frozenset(), size)
        return preferred_shares(request, self.listed, self.loads, self.gpus, policy)

    def start(self, size: int, policy: Policy = Policy.SPREAD) -> tuple[Share, ...]:
        chosen = self.choose(size, policy)
        self.pods.append(chosen)
        return chosen

    def by_requirement(self, size: int) -> list[str]:
        return gpus_by_requirement(self.listed, self.taken, self.loads, size)


def imbalance(in_use: Mapping[str, int]) -> int:
    return max(in_use.values()) - min(in_use.values())


def gpus_of(shares: Collection[Share]) -> list[str]:
    return sorted(share.gpu for share in shares)


def test_four_pods_of_one_share_on_two_gpus_are_two_on_each() -> None:
    node = Node(gpu_names(2))
    for _ in range(4):
        node.start(1)
    assert list(node.in_use.values()) == [2, 2]


def test_two_shares_of_one_pod_are_on_two_gpus() -> None:
    assert gpus_of(Node(gpu_names(2)).choose(2)) == ["GPU-0", "GPU-1"]


def test_a_gpu_that_the_request_does_not_have_comes_before_one_with_fewer_shares_in_use() -> None:
    node = Node(gpu_names(2), pods=[(Share("GPU-1", 0), Share("GPU-1", 1), Share("GPU-1", 2))])
    assert gpus_of(node.choose(2)) == ["GPU-0", "GPU-1"]


def test_of_gpus_with_as_many_shares_in_use_the_one_that_promised_less_memory_comes_first() -> None:
    node = Node(gpu_names(2), loads={"GPU-0": Load(promised_bytes=8), "GPU-1": Load(promised_bytes=4)})
    assert gpus_of(node.choose(1)) == ["GPU-1"]


def test_of_gpus_that_promised_as_much_the_less_busy_one_comes_first() -> None:
    node = Node(gpu_names(2), loads={"GPU-0": Load(4, busy_permille=900), "GPU-1": Load(4, busy_permille=20)})
    assert gpus_of(node.choose(1)) == ["GPU-1"]


def test_what_the_init_containers_had_counts_as_the_requests_own() -> None:
    node = Node(gpu_names(2))
    had = frozenset({Share("GPU-0", 3)})
    chosen = preferred_shares(Request(frozenset(node.listed), had, 2), node.listed, {}, node.gpus)
    assert had < set(chosen)
    assert gpus_of(chosen) == ["GPU-0", "GPU-1"]


def test_of_gpus_that_are_not_offered_nothing_is_concluded() -> None:
    """Kubelet offers the GPUs of one NUMA node only: the others are not full, they are not in question."""
    node = Node(gpu_names(4), pods=[(Share("GPU-2", 0),)])
    offered = frozenset(share for share in node.listed if share.gpu in ("GPU-2", "GPU-3")) - node.taken
    chosen = preferred_shares(Request(offered, frozenset(), 1), node.listed, {}, node.gpus)
    assert gpus_of(chosen) == ["GPU-3"]


@pytest.mark.parametrize("policy", Policy)
def test_more_than_there_is_gets_all_that_there_is(policy: Policy) -> None:
    assert len(Node(gpu_names(2), shares=2).choose(9, policy)) == 4


def test_packed_fills_one_gpu_before_the_next() -> None:
    node = Node(gpu_names(3), shares=4)
    for _ in range(4):
        node.start(1, Policy.PACKED)
    assert list(node.in_use.values()) == [4, 0, 0]
    assert gpus_of(node.choose(2, Policy.PACKED)) == ["GPU-1", "GPU-1"]


@pytest.mark.parametrize("gpus", [2, 4, 8])
@pytest.mark.parametrize("seed", range(2))
def test_c3_two_hundred_rounds_are_what_the_requirement_says_each_time(gpus: int, seed: int) -> None:
    chance = random.Random(seed)
    node = Node(gpu_names(gpus))
    for _ in range(200):
        while node.pods and (chance.random() < 0.45 or len(node.taken) > len(node.listed) - 4):
            node.pods.pop(chance.randrange(len(node.pods)))
        node.loads = {gpu: Load(chance.randrange(3), chance.randrange(3)) for gpu in node.gpus}
        size = chance.randint(1, 4)
        wanted = node.by_requirement(size)
        assert [share.gpu for share in node.start(size)] == wanted


@given(st.sampled_from([2, 4, 8]), st.lists(st.integers(1, 4), max_size=20))
def test_c3_as_long_as_no_pod_has_left_the_gpus_differ_by_one_share_at_most(gpus: int, sizes: list[int]) -> None:
    node = Node(gpu_names(gpus), shares=40)
    for size in sizes:
        node.start(size)
        assert imbalance(node.in_use) <= 1


@given(st.data())
def test_the_choice_is_free_shares_each_once_whatever_kubelet_offers(data: st.DataObject) -> None:
    listed = Node(gpu_names(3), shares=4).listed
    available = data.draw(st.frozensets(st.sampled_from(listed)))
    must_include = data.draw(st.frozensets(st.sampled_from(listed), max_size=3))
    size = data.draw(st.integers(0, 8))
    policy = data.draw(st.sampled_from(Policy))
    chosen = preferred_shares(Request(available, must_include, size), listed, {}, gpu_names(3), policy)
    assert len(chosen) == len(set(chosen)) == min(size, len(available | must_include))
    assert set(chosen) <= available | must_include
    assert must_include <= set(chosen) or len(must_include) > size


def test_e4_the_requests_that_made_the_predecessor_lopsided_are_balanced() -> None:
    record = json.loads(LOPSIDED.read_text())
    node = Node(gpu_names(2), record["shares_per_gpu"])
    theirs = Counter[int]()
    worst_of_theirs = 0
    for request in record["requests"]:
        if request["available"] == len(node.listed):  # all pods of the round before had ended
            node.pods.clear()
            theirs.clear()
        assert len(node.listed) - len(node.taken) == request["available"]
        node.start(request["size"])
        theirs[request["chose"]] += 1
        worst_of_theirs = max(worst_of_theirs, abs(theirs[0] - theirs[1]))
        assert imbalance(node.in_use) <= 1
    assert worst_of_theirs == 2  # 4 and 2 shares, after a round that had ended was never forgotten
