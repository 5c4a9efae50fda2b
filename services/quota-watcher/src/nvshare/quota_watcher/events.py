"""Which Kubernetes events to write, and how often. Pure.

As client-go does it: an event that was written before is counted up rather than written again; more than
`SIMILAR_EVENTS` of one reason on one pod within `INTERVAL_SECONDS` become one that says so; and each pod has so many in
store and gets a new one each `REFILL_SECONDS`. What is beyond is dropped.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")

COMPONENT = "nvshare"
INTERVAL_SECONDS = 600.0
SIMILAR_EVENTS = 10
BURST = 25
REFILL_SECONDS = 300.0
_REMEMBERED = 4096
_LONGEST_MESSAGE = 1024  # what the API server takes
_LONGEST_REASON = 128


@dataclass(frozen=True)
class Notice:
    """Something that who looks at a pod should know."""

    namespace: str
    pod: str
    uid: str
    warning: bool
    reason: str
    text: str
    container: str = ""


@dataclass(frozen=True)
class Post:
    """A new event. Where the API server has one of this name already, it is to be counted up."""

    namespace: str
    name: str
    body: dict[str, Any]


@dataclass(frozen=True)
class CountUp:
    """One more of an event that was written."""

    namespace: str
    name: str
    body: dict[str, Any]


@dataclass
class _Series:
    began: float
    texts: set[str]


@dataclass
class _Bucket:
    left: float
    filled: float


@dataclass
class EventBook:
    """What was written. It forgets the oldest beyond a few thousand. Times are in seconds since 1970."""

    dropped: int = 0
    _counts: OrderedDict[str, int] = field(default_factory=OrderedDict)
    _series: OrderedDict[tuple[str, str], _Series] = field(default_factory=OrderedDict)
    _buckets: OrderedDict[str, _Bucket] = field(default_factory=OrderedDict)

    def record(self, notice: Notice, now: float) -> Post | CountUp | None:
        """What to write for `notice`; None: nothing, its pod has had enough."""
        notice = self._combined(notice, now)
        if not self._allowed(notice, now):
            self.dropped += 1
            return None
        name = event_name(notice)
        count = self._counts.get(name, 0) + 1
        _remember(self._counts, name, count)
        if count > 1:
            return CountUp(notice.namespace, name, {"count": count, "lastTimestamp": _time(now)})
        return Post(notice.namespace, name, _body(notice, name, now))

    def counted(self, name: str, count: int) -> None:
        """The API server has counted so many: others, or an earlier life of this process, wrote some."""
        _remember(self._counts, name, count)

    def forget(self, name: str) -> None:
        """The API server does not have the event any more, or never got it."""
        self._counts.pop(name, None)

    def not_written(self, notice: Notice, name: str) -> None:
        """The API server was not there for the event: another try does not count against its pod."""
        self.forget(name)
        if notice.uid in self._buckets:
            self._buckets[notice.uid].left += 1

    def _combined(self, notice: Notice, now: float) -> Notice:
        key = (notice.uid, notice.reason)
        series = self._series.get(key)
        if series is None or now - series.began > INTERVAL_SECONDS:
            series = _Series(now, set())
        _remember(self._series, key, series)
        if notice.text in series.texts:
            return notice
        if len(series.texts) >= SIMILAR_EVENTS:
            return replace(notice, text=f"(combined from similar events) {notice.reason}: see the log of nvshare")
        series.texts.add(notice.text)
        return notice

    def _allowed(self, notice: Notice, now: float) -> bool:
        bucket = self._buckets.get(notice.uid, _Bucket(BURST, now))
        bucket.left = min(BURST, bucket.left + max(0.0, now - bucket.filled) / REFILL_SECONDS)
        bucket.filled = now
        _remember(self._buckets, notice.uid, bucket)
        if bucket.left < 1:
            return False
        bucket.left -= 1
        return True


def event_name(notice: Notice) -> str:
    """The same for the same notice: two watchers at once, or one that was restarted, count up one event."""
    identity = "\0".join((notice.uid, notice.reason, notice.text))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return f"{notice.pod[:200]}.{digest}"


def _body(notice: Notice, name: str, now: float) -> dict[str, Any]:
    about = {"kind": "Pod", "apiVersion": "v1", "namespace": notice.namespace, "name": notice.pod, "uid": notice.uid}
    if notice.container:
        about["fieldPath"] = f"spec.containers{{{notice.container}}}"
    text = notice.text if len(notice.text) <= _LONGEST_MESSAGE else notice.text[: _LONGEST_MESSAGE - 1] + "…"
    return {
        "kind": "Event",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": notice.namespace},
        "involvedObject": about,
        "type": "Warning" if notice.warning else "Normal",
        "reason": notice.reason[:_LONGEST_REASON],
        "message": text,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": "",
        "firstTimestamp": _time(now),
        "lastTimestamp": _time(now),
        "count": 1,
    }


def _time(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _remember(book: OrderedDict[K, V], key: K, value: V) -> None:
    book[key] = value
    book.move_to_end(key)
    if len(book) > _REMEMBERED:
        book.popitem(last=False)
