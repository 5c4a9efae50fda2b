"""A node's object in the API, and its status. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nvshare.fake_kubelet.accounting import Capacity

_KUBELET_VERSION = "v1.34.0"
_OWN_RESOURCES = {"cpu": "64", "memory": "256Gi", "pods": "1000"}  # room for what tests run


def node_object(name: str, labels: Mapping[str, str], status: Mapping[str, Any]) -> dict[str, Any]:
    """As kubelet makes it when it joins."""
    own = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {**own, **labels}},
        "spec": {},
        "status": status,
    }


def node_status(capacities: Mapping[str, Capacity], address: str, port: int, name: str, now: str) -> dict[str, Any]:
    """`port` is that of kubelet's own server."""
    return {
        "capacity": {**_OWN_RESOURCES, **{resource: str(one.capacity) for resource, one in capacities.items()}},
        "allocatable": {**_OWN_RESOURCES, **{resource: str(one.allocatable) for resource, one in capacities.items()}},
        "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": {"kubeletVersion": _KUBELET_VERSION, "operatingSystem": "linux"},
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "KubeletReady",
                "lastHeartbeatTime": now,
            }
        ],
    }


def without(status: Mapping[str, Any], gone: frozenset[str]) -> dict[str, Any]:
    """A merge patch of `status` that takes away the resources `gone`."""
    removed = dict.fromkeys(gone)
    return {
        **status,
        "capacity": {**status["capacity"], **removed},
        "allocatable": {**status["allocatable"], **removed},
    }
