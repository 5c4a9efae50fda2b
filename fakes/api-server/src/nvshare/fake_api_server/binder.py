"""Gives pods without a node one that has what they ask for, as far as extended resources go. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

Object = Mapping[str, Any]


def place(pod: Object, nodes: Iterable[Object], pods: Iterable[Object]) -> str | None:
    """The node for `pod`: of those that have room the one with the fewest pods. None: none has room now.

    Counts extended resources (`domain/name`), obeys `nodeSelector`, `unschedulable` and a `Ready` condition that is
    not True. CPU, memory, taints and affinity are not looked at.
    """
    wanted = requests(pod)
    bound: dict[str, Counter[str]] = {}
    crowd: Counter[str] = Counter()
    for other in pods:
        node = other["spec"].get("nodeName")
        if node and other["status"].get("phase") not in ("Succeeded", "Failed"):
            bound.setdefault(node, Counter()).update(requests(other))
            crowd[node] += 1
    suitable = [
        name
        for node in nodes
        if _open(node, pod) and _fits(wanted, node, bound.get(name := node["metadata"]["name"], Counter()))
    ]
    return min(suitable, key=lambda name: (crowd[name], name), default=None)


def requests(pod: Object) -> Counter[str]:
    """Extended resources that a pod takes: what its containers have together, or one init container alone, if more."""
    together: Counter[str] = Counter()
    for container in pod["spec"].get("containers", []):
        together.update(_extended(container))
    for container in pod["spec"].get("initContainers", []):
        together |= _extended(container)
    return together


def _extended(container: Object) -> Counter[str]:
    resources = container.get("resources") or {}
    amounts = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return Counter({name: int(amount) for name, amount in amounts.items() if "/" in name})


def _open(node: Object, pod: Object) -> bool:
    conditions = {one["type"]: one["status"] for one in node.get("status", {}).get("conditions", [])}
    labels = node["metadata"].get("labels") or {}
    selector = pod["spec"].get("nodeSelector") or {}
    return (
        not node.get("spec", {}).get("unschedulable")
        and conditions.get("Ready", "True") == "True"
        and all(labels.get(key) == value for key, value in selector.items())
    )


def _fits(wanted: Counter[str], node: Object, taken: Counter[str]) -> bool:
    status = node.get("status", {})
    offered = status.get("allocatable") or status.get("capacity") or {}
    return all(int(offered.get(name, 0)) - taken[name] >= amount for name, amount in wanted.items())
