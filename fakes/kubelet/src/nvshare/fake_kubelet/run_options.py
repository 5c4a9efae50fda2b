"""What the plugins' answers add to a container. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nvshare.kubelet.device_plugin_pb2 import ContainerAllocateResponse


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or file of the host in the container."""

    container_path: str
    host_path: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device node of the host in the container. `permissions` are of "r", "w", "m"."""

    container_path: str
    host_path: str
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The sum of all answers that a container got, one for each resource."""

    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    devices: tuple[DeviceNode, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    cdi_devices: tuple[str, ...] = ()


def merge(responses: Iterable[bytes]) -> RunOptions:
    """Adds up serialized answers. Where two disagree the first one counts, as with kubelet."""
    environment: dict[str, str] = {}
    annotations: dict[str, str] = {}
    mounts: dict[str, Mount] = {}
    devices: dict[str, DeviceNode] = {}
    cdi_devices: dict[str, None] = {}
    for data in responses:
        response = ContainerAllocateResponse.FromString(data)
        for name, value in response.envs.items():
            environment.setdefault(name, value)
        for name, value in response.annotations.items():
            annotations.setdefault(name, value)
        for mount in response.mounts:
            path = mount.container_path
            mounts.setdefault(path, Mount(path, mount.host_path, mount.read_only))
        for node in response.devices:
            path = node.container_path
            devices.setdefault(path, DeviceNode(path, node.host_path, node.permissions))
        cdi_devices |= dict.fromkeys(device.name for device in response.cdi_devices)
    return RunOptions(environment, tuple(mounts.values()), tuple(devices.values()), annotations, tuple(cdi_devices))
