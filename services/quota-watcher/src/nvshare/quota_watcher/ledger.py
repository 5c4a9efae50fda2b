"""What the bucket of quotas should hold, and what people should know of it. Pure.

Only facts change an entry: a pod that was seen, or one that is gone. What could not be read changes nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nvshare.quota_watcher.annotations import Fault, Values, read, words
from nvshare.quota_watcher.pods import Pod
from nvshare.quota_watcher.quotas import quota_of, values_of
from nvshare.v1.kubernetes_pb2 import PodQuota


@dataclass(frozen=True)
class ValueChange:
    """What an annotation of a pod brought into force, in words."""

    key: str
    before: str
    now: str


@dataclass(frozen=True)
class News:
    """What is new about a pod: to be logged, and faults that its owner is to be told of."""

    changes: tuple[ValueChange, ...] = ()
    faults: tuple[Fault, ...] = ()


@dataclass
class _Entry:
    values: Values
    faults: frozenset[Fault]


@dataclass
class Ledger:
    """The quotas of all pods that ask for shares and have not ended, in `wanted` by UID."""

    wanted: dict[str, PodQuota] = field(default_factory=dict)
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _kept: dict[str, Values] = field(default_factory=dict)

    def remember(self, bucket: Mapping[str, PodQuota]) -> None:
        """What the bucket holds: the last good values of pods that this process has not seen yet."""
        self._kept = {uid: values_of(quota) for uid, quota in bucket.items() if uid not in self._entries}

    def seen(self, pod: Pod) -> News:
        """A pod as it is now."""
        if pod.ended or not pod.shares:
            self.gone(pod)
            return News()
        entry = self._entries.get(pod.uid)
        last = entry.values if entry is not None else self._kept.pop(pod.uid, {})
        reading = read(pod.annotations, pod.containers, last)
        known = entry.faults if entry is not None else frozenset()
        self._entries[pod.uid] = _Entry(reading.values, frozenset(reading.faults))
        self.wanted[pod.uid] = quota_of(pod, reading.values)
        fresh = tuple(fault for fault in reading.faults if fault not in known)
        return News(tuple(_changes(last, reading.values)), fresh)

    def gone(self, pod: Pod) -> None:
        """A pod that was deleted, or has ended."""
        self._entries.pop(pod.uid, None)
        self._kept.pop(pod.uid, None)
        self.wanted.pop(pod.uid, None)


def _changes(before: Values, now: Values) -> Iterable[ValueChange]:
    for name, container in sorted(before.keys() | now.keys()):
        old, new = before.get((name, container)), now.get((name, container))
        if old != new:
            key = f"{name}.{container}" if container else name
            yield ValueChange(key, words(name, old), words(name, new))
