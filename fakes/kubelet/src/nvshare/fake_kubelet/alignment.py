"""NUMA nodes: which ones can hold a container's devices, and which devices are near to them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True, slots=True)
class Alignment:
    """Devices that are near to the chosen NUMA nodes, near to others, and of no node."""

    aligned: frozenset[str]
    unaligned: frozenset[str]
    without: frozenset[str]


def nodes_for(devices: Iterable[Sequence[int]], size: int) -> frozenset[int]:
    """The fewest NUMA nodes, and of those the lowest, near to which there are `size` of these devices (each given by
    its nodes). None if all together do not hold them.
    """
    placed = [nodes for nodes in devices if nodes]
    known = sorted({node for nodes in placed for node in nodes})
    for count in range(1, len(known) + 1):
        for nodes in combinations(known, count):
            if sum(not set(near).isdisjoint(nodes) for near in placed) >= size:
                return frozenset(nodes)
    return frozenset()


def split(nodes_of: Mapping[str, Sequence[int]], nodes: frozenset[int]) -> Alignment:
    """Devices (by ID, with the nodes of each) as they stand to `nodes`."""
    near = frozenset(device for device, own in nodes_of.items() if not nodes.isdisjoint(own))
    without = frozenset(device for device, own in nodes_of.items() if not own)
    return Alignment(near, frozenset(nodes_of) - near - without, without)
