"""What is known of a machine and of the node on it. Plain data: `gather` fills it, the checks judge it.

None stands for what could not be found out, mostly for want of permission.
"""

from __future__ import annotations

from dataclasses import dataclass

from nvshare.v1.control_pb2 import StatusReply


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Kernel, C library and memory. The kernel's features by what they are for."""

    root: bool
    container: bool  # this is one: much of the host cannot be seen from here
    kernel: str
    glibc: str  # empty: another C library
    membarrier: bool
    pidfd: bool
    peer_pidfd: bool
    memfd: bool
    memory_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """One GPU. `problem`: why it cannot be used; empty: it answers well."""

    index: int
    uuid: str = ""
    name: str = ""
    total_bytes: int = 0
    problem: str = ""
    exclusive: bool = False  # its compute mode lets one process have it, or none
    mig: bool = False
    display: bool = False


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """NVIDIA's driver. `refusal`: why NVML cannot be used; empty: it can."""

    version: str = ""
    refusal: str = ""
    emulated: bool = False
    libcuda: bool = False
    gpus: tuple[GpuFacts, ...] = ()
    mps_pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolkitFacts:
    """NVIDIA's container toolkit, as far as files tell."""

    programs: tuple[str, ...] = ()  # that are there
    runtimes: tuple[str, ...] = ()  # files of container runtimes that name it
    default: bool = False  # one of them makes it the default, so that pods need no runtime class
    cdi_specs: tuple[str, ...] = ()  # that describe GPUs


@dataclass(frozen=True, slots=True)
class KubeletFacts:
    """Kubelet's folder. `devices`: those that kubelet has registered, by resource; None: its record is not readable."""

    folder: str
    present: bool = False
    readable: bool = True
    plugins_writable: bool | None = None
    answers: bool | None = None  # something listens on its socket for plugins
    pod_resources: bool | None = None
    sockets: tuple[str, ...] = ()  # of plugins
    devices: dict[str, tuple[str, ...]] | None = None


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """The node's folder. `owner`: uid; `mode`: its permissions."""

    path: str
    present: bool = False
    owner: int = 0
    mode: int = 0
    noexec: bool = False
    socket_path_bytes: int = 0  # of the longest socket in it
    library_build: str | None = None  # of the library that containers get; None: none is installed here


@dataclass(frozen=True, slots=True)
class AllocationFacts:
    """An allocation of the device plugin, as it is on disk."""

    id: str
    pod: str  # `namespace/name`; empty: nobody knows yet
    age_seconds: float


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """The node that runs. `status`: what its scheduler said; `refusal`: why it said nothing."""

    path: str
    emulated: bool = False
    build: str = ""
    status: StatusReply | None = None
    refusal: str = ""
    hub: bool | None = None  # it answers; None: there is none, or it could not be asked
    hub_problem: str = ""  # why it could not be asked
    allocations: tuple[AllocationFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """All. `node`: None, where none runs. `user`: the uid that asks."""

    user: int
    host: HostFacts
    driver: DriverFacts
    toolkit: ToolkitFacts
    kubelet: KubeletFacts
    folder: FolderFacts
    node: NodeFacts | None
