"""The part of the Kubernetes API that kubelet uses, over HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from aiohttp import ClientError, ClientSession, ClientTimeout

log = logging.getLogger(__name__)

Object = Mapping[str, Any]

_MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
_SILENCE_SECONDS = 90.0  # bookmarks come each minute
_ANSWER_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 2.0


class ApiError(Exception):
    """An answer that is no success."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class ApiClient:
    """Speaks to the server at `url`. Use it with `async with`."""

    def __init__(self, url: str, token: str = "") -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._url = url.rstrip("/")
        self._session = ClientSession(headers=headers, timeout=ClientTimeout(total=_ANSWER_SECONDS))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def call(
        self, method: str, path: str, body: Object | None = None, query: Mapping[str, str] | None = None
    ) -> Any:
        """The answer's object. Raises ApiError, or what aiohttp raises."""
        headers = _MERGE_PATCH if method == "PATCH" else {}
        async with self._session.request(
            method, f"{self._url}{path}", json=body, params=query, headers=headers
        ) as answer:
            document = await answer.json()
            if answer.status >= 400:
                raise ApiError(answer.status, str(document.get("message", "")))
            return document

    async def follow(
        self, path: str, query: Mapping[str, str], on_list: Callable[[list[Object]], None],
        on_event: Callable[[str, Object], None],
    ) -> None:  # fmt: skip
        """Hands over the objects of `path`: the list whenever it begins anew, then each change. For ever: whatever goes
        wrong is tried again.
        """
        pause_seconds = 0.1
        while True:
            try:
                found = await self.call("GET", path, query=query)
                on_list(found["items"])
                version = found["metadata"]["resourceVersion"]
                while True:
                    async for kind, item in self._watch(path, query, version):
                        pause_seconds = 0.1
                        version = item["metadata"]["resourceVersion"]
                        if kind != "BOOKMARK":
                            on_event(kind, item)
            except (ClientError, ApiError, TimeoutError, ValueError, KeyError) as error:
                log.warning("following %s again: %r", path, error)
            await asyncio.sleep(pause_seconds * random.uniform(0.5, 1.0))
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)

    async def _watch(
        self, path: str, query: Mapping[str, str], version: str
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Events after `version`, until the server ends the stream. Raises ApiError for an event of error."""
        timeout = ClientTimeout(total=None, sock_read=_SILENCE_SECONDS)
        watch = {**query, "watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
        async with self._session.get(f"{self._url}{path}", params=watch, timeout=timeout) as answer:
            if answer.status >= 400:
                raise ApiError(answer.status, await answer.text())
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError(int(event["object"].get("code", 0)), str(event["object"].get("message", "")))
                yield event["type"], event["object"]
