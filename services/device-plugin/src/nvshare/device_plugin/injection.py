"""What kubelet is told to put into a container. Pure.

All that changes later (the quota, the version of the library) is behind mounts: kubelet keeps this answer for as long
as the container is started again and again, and never asks twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from nvshare.kubelet.device_plugin_pb2 import CDIDevice, ContainerAllocateResponse, Mount

CLIENT_FOLDER = "/run/nvshare/client"
"""Of the allocation, in the container; the library looks for its socket here."""

LIBRARY_FOLDER = "/usr/local/nvshare"
"""Of all versions of the library, in the container."""

LIBRARY = f"{LIBRARY_FOLDER}/current/libnvshare.so"
PRELOAD_FILE = "ld.so.preload"
_PRELOAD_PATH = f"/etc/{PRELOAD_FILE}"
_VISIBLE_DEVICES = "NVIDIA_VISIBLE_DEVICES"
_DEVICES_BY_MOUNT = "/var/run/nvidia-container-devices"  # nvidia-container-toolkit, accept-…-as-volume-mounts
_CDI_KIND = "nvidia.com/gpu"


class Injection(StrEnum):
    """How the library comes into processes: a mounted ld.so.preload, or a variable that the pod can override."""

    FILE = "file"
    ENVIRONMENT = "environment"


class DeviceList(StrEnum):
    """How the container gets its GPUs: by NVIDIA's container toolkit in one of three ways, or emulated ones."""

    ENVIRONMENT = "environment"
    MOUNTS = "mounts"
    CDI = "cdi"
    EMULATED = "emulated"


@dataclass(frozen=True, slots=True)
class EmulatedCards:
    """Folders of the host: of the cards' state, and of the emulator's libraries."""

    state: Path
    libraries: Path


@dataclass(frozen=True, slots=True)
class Injections:
    """How containers of this node are given their shares. `libraries`: the host's folder of the library's versions."""

    libraries: Path
    injection: Injection = Injection.FILE
    device_list: DeviceList = DeviceList.ENVIRONMENT
    emulated: EmulatedCards | None = None

    def answer(self, folder: Path, gpus: Sequence[str]) -> ContainerAllocateResponse:
        """For a container whose allocation has this folder and these GPUs (UUIDs, each once)."""
        mounts = [(CLIENT_FOLDER, folder), (LIBRARY_FOLDER, self.libraries)]
        environment: dict[str, str] = {}
        cdi_devices: list[CDIDevice] = []
        if self.injection is Injection.FILE:
            mounts.append((_PRELOAD_PATH, folder / PRELOAD_FILE))
        else:
            environment["LD_PRELOAD"] = LIBRARY
        match self.device_list:
            case DeviceList.ENVIRONMENT:
                environment[_VISIBLE_DEVICES] = ",".join(gpus)
            case DeviceList.MOUNTS:
                environment[_VISIBLE_DEVICES] = _DEVICES_BY_MOUNT
                mounts += [(f"{_DEVICES_BY_MOUNT}/{gpu}", Path("/dev/null")) for gpu in gpus]
            case DeviceList.CDI:
                cdi_devices = [CDIDevice(name=f"{_CDI_KIND}={gpu}") for gpu in gpus]
            case DeviceList.EMULATED:
                environment |= self._emulated_environment(gpus)
        writable = []
        if self.device_list is DeviceList.EMULATED and self.emulated is not None:
            mounts.append((str(self.emulated.libraries), self.emulated.libraries))
            writable.append(Mount(container_path=str(self.emulated.state), host_path=str(self.emulated.state)))
        read_only = [Mount(container_path=inside, host_path=str(host), read_only=True) for inside, host in mounts]
        return ContainerAllocateResponse(envs=environment, mounts=read_only + writable, cdi_devices=cdi_devices)

    def _emulated_environment(self, gpus: Sequence[str]) -> dict[str, str]:
        """As `nvshare run` has it: no runtime hides the other cards, and the data of emulated cards is mostly holes."""
        if self.emulated is None:
            return {}
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(gpus),
            "LD_LIBRARY_PATH": str(self.emulated.libraries),
            "NVSHARE_EMULATOR_DIR": str(self.emulated.state),
            "NVSHARE_HOST_MEMORY": "sparse",
        }


def preload_text(opted_out: bool) -> str:
    """Of the container's /etc/ld.so.preload."""
    return "" if opted_out else f"{LIBRARY}\n"
