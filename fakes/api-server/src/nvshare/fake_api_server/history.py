"""What changed, in order, as far back as the server still knows. Pure."""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nvshare.fake_api_server.statuses import BAD_REQUEST, ApiError, expired

Object = Mapping[str, Any]
Key = tuple[str, str, str]
"""Plural of the resource, namespace, name."""

_VERSION = re.compile(r"([0-9a-f]+)-([0-9a-f]+)")


@dataclass(frozen=True)
class Change:
    """One object before and after one revision; None: it was not there."""

    revision: int
    key: Key
    before: Object | None
    after: Object | None

    def seen_through(self, selected: Callable[[Object], bool]) -> tuple[str, Object] | None:
        """The event for who watches only what is selected: an object that begins or ceases to be selected is added
        or deleted for them. None: they see nothing.
        """
        was = self.before is not None and selected(self.before)
        if self.after is not None and selected(self.after):
            return ("MODIFIED" if was else "ADDED", self.after)
        if not was or self.before is None:
            return None
        return ("DELETED", self.before)


class History:
    """Revisions and their changes. `era` is a word of this life of the server: versions of another one are expired."""

    def __init__(self, era: str, kept: int) -> None:
        self._era = era
        self._kept = kept
        self._changes: deque[Change] = deque()
        self.revision = 1
        self._horizon = 1  # changes up to this revision are forgotten

    def version(self, revision: int) -> str:
        """The resourceVersion of a revision: a word without meaning for clients."""
        return f"{self._era}-{revision:x}"

    def revision_of(self, version: str) -> int:
        """Raises ApiError: for a word that is no version, or one of another era."""
        found = _VERSION.fullmatch(version)
        if found is None:
            raise ApiError(BAD_REQUEST, f"invalid resource version: {version!r}")
        revision = int(found[2], 16)
        if found[1] != self._era or revision > self.revision:
            raise expired(version)
        return revision

    def record(self, change: Change) -> None:
        self._changes.append(change)
        self.revision = change.revision
        while len(self._changes) > self._kept:
            self._horizon = self._changes.popleft().revision

    def compact(self) -> None:
        """Forgets every change so far: who asks from an earlier version is told that it is expired."""
        self._changes.clear()
        self._horizon = self.revision

    def after(self, revision: int) -> Iterator[Change]:
        """The changes after `revision`. Raises ApiError when some of them are forgotten."""
        self._require(revision)
        return (change for change in list(self._changes) if change.revision > revision)

    def snapshot(self, objects: Mapping[Key, Object], revision: int) -> dict[Key, Object]:
        """What `objects` were at `revision`. Raises ApiError when that is forgotten."""
        self._require(revision)
        past = dict(objects)
        for change in reversed(self._changes):
            if change.revision <= revision:
                break
            if change.before is None:
                past.pop(change.key, None)
            else:
                past[change.key] = change.before
        return past

    def _require(self, revision: int) -> None:
        if revision < self._horizon:
            raise expired(self.version(revision))
