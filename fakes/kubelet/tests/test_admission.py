"""How a pod gets its devices, and why it does not."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from fakes.kubelet.tests.conftest import RESOURCE, TinyPlugin, pod_of, with_init

from nvshare.fake_kubelet.accounting import AdmissionError
from nvshare.fake_kubelet.kubelet import Kubelet, PluginError
from nvshare.fake_kubelet.options import Options
from nvshare.fake_kubelet.pods import Kind, Pod


def devices(kubelet: Kubelet, pod: Pod, container: str = "main") -> set[str]:
    return set(kubelet.devices_of(pod.uid, container)[RESOURCE])


async def test_the_preferred_devices_are_given(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    plugin.preferred = lambda request: ["c", "d"]
    await plugin.start()

    await kubelet.admit(pod := pod_of(2))

    assert devices(kubelet, pod) == {"c", "d"}
    assert set(plugin.requests("Allocate")[0].container_requests[0].devices_ids) == {"c", "d"}


async def test_available_to_a_preference_is_what_is_healthy_and_free(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    plugin.list_devices("a", "b", "c", unhealthy=["d"])
    plugin.preferred = lambda request: ["a"]
    await plugin.start()
    await kubelet.admit(pod_of(1))

    await kubelet.admit(pod_of(1))

    request = plugin.requests("GetPreferredAllocation")[1].container_requests[0]
    assert set(request.available_deviceIDs) == {"b", "c"}
    assert request.must_include_deviceIDs == []
    assert request.allocation_size == 1


async def test_unknown_and_taken_devices_of_a_preference_are_ignored_and_the_rest_filled_up(
    kubelet: Kubelet, plugin: TinyPlugin
) -> None:
    plugin.preferred = lambda request: ["a", "unknown"]
    await plugin.start()
    await kubelet.admit(pod_of(1))

    await kubelet.admit(pod := pod_of(3))

    assert devices(kubelet, pod) == {"b", "c", "d"}


async def test_a_plugin_without_a_preference_is_not_asked(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()

    await kubelet.admit(pod := pod_of(2))

    assert plugin.requests("GetPreferredAllocation") == []
    assert len(devices(kubelet, pod)) == 2


async def test_each_container_is_allocated_in_a_call_of_its_own(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()

    await kubelet.admit(pod := pod_of(1, 2))

    sizes = [len(one.devices_ids) for request in plugin.requests("Allocate") for one in request.container_requests]
    assert sizes == [1, 2]
    assert not devices(kubelet, pod) & devices(kubelet, pod, "main-1")


async def test_devices_of_an_init_container_are_used_again_and_must_be_included(
    kubelet: Kubelet, plugin: TinyPlugin
) -> None:
    plugin.preferred = lambda request: ["b"]
    await plugin.start()

    await kubelet.admit(pod := with_init(pod_of(2), 1))

    assert devices(kubelet, pod, "first") == {"b"}
    assert plugin.requests("GetPreferredAllocation")[1].container_requests[0].must_include_deviceIDs == ["b"]
    assert "b" in devices(kubelet, pod)


async def test_where_the_init_containers_devices_suffice_no_preference_is_asked(
    kubelet: Kubelet, plugin: TinyPlugin
) -> None:
    plugin.preferred = lambda request: ["a", "b"]
    await plugin.start()

    await kubelet.admit(pod := with_init(pod_of(1), 2))

    assert len(plugin.requests("GetPreferredAllocation")) == 1
    assert devices(kubelet, pod) < {"a", "b"}


async def test_devices_of_a_sidecar_are_its_own(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()

    await kubelet.admit(pod := with_init(pod_of(2), 2, Kind.SIDECAR))

    assert devices(kubelet, pod, "first") | devices(kubelet, pod) == {"a", "b", "c", "d"}


async def test_too_few_devices_fail_the_pod(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()
    await kubelet.admit(pod_of(3))

    with pytest.raises(AdmissionError, match="Requested: 2, Available: 1") as failure:
        await kubelet.admit(pod := pod_of(2))

    assert failure.value.reason == "UnexpectedAdmissionError"
    assert kubelet.pods[pod.uid].ended


@pytest.mark.parametrize("method", ["GetPreferredAllocation", "Allocate"])
async def test_an_error_of_the_plugin_fails_the_pod_and_takes_no_device(
    kubelet: Kubelet, plugin: TinyPlugin, method: str
) -> None:
    plugin.preferred = lambda request: []
    await plugin.start()
    plugin.failing.add(method)

    with pytest.raises(AdmissionError, match=f"rpc error: code = Internal desc = {method} fails"):
        await kubelet.admit(pod_of(2))

    plugin.failing.clear()
    await kubelet.admit(pod_of(4))
    assert len(plugin.requests(method)) == 2, "a pod that failed is not tried again"


async def test_while_the_plugin_is_dead_pods_fail(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()
    await plugin.stop()
    await kubelet.until_allocatable(RESOURCE, 0)

    with pytest.raises(AdmissionError, match="no healthy devices present"):
        await kubelet.admit(pod_of(1))


async def test_somebody_elses_resource_is_none_of_kubelets_business(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()

    await kubelet.admit(pod := pod_of(1, resource="example.com/other"))

    assert kubelet.devices_of(pod.uid, "main") == {}


async def test_devices_of_an_ended_pod_are_free_for_the_next_one(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()
    await kubelet.admit(ended := pod_of(4))

    kubelet.end(ended.uid)
    assert devices(kubelet, ended) == {"a", "b", "c", "d"}, "freed by the next pod only"

    await kubelet.admit(pod := pod_of(4))
    assert devices(kubelet, pod) == {"a", "b", "c", "d"}


async def test_pods_are_admitted_one_after_the_other(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    plugin.preferred = lambda request: sorted(request.available_deviceIDs)[:1]
    await plugin.start()
    pods = [pod_of(1) for _ in range(4)]

    await asyncio.gather(*(kubelet.admit(pod) for pod in pods))

    assert set().union(*(devices(kubelet, pod) for pod in pods)) == {"a", "b", "c", "d"}


async def test_a_container_starts_with_the_plugins_answer(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    plugin.preferred = lambda request: ["a"]
    await plugin.start()
    await kubelet.admit(pod := pod_of(1))

    options = await kubelet.start_container(pod.uid, "main")

    assert options.environment == {"DEVICES": "a"}
    assert plugin.requests("PreStartContainer") == []


async def test_before_each_start_the_plugin_is_told_but_never_asked_to_allocate_again(
    kubelet: Kubelet, plugin: TinyPlugin
) -> None:
    plugin.pre_start = True
    await plugin.start()
    await kubelet.admit(pod := pod_of(2))

    first = await kubelet.start_container(pod.uid, "main")
    kubelet.end_container(pod.uid, "main")
    second = await kubelet.start_container(pod.uid, "main")

    told = [set(request.devices_ids) for request in plugin.requests("PreStartContainer")]
    assert told == [devices(kubelet, pod)] * 2
    assert len(plugin.requests("Allocate")) == 1
    assert first == second


async def test_an_error_before_a_start_leaves_the_pod_alive(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    plugin.pre_start = True
    await plugin.start()
    await kubelet.admit(pod := pod_of(1))
    plugin.failing.add("PreStartContainer")

    with pytest.raises(PluginError, match="PreStartContainer fails"):
        await kubelet.start_container(pod.uid, "main")

    plugin.failing.clear()
    await kubelet.start_container(pod.uid, "main")
    assert not kubelet.pods[pod.uid].ended


async def test_a_restart_may_demand_that_the_devices_are_healthy(
    start_kubelet: Callable[[Options], Awaitable[Kubelet]], make_plugin: Callable[..., TinyPlugin]
) -> None:
    kubelet = await start_kubelet(Options(health_at_restart=True))
    plugin = make_plugin(kubelet)
    plugin.list_devices("a", "b")
    await plugin.start()
    await kubelet.admit(pod := pod_of(1))
    own = devices(kubelet, pod)
    plugin.list_devices(*({"a", "b"} - own), unhealthy=own)
    await kubelet.until_allocatable(RESOURCE, 1)

    with pytest.raises(AdmissionError, match="previously allocated devices are no longer healthy"):
        await kubelet.start_container(pod.uid, "main")
