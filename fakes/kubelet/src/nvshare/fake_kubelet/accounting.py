"""Which devices there are, who has which, and which ones a container gets. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

from nvshare.fake_kubelet.alignment import Alignment, nodes_for, split
from nvshare.fake_kubelet.options import Topology

NO_NODE = -1
"""Stands for the NUMA node of a device that names none."""

UNEXPECTED = "UnexpectedAdmissionError"
"""Reason of a pod whose devices could not be given."""


class AdmissionError(Exception):
    """A pod that this node does not take. `reason` is the pod's; the message is kubelet's sentence."""

    def __init__(self, message: str, reason: str = UNEXPECTED) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Capacity:
    """Of a resource on the node: all devices, and the healthy ones."""

    capacity: int
    allocatable: int


@dataclass(frozen=True, slots=True)
class Device:
    """As the plugin lists it. `nodes` are the NUMA nodes that it is near to."""

    id: str
    healthy: bool = True
    nodes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Holding:
    """The devices that a container has of one resource, by NUMA node, and the plugin's answer (protobuf)."""

    pod_uid: str
    container: str
    resource: str
    devices: Mapping[int, tuple[str, ...]]
    response: bytes

    @property
    def ids(self) -> tuple[str, ...]:
        """Each device once."""
        return tuple(sorted({device for ids in self.devices.values() for device in ids}))


@dataclass(frozen=True, slots=True)
class Choice:
    """What is settled before a plugin is asked for its preference, and what is open."""

    resource: str
    size: int
    taken: tuple[str, ...]
    """Settled; the plugin is told to include them."""
    offered: frozenset[str] = frozenset()
    """What the plugin is told as available: with `taken`."""
    selectable: frozenset[str] = frozenset()
    """Of its answer what counts."""
    refills: tuple[frozenset[str], ...] = ()
    """Where the rest comes from, one set after the other."""

    @property
    def open(self) -> bool:
        return len(self.taken) < self.size


@dataclass(slots=True)
class Inventory:
    """A resource's devices by ID."""

    healthy: dict[str, Device] = field(default_factory=dict)
    unhealthy: dict[str, Device] = field(default_factory=dict)


