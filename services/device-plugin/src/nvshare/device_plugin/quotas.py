"""What a container may have: from its pod's annotations, or by default. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nvshare.bus.compute import DEFAULT_WEIGHT, NORMAL, priority_word
from nvshare.bus.quantities import format_bytes
from nvshare.v1.kubernetes_pb2 import ContainerQuota, PodQuota


@dataclass(frozen=True, slots=True)
class Quota:
    """On each GPU of the container: the members of allocation.json (docs/protocol.md). Zeros mean no limit."""

    memory_limit_bytes: int = 0
    core_limit_percent: int = 0
    weight: int = DEFAULT_WEIGHT
    priority: str = NORMAL
    core_burst: bool = False
    group: str = ""  # with its namespace

    def __str__(self) -> str:
        """For people."""
        parts = [
            f"{format_bytes(self.memory_limit_bytes)} of memory" if self.memory_limit_bytes else "the card's memory",
            f"{self.core_limit_percent} % of the time" if self.core_limit_percent else "no core limit",
        ]
        if self.core_limit_percent and self.core_burst:
            parts[-1] += " while others want the card"
        if self.weight != DEFAULT_WEIGHT:
            parts.append(f"weight {self.weight}")
        if self.priority != NORMAL:
            parts.append(self.priority)
        if self.group:
            parts.append(f"group {self.group}")
        return ", ".join(parts)


def container_quota(pod: PodQuota, container: str, default: Quota) -> Quota:
    """What `container` may have: what its own annotations say, else those for the whole pod, else `default`."""
    quota = default
    for name in ("", container) if container else ("",):
        for one in pod.containers:
            if one.container == name:
                quota = _with(quota, one, pod.namespace)
    return quota


def newest_quota(quotas: dict[str, PodQuota], namespace: str, name: str, uid: str = "") -> PodQuota | None:
    """Of the pod with that UID, or where that is not known, of the latest pod with that name. None: not known yet."""
    if uid:
        return quotas.get(uid)
    named = [one for one in quotas.values() if (one.namespace, one.name) == (namespace, name)]
    return max(named, key=lambda one: (one.created_unix_ns, one.uid), default=None)


def _with(quota: Quota, said: ContainerQuota, namespace: str) -> Quota:
    if said.HasField("memory_limit_bytes"):
        quota = replace(quota, memory_limit_bytes=said.memory_limit_bytes)
    if said.HasField("core_limit_percent"):
        quota = replace(quota, core_limit_percent=said.core_limit_percent)
    if said.HasField("weight"):
        quota = replace(quota, weight=said.weight or DEFAULT_WEIGHT)
    if said.HasField("priority"):
        quota = replace(quota, priority=priority_word(said.priority))
    if said.HasField("core_burst"):
        quota = replace(quota, core_burst=said.core_burst)
    if said.group:
        quota = replace(quota, group=f"{namespace}/{said.group}")
    return quota
