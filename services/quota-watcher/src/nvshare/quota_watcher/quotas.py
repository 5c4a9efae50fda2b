"""From the values of annotations to the messages that nodes read, and back. Pure."""

from collections.abc import Mapping

from nvshare.bus.compute import PRIORITIES, priority_word
from nvshare.quota_watcher.annotations import (
    CORE_BURST,
    CORE_LIMIT,
    GROUP,
    MANAGED,
    MEMORY_LIMIT,
    PRIORITY,
    WEIGHT,
    Value,
    Values,
)
from nvshare.quota_watcher.pods import Pod
from nvshare.v1.kubernetes_pb2 import ContainerQuota, PodQuota

_FIELDS = {
    MEMORY_LIMIT: "memory_limit_bytes",
    CORE_LIMIT: "core_limit_percent",
    WEIGHT: "weight",
    PRIORITY: "priority",
    CORE_BURST: "core_burst",
}
_EVERY = ""  # container


def quota_of(pod: Pod, values: Values) -> PodQuota:
    """The message for `pod`. The entry of a named container is complete: it repeats what is for all of them."""
    names = sorted({container for _, container in values} - {_EVERY})
    for_all = {key: value for (key, container), value in values.items() if container == _EVERY}
    entries = [_entry(_EVERY, for_all)] if for_all.keys() - {MANAGED} else []
    for name in names:
        own = {key: value for (key, container), value in values.items() if container == name}
        entries.append(_entry(name, {**for_all, **own}))
    return PodQuota(
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        node=pod.node,
        created_unix_ns=pod.created_unix_ns,
        resource_version=pod.version,
        containers=entries,
        opted_out=for_all.get(MANAGED) is False,
    )


def values_of(quota: PodQuota) -> Values:
    """What was in force when `quota` was made: a watcher that starts knows from it what to keep beside a bad value."""
    by_container = {entry.container: _values(entry) for entry in quota.containers}
    for_all = by_container.get(_EVERY, {})
    found = {(key, _EVERY): value for key, value in for_all.items()}
    for container, own in by_container.items():
        found.update({(key, container): value for key, value in own.items() if for_all.get(key) != value})
    if quota.opted_out:
        found[MANAGED, _EVERY] = False
    return found


def same_quota(one: PodQuota, other: PodQuota) -> bool:
    """Whether the two say the same, whichever version of the pod they were read from."""
    left, right = PodQuota(), PodQuota()
    left.CopyFrom(one)
    right.CopyFrom(other)
    left.resource_version = right.resource_version = ""
    return left == right


def _entry(container: str, values: Mapping[str, Value]) -> ContainerQuota:
    entry = ContainerQuota(container=container, group=str(values.get(GROUP, "")))
    for key, field in _FIELDS.items():
        if key in values:
            value = values[key]
            setattr(entry, field, PRIORITIES[str(value)] if key == PRIORITY else value)
    return entry


def _values(entry: ContainerQuota) -> dict[str, Value]:
    found: dict[str, Value] = {key: getattr(entry, field) for key, field in _FIELDS.items() if entry.HasField(field)}
    if PRIORITY in found:
        found[PRIORITY] = priority_word(int(found[PRIORITY]))
    if entry.group:
        found[GROUP] = entry.group
    return found
