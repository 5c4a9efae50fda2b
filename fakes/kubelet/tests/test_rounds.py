"""Whatever order pods, kubelet and the plugin come and go in: no device has two owners, and none is lost."""

import random
from collections import Counter

import pytest
from fakes.kubelet.tests.conftest import RESOURCE, TinyPlugin, pod_of

from nvshare.fake_kubelet.accounting import AdmissionError
from nvshare.fake_kubelet.kubelet import Kubelet
from nvshare.fake_kubelet.pods import Pod

DEVICES = tuple(f"d{number}" for number in range(12))


@pytest.mark.parametrize("seed", range(8))
async def test_each_device_has_one_owner_over_any_rounds(kubelet: Kubelet, plugin: TinyPlugin, seed: int) -> None:
    chance = random.Random(seed)
    plugin.preferred = lambda request: chance.sample(DEVICES, chance.randint(0, 3))
    plugin.list_devices(*DEVICES)
    await plugin.start()
    running: list[Pod] = []

    for _ in range(40):
        match chance.choices(("pod", "end", "kubelet", "plugin"), (6, 3, 1, 1))[0]:
            case "pod":
                pod = pod_of(*(chance.randint(1, 3) for _ in range(chance.randint(1, 2))))
                wanted = sum(container.limits[RESOURCE] for container in pod.containers)
                try:
                    await kubelet.admit(pod)
                except AdmissionError:
                    assert wanted > len(DEVICES) - sum(owners(kubelet, running).values())
                else:
                    running.append(pod)
                    for container in pod.containers:
                        await kubelet.start_container(pod.uid, container.name)
            case "end" if running:
                kubelet.end(running.pop(chance.randrange(len(running))).uid)
            case "kubelet":
                await kubelet.restart()
                await plugin.start()
            case "plugin":
                await plugin.stop()
                await kubelet.until_allocatable(RESOURCE, 0)
                await plugin.start()

        assert max(owners(kubelet, running).values(), default=1) == 1
        assert not any(kubelet.pods[pod.uid].ended for pod in running)


def owners(kubelet: Kubelet, pods: list[Pod]) -> Counter[str]:
    """How many running containers have each device."""
    return Counter(
        device
        for pod in pods
        for container in pod.containers
        for device in kubelet.devices_of(pod.uid, container.name)[RESOURCE]
    )
