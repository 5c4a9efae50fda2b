"""The requests to the API server that the watcher makes, over plain HTTP and JSON."""

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
from aiohttp.connector import AddrInfoType

from nvshare.bus.api_access import Access, AccessError

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 15.0  # until an answer begins
_LIST_SECONDS = 60.0  # until a page is whole
_SILENCE_SECONDS = 75.0  # of a watch: bookmarks come each minute
_LONGEST_LINE_BYTES = 16 * 2**20
_DEAD_PEER_MS = 10_000
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)


class RefusedError(Exception):
    """The server answered with a failure."""

    def __init__(self, code: int, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.retry_after_seconds = retry_after_seconds


class UnreachableError(Exception):
    """There was no answer, or it broke off, or was none that one can read."""


@dataclass(frozen=True)
class Page:
    """A page of a list."""

    items: list[Any]
    version: str
    continue_token: str


class Api:
    """A client of one API server; an asynchronous context."""

    def __init__(self, access: Access, *, silence_seconds: float = _SILENCE_SECONDS) -> None:
        self._access = access
        self._silence_seconds = silence_seconds
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(socket_factory=_socket)
        self._session = aiohttp.ClientSession(connector=connector, headers={"User-Agent": "nvshare-quota-watcher"})
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def list_pods(self, limit: int, continue_token: str) -> Page:
        """A page of all pods; `limit` 0: all at once. Raises RefusedError, UnreachableError."""
        query = {"limit": str(limit)} if limit else {}
        if continue_token:
            query["continue"] = continue_token
        answer = await self._json("GET", "/api/v1/pods", query=query)
        metadata, items = answer.get("metadata"), answer.get("items")
        if not isinstance(metadata, dict) or not isinstance(items, list | None):
            raise UnreachableError("the answer is no list")
        return Page(items or [], str(metadata.get("resourceVersion", "")), str(metadata.get("continue") or ""))

    async def watch_pods(self, version: str, timeout_seconds: int) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """Types and objects of the events after `version`, until the server ends the stream. Raises RefusedError, also
        for an ERROR event, and UnreachableError, also when nothing came for longer than bookmarks need.
        """
        query = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(timeout_seconds),
        }
        timeout = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=self._silence_seconds)
        async with self._open("GET", "/api/v1/pods", query=query, timeout=timeout) as answer:
            try:
                async for line in _lines(answer.content):
                    yield _event(line)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise UnreachableError(_words(error)) from None

    async def pod(self, namespace: str, name: str) -> dict[str, Any] | None:
        """One pod; None: there is none. Raises RefusedError, UnreachableError."""
        try:
            return await self._json("GET", _path(namespace, "pods", name))
        except RefusedError as error:
            if error.code == 404:
                return None
            raise

    async def create_event(self, namespace: str, body: dict[str, Any]) -> None:
        """Raises RefusedError, UnreachableError."""
        await self._json("POST", _path(namespace, "events"), body=body)

    async def patch_event(self, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """The event as it is after the patch. Raises RefusedError, UnreachableError."""
        return await self._json("PATCH", _path(namespace, "events", name), body=body)

    async def _json(
        self, method: str, path: str, *, query: dict[str, str] | None = None, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=_LIST_SECONDS, sock_connect=_CONNECT_SECONDS)
        async with self._open(method, path, query=query, body=body, timeout=timeout) as answer:
            try:
                document = json.loads(await answer.read())
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                raise UnreachableError(_words(error)) from None
        if not isinstance(document, dict):
            raise UnreachableError("the answer is no object")
        return document

    @contextlib.asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        *,
        timeout: aiohttp.ClientTimeout,
        query: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that has begun, and is no failure."""
        assert self._session is not None
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Accept": "application/json", "Content-Type": kind, **self._access.headers()}
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                answer = await self._session.request(
                    method,
                    self._access.url + path,
                    params=query,
                    data=None if body is None else json.dumps(body).encode(),
                    headers=headers,
                    ssl=self._access.tls() or True,
                    server_hostname=self._access.tls_server_name,
                    timeout=timeout,
                    allow_redirects=False,
                )
        except (aiohttp.ClientError, OSError, TimeoutError, AccessError) as error:
            raise UnreachableError(_words(error)) from None
        async with answer:
            if answer.status >= 300:
                raise await _refusal(answer)
            yield answer


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Whole lines of a stream; a pod's is longer than a StreamReader's own lines may be. Raises UnreachableError when
    the stream ends within a line.
    """
    rest = bytearray()
    async for chunk in content.iter_any():
        *lines, last = chunk.split(b"\n")
        if lines:
            yield bytes(rest) + lines[0]
            for line in lines[1:]:
                yield line
            rest.clear()
        rest += last
        if len(rest) > _LONGEST_LINE_BYTES:
            raise UnreachableError("an event is longer than any object of Kubernetes")
    if rest.strip():
        raise UnreachableError("the stream broke off within an event")


def _event(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        event = json.loads(line)
        kind, item = event["type"], event["object"]
    except (ValueError, TypeError, LookupError):
        raise UnreachableError("an event cannot be read") from None
    if not isinstance(kind, str) or not isinstance(item, dict):
        raise UnreachableError("an event cannot be read")
    if kind == "ERROR":
        details = item.get("details")
        after = details.get("retryAfterSeconds", 0) if isinstance(details, dict) else 0
        raise RefusedError(_number(item.get("code"), 500), str(item.get("message", ""))[:200], _number(after, 0))
    return kind, item


async def _refusal(answer: aiohttp.ClientResponse) -> RefusedError:
    text = ""
    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
        text = (await answer.content.read(4096)).decode(errors="replace")
    with contextlib.suppress(ValueError, AttributeError):
        text = str(json.loads(text).get("message", text))
    after = answer.headers.get("Retry-After", "")
    return RefusedError(answer.status, text[:200], float(after) if after.isdecimal() else 0.0)


def _number(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise


def _path(namespace: str, plural: str, name: str = "") -> str:
    """Raises ValueError for a name that is none: it may come from a message."""
    for part in (namespace, name or "x"):
        if not _NAME.fullmatch(part):
            raise ValueError(f"{part[:80]!r} is no name in Kubernetes")
    return f"/api/v1/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _socket(address: AddrInfoType) -> socket.socket:
    """A socket that notices within seconds that nobody is at the other end: a watch has nothing to send."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 5),
        (socket.TCP_KEEPINTVL, 2),
        (socket.TCP_KEEPCNT, 3),
        (socket.TCP_USER_TIMEOUT, _DEAD_PEER_MS),
        (socket.TCP_NODELAY, 1),
    ):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
