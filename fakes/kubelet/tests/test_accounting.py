"""Which devices a container gets, with NUMA nodes and without."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from nvshare.fake_kubelet.accounting import Accounts, AdmissionError, Device
from nvshare.fake_kubelet.alignment import nodes_for
from nvshare.fake_kubelet.options import Topology

RESOURCE = "example.com/device"
TWO_NODES = [Device("a0", nodes=(0,)), Device("a1", nodes=(0,)), Device("b0", nodes=(1,)), Device("b1", nodes=(1,))]


def accounts(devices: list[Device], topology: Topology = Topology.NONE, seed: int = 0) -> Accounts:
    made = Accounts(Random(seed), topology)
    made.list_devices(RESOURCE, devices)
    return made


def take(node: Accounts, pod: str, *ids: str) -> None:
    node.give(pod, "main", RESOURCE, ids, b"")


@given(
    listed=some.sets(some.integers(0, 9)),
    sick=some.sets(some.integers(0, 9)),
    taken=some.sets(some.integers(0, 9)),
    preferred=some.lists(some.integers(0, 12)),
    size=some.integers(1, 5),
    seed=some.integers(0, 99),
)
def test_a_container_gets_as_many_as_it_asks_for_all_healthy_and_free(
    listed: set[int], sick: set[int], taken: set[int], preferred: list[int], size: int, seed: int
) -> None:
    node = accounts([Device(str(one), one not in sick) for one in listed], seed=seed)
    take(node, "other", *map(str, taken))
    free = {str(one) for one in listed - sick - taken}

    try:
        given_devices = node.complete(node.choose(RESOURCE, size), map(str, preferred))
    except AdmissionError:
        assert len(free) < size
    else:
        assert len(set(given_devices)) == len(given_devices) == size
        assert set(given_devices) <= free
        wanted = {str(one) for one in preferred} & free
        assert len(wanted & set(given_devices)) == min(len(wanted), size)


def test_without_a_preference_the_seed_decides() -> None:
    devices = [Device(str(number)) for number in range(8)]

    def chosen(seed: int) -> tuple[str, ...]:
        node = accounts(devices, seed=seed)
        return node.complete(node.choose(RESOURCE, 3))

    assert chosen(1) == chosen(1)
    assert len({chosen(seed) for seed in range(8)}) > 1


def test_a_device_that_is_not_listed_any_more_stays_with_who_has_it() -> None:
    node = accounts([Device("a"), Device("b")])
    take(node, "pod", "a")

    node.list_devices(RESOURCE, [Device("b")])

    assert node.in_use(RESOURCE) == {"a"}


def test_only_the_aligned_devices_are_offered_where_they_are_more_than_needed() -> None:
    node = accounts(TWO_NODES, Topology.BEST_EFFORT)

    choice = node.choose(RESOURCE, 1)

    assert choice.offered == {"a0", "a1"}
    assert set(node.complete(choice, ["b0"])) < {"a0", "a1"}


def test_where_all_aligned_devices_are_needed_nobody_is_asked() -> None:
    node = accounts(TWO_NODES, Topology.BEST_EFFORT)

    choice = node.choose(RESOURCE, 2)

    assert not choice.open
    assert set(choice.taken) == {"a0", "a1"}


def test_a_node_that_has_enough_is_aligned() -> None:
    node = accounts(TWO_NODES, Topology.SINGLE_NUMA_NODE)
    take(node, "pod", "a0")

    assert set(node.complete(node.choose(RESOURCE, 2))) == {"b0", "b1"}


def test_devices_of_several_nodes_are_refused_where_one_node_is_demanded() -> None:
    node = accounts(TWO_NODES, Topology.SINGLE_NUMA_NODE)

    with pytest.raises(AdmissionError) as failure:
        node.choose(RESOURCE, 3)

    assert failure.value.reason == "TopologyAffinityError"


def test_devices_of_several_nodes_are_given_where_one_node_is_only_better() -> None:
    node = accounts(TWO_NODES, Topology.BEST_EFFORT)

    assert len(set(node.complete(node.choose(RESOURCE, 3)))) == 3


def test_a_device_without_a_node_comes_last() -> None:
    node = accounts([Device("a0", nodes=(0,)), Device("x"), Device("b0", nodes=(1,))], Topology.BEST_EFFORT)

    assert set(node.complete(node.choose(RESOURCE, 2))) == {"a0", "b0"}


@pytest.mark.parametrize(
    ("devices", "size", "nodes"),
    [([(0,), (1,)], 1, {0}), ([(0,), (1,), (1,)], 2, {1}), ([(0,), (1,)], 2, {0, 1}), ([(0, 1), (1,)], 2, {1}),
     ([()], 1, set()), ([(0,)], 2, set())],
)  # fmt: skip
def test_the_fewest_nodes_that_hold_enough(devices: list[tuple[int, ...]], size: int, nodes: set[int]) -> None:
    assert nodes_for(devices, size) == nodes
