"""Which container an allocation belongs to, and which allocations are over. Pure.

Allocate does not say whose the shares are, and nobody says when they are given back. What is known: who has which
share now (PodResources), the order in which allocations were made and containers started, and, where it can be read,
kubelet's checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from nvshare.device_plugin.checkpoint import Entry
from nvshare.device_plugin.records import Pod, Record
from nvshare.device_plugin.shares import Share


@dataclass(frozen=True, slots=True)
class Held:
    """The shares that one container of a pod has, by PodResources; several entries of one resource are one."""

    namespace: str
    pod: str
    container: str
    shares: frozenset[Share]


def superseded(records: Collection[Record]) -> set[str]:
    """The allocations that are certainly over: a share of theirs was allocated again after their container had been
    started. (Before any container of a pod starts, kubelet gives the shares of its init containers to its other
    containers, too: both allocations are in force then.)
    """
    latest: dict[Share, int] = {}
    for record in records:
        for share in record.shares:
            latest[share] = max(latest.get(share, 0), record.made_unix_ns)
    return {
        record.id
        for record in records
        if record.started_unix_ns and any(latest[share] > record.started_unix_ns for share in record.shares)
    }


def in_force(records: Collection[Record]) -> list[Record]:
    """The allocations that are not over, the oldest first."""
    over = superseded(records)
    return sorted((one for one in records if one.id not in over), key=lambda one: one.made_unix_ns)


def newest_of_each_share(records: Collection[Record]) -> list[Record]:
    """The allocations that have at least one share that no later one has: containers that can run at the same time.
    An init container and the container that has its shares after it are not counted twice.
    """
    alive = in_force(records)
    newest = {share: record.id for record in alive for share in record.shares}
    kept = set(newest.values())
    return [record for record in alive if record.id in kept]


def join(records: Collection[Record], held: Sequence[Held], checkpoint: Sequence[Entry]) -> dict[str, Pod]:
    """Whose each allocation is, of those for which somebody has the shares now."""
    pods: dict[tuple[str, str], set[Share]] = {}
    for one in held:
        pods.setdefault((one.namespace, one.pod), set()).update(one.shares)
    entries = {entry.allocation: entry for entry in checkpoint if entry.allocation}
    newest: dict[frozenset[Share], str] = {}
    alive = in_force(records)
    for record in alive:
        newest[frozenset(record.shares)] = record.id
    joined: dict[str, Pod] = {}
    for record in alive:
        key = _owner(record, pods)
        if key is None:
            continue
        pod = Pod(*key)
        if record.pod is not None and (record.pod.namespace, record.pod.name) == key:
            pod = record.pod
        shares = frozenset(record.shares)
        if record.id == newest[shares]:
            pod = replace(pod, container=_container(key, shares, held) or pod.container)
        entry = entries.get(record.id)
        if entry is not None:
            pod = replace(pod, uid=entry.pod_uid or pod.uid, container=entry.container or pod.container)
        joined[record.id] = pod
    return joined


def absent(records: Collection[Record], held: Sequence[Held]) -> set[str]:
    """The allocations whose pod does not have their shares now."""
    pods: dict[tuple[str, str], set[Share]] = {}
    for one in held:
        pods.setdefault((one.namespace, one.pod), set()).update(one.shares)
    over = superseded(records)
    return {record.id for record in records if record.id in over or not _is_there(record, pods)}


def _is_there(record: Record, pods: Mapping[tuple[str, str], set[Share]]) -> bool:
    if record.pod is None:
        return _owner(record, pods) is not None
    return pods.get((record.pod.namespace, record.pod.name), set()).issuperset(record.shares)


def _owner(record: Record, pods: Mapping[tuple[str, str], set[Share]]) -> tuple[str, str] | None:
    """The pod that has all shares of the allocation. None: nobody, or more than one, as a kubelet may say that still
    lists pods that have ended.
    """
    owners = [key for key, shares in pods.items() if shares.issuperset(record.shares)]
    if record.pod is not None:
        known = (record.pod.namespace, record.pod.name)
        return known if known in owners else None
    return owners[0] if len(owners) == 1 else None


def _container(key: tuple[str, str], shares: frozenset[Share], held: Sequence[Held]) -> str:
    names = [one.container for one in held if (one.namespace, one.pod) == key and one.shares == shares]
    return names[0] if len(names) == 1 else ""
