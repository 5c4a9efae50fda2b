"""Who may register, and what becomes of the node's capacity."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc.aio
import pytest
from fakes.kubelet.tests.conftest import RESOURCE, TinyPlugin

from nvshare.fake_kubelet.kubelet import Capacity, Kubelet
from nvshare.fake_kubelet.options import Options
from nvshare.fake_kubelet.registration import is_extended_resource


async def test_a_plugin_is_asked_for_its_options_before_register_returns(plugin: TinyPlugin) -> None:
    await plugin.serve()

    await plugin.register()

    assert [method for method, _ in plugin.asked] == ["GetDevicePluginOptions"]


async def test_the_devices_of_its_stream_are_the_nodes_capacity(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    plugin.list_devices("a", "b", unhealthy=["c"])

    await plugin.start()

    assert kubelet.capacities() == {RESOURCE: Capacity(3, 2)}


async def test_each_message_of_the_stream_is_the_full_list(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()

    plugin.list_devices("a")

    await kubelet.until_allocatable(RESOURCE, 1)
    assert kubelet.capacity(RESOURCE) == Capacity(1, 1)


async def test_another_version_is_refused(plugin: TinyPlugin) -> None:
    await plugin.serve()

    with pytest.raises(grpc.aio.AioRpcError, match="API version 'v1' is not supported"):
        await plugin.register(version="v1")

    assert plugin.asked == []


@pytest.mark.parametrize("name", ["example.com/device", "nvidia.com/gpu", "e/x", "example.com/My_device.1"])
def test_a_resource_with_a_domain_is_taken(name: str) -> None:
    assert is_extended_resource(name)


@pytest.mark.parametrize(
    "name",
    ["device", "/device", "example.com/", "kubernetes.io/x", "node.kubernetes.io/x", "requests.e.com/x", "e.com/a/b",
     "Example.com/x", "e.com/-x", "e.com/" + "x" * 64],
)  # fmt: skip
def test_another_resource_is_not(name: str) -> None:
    assert not is_extended_resource(name)


async def test_a_bad_resource_is_refused(plugin: TinyPlugin) -> None:
    await plugin.serve()

    with pytest.raises(grpc.aio.AioRpcError, match="'device' is invalid"):
        await plugin.register(resource="device")


async def test_a_plugin_that_does_not_serve_is_refused_after_the_deadline(
    start_kubelet: Callable[[Options], Awaitable[Kubelet]],
) -> None:
    plugin = TinyPlugin(await start_kubelet(Options(register_seconds=0.05)))

    with pytest.raises(grpc.aio.AioRpcError, match="DeadlineExceeded"):
        await plugin.register()


async def test_a_plugin_whose_socket_is_connected_is_refused(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()

    with pytest.raises(grpc.aio.AioRpcError, match=r"device plugin already connected: .*/tiny\.sock"):
        await plugin.register()

    assert kubelet.capacity(RESOURCE) == Capacity(4, 4)


async def test_the_end_of_the_stream_leaves_nothing_allocatable(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()

    await plugin.stop()

    await kubelet.until_allocatable(RESOURCE, 0)
    assert kubelet.capacity(RESOURCE) == Capacity(4, 0)


async def test_the_capacity_of_a_plugin_that_stays_away_goes_after_a_while(
    start_kubelet: Callable[[Options], Awaitable[Kubelet]], make_plugin: Callable[..., TinyPlugin]
) -> None:
    kubelet = await start_kubelet(Options(stopped_capacity_seconds=0.0))
    plugin = make_plugin(kubelet)
    plugin.list_devices("a")
    await plugin.start()

    await plugin.stop()

    await kubelet.until_allocatable(RESOURCE, 0)
    assert RESOURCE not in kubelet.capacities()


async def test_kubelet_does_not_look_for_a_plugin_by_itself(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()
    await plugin.stop()
    await kubelet.until_allocatable(RESOURCE, 0)

    await plugin.serve()
    assert kubelet.capacity(RESOURCE).allocatable == 0

    await plugin.register()
    await kubelet.until_allocatable(RESOURCE, 4)


async def test_a_second_plugin_takes_over_without_a_gap(
    kubelet: Kubelet, plugin: TinyPlugin, make_plugin: Callable[..., TinyPlugin]
) -> None:
    await plugin.start()
    second = make_plugin(kubelet, "second.sock")
    second.list_devices("a", "b", "c", "d", "e")
    await second.start()

    seen: list[int] = []

    def looked_twice() -> bool:
        seen.append(kubelet.capacity(RESOURCE).allocatable)
        return len(seen) > 1

    watching = asyncio.create_task(kubelet.until(looked_twice))
    await plugin.stop()
    await watching

    assert set(seen) == {5}


async def test_an_older_kubelet_withdraws_everything_when_the_first_of_two_plugins_ends(
    start_kubelet: Callable[[Options], Awaitable[Kubelet]], make_plugin: Callable[..., TinyPlugin]
) -> None:
    kubelet = await start_kubelet(Options(overlapping_plugins=False))
    first, second = make_plugin(kubelet), make_plugin(kubelet, "second.sock")
    for plugin in (first, second):
        plugin.list_devices("a")
        await plugin.start()

    await first.stop()

    await kubelet.until_allocatable(RESOURCE, 0)
