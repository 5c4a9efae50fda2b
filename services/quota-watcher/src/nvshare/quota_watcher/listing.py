"""The pods that the watcher knows, from lists and events. Pure.

Keyed by UID: a pod made again under the same name is another pod. Pods that a complete list lacks are gone; nothing
else makes one go but its DELETED event.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from nvshare.quota_watcher.pods import Pod


@dataclass(frozen=True)
class Seen:
    """A pod that is new, or is not as it was."""

    pod: Pod


@dataclass(frozen=True)
class Gone:
    """A pod that was deleted, as it was last known."""

    pod: Pod


Change = Seen | Gone


@dataclass
class Listing:
    """What is known, and the pages of the list that is being read. `complete`: a whole list was read once."""

    pods: dict[str, Pod] = field(default_factory=dict)
    complete: bool = False
    _read: dict[str, Pod] = field(default_factory=dict)

    def begin(self) -> None:
        """Forgets the pages of a list that was not read to its end."""
        self._read = {}

    def page(self, pods: Iterable[Pod]) -> list[Change]:
        """Takes over a page: what is on it is news at once, what it lacks means nothing yet."""
        changes: list[Change] = []
        for pod in pods:
            self._read[pod.uid] = pod
            changes += self.upsert(pod)
        return changes

    def end(self) -> list[Change]:
        """The list was read to its end: who is not in it is gone."""
        gone = [pod for uid, pod in self.pods.items() if uid not in self._read]
        self._read = {}
        self.complete = True
        return [change for pod in gone for change in self.remove(pod)]

    def upsert(self, pod: Pod) -> list[Change]:
        """A pod as it is now; nothing when that is known."""
        if self.pods.get(pod.uid) == pod:
            return []
        self.pods[pod.uid] = pod
        return [Seen(pod)]

    def remove(self, pod: Pod) -> list[Change]:
        """A pod that is gone; nothing when it was not known."""
        known = self.pods.pop(pod.uid, None)
        return [] if known is None else [Gone(known)]
