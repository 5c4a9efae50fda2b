"""Writes Kubernetes events, beside everything else: nothing waits for them, and what cannot be written is dropped."""

import asyncio
import time
from dataclasses import dataclass

import structlog

from nvshare.quota_watcher.api import Api, RefusedError, UnreachableError
from nvshare.quota_watcher.events import CountUp, EventBook, Notice, Post

_WAITING = 1000
_PATIENCE_SECONDS = 5.0  # several notices of nodes wait for one, and the hub hands them out again after 30 s
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 4.0
_CONFLICT = 409
_NOT_FOUND = 404
_TRY_AGAIN = (408, 429, 500, 502, 503, 504)

_log = structlog.get_logger()


@dataclass
class Counters:
    """Events so far."""

    written: int = 0
    failed: int = 0
    """Refused, or given up."""
    crowded_out: int = 0
    """Too many waited."""


class EventWriter:
    """`submit` never waits; `write` does, for callers that have time."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._book = EventBook()
        self._queue: asyncio.Queue[Notice] = asyncio.Queue(_WAITING)
        self.counters = Counters()

    def submit(self, notice: Notice) -> None:
        """Writes the event when its turn comes; drops it when too many wait."""
        try:
            self._queue.put_nowait(notice)
        except asyncio.QueueFull:
            self.counters.crowded_out += 1

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            notice = await self._queue.get()
            await self.write(notice)

    async def write(self, notice: Notice) -> bool:
        """Writes an event now, or counts one up; tries for some seconds. Whether nothing is left to be done."""
        entry = self._book.record(notice, time.time())
        if entry is None:
            return True
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._try(notice, entry)
        except TimeoutError:
            self._failed(entry, notice, "the API server does not answer")
            self._book.not_written(notice, entry.name)
            return False
        except (RefusedError, ValueError) as error:
            # For example its namespace is being deleted, or the service account may not write events.
            self._failed(entry, notice, str(error))
        else:
            self.counters.written += 1
        return True

    async def _try(self, notice: Notice, entry: Post | CountUp) -> None:
        """Until it is written. Raises RefusedError, ValueError."""
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._write(notice, entry)
            except UnreachableError as error:
                _log.debug("event not written yet", error=str(error))
            except RefusedError as error:
                if error.code not in _TRY_AGAIN:
                    raise
                pause_seconds = max(pause_seconds, error.retry_after_seconds)
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    async def _write(self, notice: Notice, entry: Post | CountUp) -> None:
        try:
            if isinstance(entry, Post):
                await self._api.create_event(entry.namespace, entry.body)
            else:
                await self._api.patch_event(entry.namespace, entry.name, entry.body)
        except RefusedError as error:
            if isinstance(entry, Post) and error.code == _CONFLICT:
                await self._count_on(entry)
            elif isinstance(entry, CountUp) and error.code == _NOT_FOUND:  # events live for an hour only
                self._book.forget(entry.name)
                again = self._book.record(notice, time.time())
                if again is not None:
                    await self._write(notice, again)
            else:
                raise

    async def _count_on(self, entry: Post) -> None:
        """Counts up an event that somebody wrote before: a watcher beside this one, or before it."""
        there = await self._api.patch_event(entry.namespace, entry.name, {"lastTimestamp": entry.body["lastTimestamp"]})
        count = there.get("count")
        count = (count if isinstance(count, int) else 1) + 1
        await self._api.patch_event(entry.namespace, entry.name, {"count": count})
        self._book.counted(entry.name, count)

    def _failed(self, entry: Post | CountUp, notice: Notice, why: str) -> None:
        self.counters.failed += 1
        self._book.forget(entry.name)
        _log.warning("event not written", pod=f"{notice.namespace}/{notice.pod}", reason=notice.reason, error=why)
