"""Pods and nodes to begin with. Pure."""

from collections.abc import Mapping
from typing import Any

SHARES = "nvshare.com/gpu"


def pod(
    name: str,
    *,
    namespace: str = "default",
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    node: str = "",
    shares: int = 1,
    command: tuple[str, ...] = (),
    grace_seconds: int = 30,
) -> dict[str, Any]:
    """A pod with one container, `main`, that asks for `shares`."""
    container: dict[str, Any] = {"name": "main", "image": "program", "resources": {"limits": {SHARES: str(shares)}}}
    if command:
        container["command"] = list(command)
    spec: dict[str, Any] = {
        "containers": [container],
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": grace_seconds,
    }
    if node:
        spec["nodeName"] = node
    metadata = {
        "name": name,
        "namespace": namespace,
        "annotations": dict(annotations or {}),
        "labels": dict(labels or {}),
    }
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec}


def node(name: str, *, shares: int = 0) -> dict[str, Any]:
    """A node that is ready, with `shares`."""
    amounts = {SHARES: str(shares)} if shares else {}
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