class Accounts:
    """A node's devices and who has them."""

    def __init__(self, random: Random, topology: Topology = Topology.NONE) -> None:
        self._random = random
        self._topology = topology
        self.resources: dict[str, Inventory] = {}
        self._holdings: dict[tuple[str, str, str], Holding] = {}

    @property
    def holdings(self) -> tuple[Holding, ...]:
        return tuple(self._holdings.values())

    def knows(self, resource: str) -> bool:
        """Whether `resource` is, or was, a plugin's."""
        return resource in self.resources or any(key[2] == resource for key in self._holdings)

    def expect(self, resource: str) -> None:
        """A plugin has registered `resource`, or had before kubelet started: no devices are known yet."""
        self.resources.setdefault(resource, Inventory())

    def list_devices(self, resource: str, devices: Iterable[Device]) -> None:
        """Replaces all devices of `resource`."""
        inventory = Inventory()
        for device in devices:
            (inventory.healthy if device.healthy else inventory.unhealthy)[device.id] = device
        self.resources[resource] = inventory

    def withdraw(self, resource: str) -> None:
        """All devices of `resource` are unhealthy from now on."""
        inventory = self.resources.get(resource, Inventory())
        self.resources[resource] = Inventory({}, inventory.unhealthy | inventory.healthy)

    def drop(self, resource: str) -> None:
        """Forgets that there was such a plugin. Who has devices of it keeps them."""
        self.resources.pop(resource, None)

    def in_use(self, resource: str) -> frozenset[str]:
        return frozenset(one for held in self._holdings.values() if held.resource == resource for one in held.ids)

    def held(self, pod_uid: str, container: str) -> tuple[Holding, ...]:
        return tuple(held for key, held in self._holdings.items() if key[:2] == (pod_uid, container))

    def held_of(self, pod_uid: str, container: str, resource: str) -> Holding | None:
        return self._holdings.get((pod_uid, container, resource))

    def choose(self, resource: str, size: int, reusable: Collection[str] = ()) -> Choice:
        """Begins to choose `size` devices; those that init containers of the pod had come first.

        Raises AdmissionError where there are too few.
        """
        inventory = self._usable(resource)
        taken = self._some(reusable, size)
        needed = size - len(taken)
        if needed == 0:
            return Choice(resource, size, taken)
        available = frozenset(inventory.healthy) - self.in_use(resource)
        if len(available) < needed:
            raise AdmissionError(
                f"requested number of devices unavailable for {resource}. Requested: {needed}, "
                f"Available: {len(available)}"
            )
        alignment = self._align(inventory, available, frozenset(reusable), size)
        if needed < len(alignment.aligned):
            offered = alignment.aligned | frozenset(taken)
            return Choice(resource, size, taken, offered, alignment.aligned, (alignment.aligned,))
        taken += self._some(alignment.aligned, needed)
        if len(taken) == size:
            return Choice(resource, size, taken)
        refills = (alignment.unaligned, alignment.without)
        return Choice(resource, size, taken, available | frozenset(taken), available, refills)

    def complete(self, choice: Choice, preferred: Iterable[str] = ()) -> tuple[str, ...]:
        """The devices: those settled, then the preferred ones that may be chosen, then any."""
        taken = list(choice.taken)
        wanted = frozenset(preferred) & choice.selectable
        for source in (wanted, *choice.refills):
            taken += self._some(source - frozenset(taken), choice.size - len(taken))
        return tuple(taken)

    def check_again(self, holding: Holding, size: int) -> None:
        """A container that has its devices is admitted anew. Raises AdmissionError unless all are healthy."""
        if size != len(holding.ids):
            raise AdmissionError(
                f"pod {holding.pod_uid!r} container {holding.container!r} changed request for resource "
                f"{holding.resource!r} from {len(holding.ids)} to {size}"
            )
        if not frozenset(holding.ids) <= self._usable(holding.resource).healthy.keys():
            raise AdmissionError(
                "previously allocated devices are no longer healthy; "
                f"cannot allocate unhealthy devices {holding.resource}"
            )

    def give(self, pod_uid: str, container: str, resource: str, ids: Iterable[str], response: bytes) -> Holding:
        """The container has these devices from now on."""
        healthy = self.resources[resource].healthy
        by_node: dict[int, list[str]] = {}
        for device in ids:
            for node in (healthy[device].nodes if device in healthy else ()) or (NO_NODE,):
                by_node.setdefault(node, []).append(device)
        devices = {node: tuple(sorted(some)) for node, some in sorted(by_node.items())}
        holding = Holding(pod_uid, container, resource, devices, response)
        self._holdings[pod_uid, container, resource] = holding
        return holding

    def release_all_but(self, active_pods: Collection[str]) -> tuple[Holding, ...]:
        """Frees what pods have that are not active any more, and says what that was."""
        freed = tuple(held for held in self._holdings.values() if held.pod_uid not in active_pods)
        for held in freed:
            del self._holdings[held.pod_uid, held.container, held.resource]
        return freed

    def restore(self, holdings: Iterable[Holding], resources: Iterable[str]) -> None:
        """Takes over a checkpoint: who has what, and which resources had a plugin, whose devices are not known now."""
        self._holdings = {(held.pod_uid, held.container, held.resource): held for held in holdings}
        self.resources = {resource: Inventory() for resource in resources}

    def _usable(self, resource: str) -> Inventory:
        inventory = self.resources.get(resource)
        if inventory is None:
            raise AdmissionError(f"cannot allocate unregistered device {resource}")
        if not inventory.healthy:
            raise AdmissionError(f"no healthy devices present; cannot allocate unhealthy devices {resource}")
        return inventory

    def _align(self, inventory: Inventory, available: frozenset[str], reusable: frozenset[str], size: int) -> Alignment:
        nodes_of = {one: inventory.healthy[one].nodes for one in available}
        if self._topology is Topology.NONE or not any(device.nodes for device in inventory.healthy.values()):
            return Alignment(frozenset(), frozenset(), available)
        usable = [one.nodes for one in inventory.healthy.values() if one.id in available | reusable]
        nodes = nodes_for(usable, size)
        if self._topology is Topology.SINGLE_NUMA_NODE and len(nodes) != 1:
            raise AdmissionError("Resources cannot be allocated with Topology locality", "TopologyAffinityError")
        return split(nodes_of, nodes) if nodes else Alignment(frozenset(), frozenset(), available)

    def _some(self, ids: Collection[str], most: int) -> tuple[str, ...]:
        """At most `most` of `ids`, in no particular order but that of the seed."""
        ordered = sorted(ids)
        return tuple(self._random.sample(ordered, min(most, len(ordered))))
