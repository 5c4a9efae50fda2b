"""How this kubelet behaves: its version's ways, its limits and its time."""

from dataclasses import dataclass
from enum import Enum


class Topology(Enum):
    """Of the Topology Manager's policies those that change which devices a container gets."""

    NONE = "none"
    """Devices are given without a look at NUMA nodes."""
    BEST_EFFORT = "best-effort"
    """The fewest nodes that hold enough devices are aligned; devices of others fill up."""
    SINGLE_NUMA_NODE = "single-numa-node"
    """A container whose devices do not fit on one node fails admission: TopologyAffinityError."""


class Grouping(Enum):
    """How PodResources cuts the devices that a container has of one resource into entries."""

    DEVICE = "device"
    """One entry for each device and NUMA node of it, as kubelet does today."""
    NODE = "node"
    """One entry for each NUMA node."""
    RESOURCE = "resource"
    """One entry."""


@dataclass(frozen=True, slots=True)
class Options:
    """The defaults are those of a current kubelet (1.34 and later)."""

    seed: int = 0
    """Of the order in which devices are taken where kubelet walks an unordered set."""
    register_seconds: float = 10.0
    """A plugin must be reachable, and tell its options, within this time of its call of Register."""
    pre_start_seconds: float = 30.0
    """Deadline of PreStartContainer."""
    stopped_capacity_seconds: float = 300.0
    """How long a plugin's capacity stays listed, with nothing allocatable, after its stream ended."""
    overlapping_plugins: bool = True
    """Several plugins may serve one resource, each on a socket of its own; the one that registered last counts, and
    after its end one that is left. Without it (older kubelets) the end of any of them withdraws all devices."""
    health_at_restart: bool = False
    """Whether devices must be healthy when a container starts again in its pod, too. Kubelet looks when it admits the
    pod anew, that is after its own restart; then a pod that fails is dead."""
    topology: Topology = Topology.NONE
    pod_resources_per_second: float = 100.0
    pod_resources_burst: int = 10
    grouping: Grouping = Grouping.DEVICE
    list_ended_pods: bool = False
    """PodResources lists pods that have ended, with the devices that they had, until they are deleted, as kubelet up
    to 1.33 may."""
