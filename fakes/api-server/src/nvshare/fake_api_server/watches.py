"""One watch: a stream of lines, one event each, and what can go wrong with it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from nvshare.fake_api_server.faults import STREAM_ENDS, Action, Fault
from nvshare.fake_api_server.history import Object
from nvshare.fake_api_server.resources import Target
from nvshare.fake_api_server.selectors import predicate
from nvshare.fake_api_server.statuses import ApiError, expired, status
from nvshare.fake_api_server.store import Store


@dataclass(frozen=True)
class WatchRequest:
    """What a client asked for."""

    target: Target
    version: str
    labels: str
    fields: str
    bookmarks: bool
    timeout_seconds: float


class _StreamEndedError(Exception):
    """Nothing more is to be written."""


@dataclass(eq=False)
class Watch:
    """A stream that runs. `wake` it when the store has changed; `end` it to let something happen to it."""

    store: Store
    request: WatchRequest
    faults: list[Fault]
    bookmark_seconds: float
    answering: Callable[[], Awaitable[None]]
    """Returns when the server is not frozen."""

    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _order: Fault | None = None
    _sent: int = 0

    def wake(self) -> None:
        self._woken.set()

    def end(self, fault: Fault) -> None:
        """What `fault` says happens to this stream now."""
        self._order = fault
        self._woken.set()

    async def run(self, request: web.Request) -> web.StreamResponse:
        """Serves the stream to its end. Raises ApiError before it began."""
        selected = predicate(self.request.target.resource, self.request.labels, self.request.fields)
        version, first = self.request.version, []
        if version in ("", "0"):
            page = self.store.page(self.request.target, labels=self.request.labels, fields=self.request.fields)
            version = page["metadata"]["resourceVersion"]
            first = [("ADDED", item) for item in page["items"]]
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        await stream.prepare(request)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.request.timeout_seconds
        next_bookmark = loop.time() + self.bookmark_seconds
        try:
            await self._send(request, stream, first)
            while True:
                self._woken.clear()
                await self._misbehave(request, stream)
                await self.answering()
                if not self._has(Action.BOOKMARKS_ONLY):
                    events = list(self.store.events_after(self.request.target, version, selected))
                    version = self.store.version
                    await self._send(request, stream, events)
                if loop.time() >= min(next_bookmark, deadline):
                    next_bookmark = loop.time() + self.bookmark_seconds
                    if self.request.bookmarks:
                        await self._write(stream, "BOOKMARK", self._bookmark(version))
                if loop.time() >= deadline:
                    break
                try:
                    async with asyncio.timeout_at(min(next_bookmark, deadline)):
                        await self._woken.wait()
                except TimeoutError:
                    continue
        except ApiError as error:  # the version was forgotten while the stream ran
            await self._write(stream, "ERROR", error.status())
        except _StreamEndedError:
            pass
        except ConnectionError:
            return stream
        return stream

    def _has(self, action: Action) -> bool:
        return any(fault.action is action for fault in self.faults)

    async def _send(self, request: web.Request, stream: web.StreamResponse, events: list[tuple[str, Object]]) -> None:
        if events:
            await asyncio.sleep(sum(fault.seconds for fault in self.faults if fault.action is Action.DELAY))
        for kind, item in events:
            await self._misbehave(request, stream, item)
            for _ in range(2 if self._has(Action.REPEAT) else 1):
                await self._write(stream, kind, item)
            self._sent += 1

    async def _misbehave(self, request: web.Request, stream: web.StreamResponse, item: Object | None = None) -> None:
        """Ends the stream where a fault says so. Raises _StreamEndedError then."""
        due = [fault for fault in self.faults if fault.action in STREAM_ENDS and fault.after_events <= self._sent]
        for fault in [self._order, *due] if self._order else due:
            match fault.action:
                case Action.CUT:
                    line = _line("MODIFIED", item or {"kind": self.request.target.resource.kind})
                    await stream.write(line[: len(line) // 2])
                    if request.transport is not None:
                        request.transport.abort()
                case Action.GONE:
                    await self._write(stream, "ERROR", expired(self.request.version).status())
                case Action.ERROR:
                    await self._write(stream, "ERROR", status(fault.code, "InternalError", "the watch failed"))
                case Action.SILENT:
                    while self._order is None or self._order.action is Action.SILENT:
                        self._woken.clear()
                        await self._woken.wait()
                    await self._misbehave(request, stream)
                case _:
                    pass
            raise _StreamEndedError

    async def _write(self, stream: web.StreamResponse, kind: str, item: Object) -> None:
        await self.answering()
        await stream.write(_line(kind, item))

    def _bookmark(self, version: str) -> dict[str, Any]:
        metadata = {"resourceVersion": version, "creationTimestamp": None}
        return {"kind": self.request.target.resource.kind, "apiVersion": "v1", "metadata": metadata}


def _line(kind: str, item: Object) -> bytes:
    return json.dumps({"type": kind, "object": item}, separators=(",", ":")).encode() + b"\n"
