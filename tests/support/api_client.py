"""Asks a stand-in for an API server, and reads its streams."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientResponse, ClientSession

from nvshare.fake_api_server.server import FakeApiServer

PODS = "/api/v1/namespaces/default/pods"
MERGE = {"Content-Type": "application/merge-patch+json"}


@dataclass
class Client:
    """Asks the server, with a deadline for all."""

    session: ClientSession
    server: FakeApiServer
    streams: list[ClientResponse] = field(default_factory=list)

    async def ask(
        self, method: str, path: str, body: object = None, *, query: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """The answer's status and body."""
        headers = MERGE if method == "PATCH" else {}
        data = None if body is None else json.dumps(body)
        async with self.session.request(
            method, self.server.url + path, data=data, params=query, headers=headers
        ) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith(("{", "[")) else text

    async def get(self, path: str, **query: str) -> dict[str, Any]:
        status, body = await self.ask("GET", path, query=query)
        assert status == 200, body
        assert isinstance(body, dict)
        return body

    async def watch(self, path: str = "/api/v1/pods", **query: str) -> "Stream":
        """A watch that is open."""
        answer = await self.session.get(self.server.url + path, params={"watch": "1", **query})
        self.streams.append(answer)
        assert answer.status == 200, await answer.text()
        return Stream(answer)


@dataclass
class Stream:
    """The events of a watch."""

    answer: ClientResponse

    async def next(self) -> tuple[str, dict[str, Any]]:
        """Type and object of the next event. Raises EOFError at the end of the stream."""
        async with asyncio.timeout(5):
            line = await self.answer.content.readline()
        if not line:
            raise EOFError
        event = json.loads(line)
        return event["type"], event["object"]

    async def names(self, count: int) -> list[tuple[str, str]]:
        """Types and names of the next `count` events."""
        events = [await self.next() for _ in range(count)]
        return [(kind, item["metadata"]["name"]) for kind, item in events]
