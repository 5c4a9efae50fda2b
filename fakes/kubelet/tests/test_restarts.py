"""Kubelet's restart and a node's reboot: what is kept, what is lost."""

import json
from pathlib import Path

import pytest
from fakes.kubelet.tests.conftest import RESOURCE, TinyPlugin, pod_of, with_init

from nvshare.fake_kubelet.kubelet import Capacity, Kubelet, reboot
from nvshare.fake_kubelet.paths import CHECKPOINT


async def test_a_restart_loses_the_registration_and_deletes_the_plugins_socket(
    kubelet: Kubelet, plugin: TinyPlugin
) -> None:
    await plugin.start()

    await kubelet.restart()

    assert kubelet.capacities() == {RESOURCE: Capacity(0, 0)}
    assert sorted(path.name for path in kubelet.plugin_directory.iterdir()) == [
        "kubelet.sock",
        "kubelet_internal_checkpoint",
    ]


async def test_a_plugin_that_registers_again_has_its_capacity_back(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()
    await kubelet.restart()

    await plugin.start()

    assert kubelet.capacity(RESOURCE) == Capacity(4, 4)


async def test_a_restart_leaves_folders_and_other_files_alone(kubelet: Kubelet) -> None:
    (kubelet.plugin_directory / "folder").mkdir()
    (kubelet.plugin_directory / "file").touch()

    await kubelet.restart()

    assert (kubelet.plugin_directory / "folder").exists()
    assert (kubelet.plugin_directory / "file").exists()


async def test_running_pods_keep_their_devices_over_a_restart(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()
    await kubelet.admit(pod := pod_of(2))
    before = await kubelet.start_container(pod.uid, "main")
    devices = kubelet.devices_of(pod.uid, "main")

    await kubelet.restart()

    assert not kubelet.pods[pod.uid].ended
    assert kubelet.devices_of(pod.uid, "main") == devices
    assert await kubelet.start_container(pod.uid, "main") == before


async def test_devices_given_before_a_restart_are_not_given_again(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()
    await kubelet.admit(first := pod_of(2))
    await kubelet.start_container(first.uid, "main")
    await kubelet.restart()
    await plugin.start()

    await kubelet.admit(second := pod_of(2))

    taken = kubelet.devices_of(first.uid, "main")[RESOURCE] + kubelet.devices_of(second.uid, "main")[RESOURCE]
    assert sorted(taken) == ["a", "b", "c", "d"]


async def test_until_the_plugin_is_back_nobody_is_told_of_a_start(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    plugin.pre_start = True
    await plugin.start()
    await kubelet.admit(pod := pod_of(1))
    await kubelet.start_container(pod.uid, "main")
    await kubelet.restart()

    kubelet.end_container(pod.uid, "main")
    await kubelet.start_container(pod.uid, "main")
    assert len(plugin.requests("PreStartContainer")) == 1

    await plugin.start()
    await kubelet.start_container(pod.uid, "main")
    assert len(plugin.requests("PreStartContainer")) == 2


async def test_a_pod_that_is_not_running_at_a_restart_fails_without_its_plugin(
    kubelet: Kubelet, plugin: TinyPlugin
) -> None:
    await plugin.start()
    await kubelet.admit(pod := pod_of(1))

    await kubelet.restart()

    assert "no healthy devices present" in str(kubelet.pods[pod.uid].rejection)


async def test_an_init_container_that_is_done_does_not_fail_its_pod(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()
    await kubelet.admit(pod := with_init(pod_of(1), 1))
    await kubelet.start_container(pod.uid, "first")
    kubelet.end_container(pod.uid, "first")
    await kubelet.start_container(pod.uid, "main")

    await kubelet.restart()

    assert not kubelet.pods[pod.uid].ended


async def test_after_a_reboot_pods_fail_where_their_plugin_is_late(kubelet: Kubelet, plugin: TinyPlugin) -> None:
    await plugin.start()
    await kubelet.admit(pod := pod_of(1))
    await kubelet.start_container(pod.uid, "main")

    await reboot(kubelet)

    assert kubelet.pods[pod.uid].rejection is not None


async def test_after_a_reboot_pods_go_on_with_the_same_devices_where_it_is_early(
    kubelet: Kubelet, plugin: TinyPlugin
) -> None:
    await plugin.start()
    await kubelet.admit(pod := pod_of(2))
    devices = kubelet.devices_of(pod.uid, "main")

    await reboot(kubelet, admit_pods=False)
    await plugin.start()
    await kubelet.admit_again()

    assert not kubelet.pods[pod.uid].ended
    assert kubelet.devices_of(pod.uid, "main") == devices
    assert len(plugin.requests("Allocate")) == 1


async def test_the_checkpoint_names_who_has_what(kubelet: Kubelet, plugin: TinyPlugin, directory: Path) -> None:
    await plugin.start()
    await kubelet.admit(pod := pod_of(4))

    data = json.loads((directory / CHECKPOINT).read_text())["Data"]

    (entry,) = data["PodDeviceEntries"]
    assert (entry["PodUID"], entry["ContainerName"], entry["ResourceName"]) == (pod.uid, "main", RESOURCE)
    assert entry["DeviceIDs"] == {"-1": ["a", "b", "c", "d"]}
    assert data["RegisteredDevices"] == {RESOURCE: ["a", "b", "c", "d"]}


async def test_a_checkpoint_that_is_damaged_counts_as_none(
    kubelet: Kubelet, plugin: TinyPlugin, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await plugin.start()
    await kubelet.stop()
    (directory / CHECKPOINT).write_text("{}")

    await kubelet.start()

    assert kubelet.capacities() == {}
    assert "continuing without the checkpoint" in caplog.text
