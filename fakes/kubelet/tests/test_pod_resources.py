"""What PodResources tells of pods, containers and devices."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc.aio
import pytest
from fakes.kubelet.tests.conftest import RESOURCE, PodResources, TinyPlugin, pod_of, with_init

from nvshare.fake_kubelet.kubelet import Kubelet
from nvshare.fake_kubelet.options import Grouping, Options
from nvshare.fake_kubelet.pods import Kind
from nvshare.kubelet import pod_resources_pb2 as messages

StartKubelet = Callable[[Options], Awaitable[Kubelet]]


def entries(pod: messages.PodResources, container: str = "main") -> list[tuple[list[str], list[int]]]:
    """IDs and NUMA nodes of each entry of a container."""
    (found,) = (one for one in pod.containers if one.name == container)
    return [(list(entry.device_ids), [node.ID for node in entry.topology.nodes]) for entry in found.devices]


async def test_each_container_is_listed_with_its_devices(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()
    await kubelet.admit(pod := pod_of(1, 2))

    (listed,) = (await PodResources(kubelet).list()).pod_resources

    assert (listed.namespace, listed.name) == (pod.namespace, pod.name)
    assert [container.name for container in listed.containers] == ["main", "main-1"]
    for container in ("main", "main-1"):
        ids = sorted(kubelet.devices_of(pod.uid, container)[RESOURCE])
        assert entries(listed, container) == [([one], []) for one in ids]


async def test_a_pod_without_devices_is_listed_too(kubelet: Kubelet) -> None:
    await kubelet.admit(pod_of(1))

    (listed,) = (await PodResources(kubelet).list()).pod_resources

    assert entries(listed) == []


async def test_init_containers_are_left_out_and_sidecars_are_not(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()
    await kubelet.admit(init := with_init(pod_of(1), 1))
    await kubelet.admit(sidecar := with_init(pod_of(1), 1, Kind.SIDECAR))
    service = PodResources(kubelet)

    assert [container.name for container in (await service.get(init)).containers] == ["main"]
    assert [container.name for container in (await service.get(sidecar)).containers] == ["first", "main"]


async def test_an_ended_pod_is_gone_and_a_list_frees_its_devices(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()
    await kubelet.admit(pod := pod_of(4))
    kubelet.end(pod.uid)

    listed = (await PodResources(kubelet).list()).pod_resources

    assert list(listed) == []
    assert kubelet.accounts.in_use(RESOURCE) == frozenset()


async def test_an_older_kubelet_lists_ended_pods_with_their_devices_until_they_are_deleted(
    start_kubelet: StartKubelet, make_plugin: Callable[..., TinyPlugin]
) -> None:
    kubelet = await start_kubelet(Options(list_ended_pods=True))
    plugin = make_plugin(kubelet)
    plugin.list_devices("a")
    await plugin.start()
    await kubelet.admit(pod := pod_of(1))
    kubelet.end(pod.uid)
    service = PodResources(kubelet)

    (listed,) = (await service.list()).pod_resources
    assert entries(listed) == [(["a"], [])]

    kubelet.remove(pod.uid)
    assert list((await service.list()).pod_resources) == []


@pytest.mark.parametrize(
    ("grouping", "expected"),
    [
        (Grouping.DEVICE, [(["a"], [0]), (["b"], [1]), (["c"], [0])]),
        (Grouping.NODE, [(["a", "c"], [0]), (["b"], [1])]),
        (Grouping.RESOURCE, [(["a", "b", "c"], [0, 1])]),
    ],
)
async def test_devices_are_cut_into_entries_as_asked(
    start_kubelet: StartKubelet,
    make_plugin: Callable[..., TinyPlugin],
    grouping: Grouping,
    expected: list[tuple[list[str], list[int]]],
) -> None:
    kubelet = await start_kubelet(Options(grouping=grouping))
    plugin = make_plugin(kubelet)
    plugin.list_devices("a", "b", "c", nodes={"a": 0, "b": 1, "c": 0})
    await plugin.start()
    await kubelet.admit(pod := pod_of(3))

    assert entries(await PodResources(kubelet).get(pod)) == expected


async def test_allocatable_are_all_healthy_devices_also_taken_ones(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    plugin.list_devices("a", "b", unhealthy=["c"])
    await plugin.start()
    await kubelet.admit(pod_of(1))

    answer = await PodResources(kubelet).allocatable()

    assert [list(entry.device_ids) for entry in answer.devices] == [["a"], ["b"]]


async def test_get_knows_no_other_pod(kubelet: Kubelet) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="not found"):
        await PodResources(kubelet).get(pod_of(1))


async def test_beyond_the_burst_calls_are_refused(start_kubelet: StartKubelet) -> None:
    kubelet = await start_kubelet(Options(pod_resources_per_second=0.001, pod_resources_burst=3))
    service = PodResources(kubelet)

    answers = await asyncio.gather(*(service.list() for _ in range(5)), return_exceptions=True)

    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert [error.code() for error in refused] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
