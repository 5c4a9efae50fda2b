"""A server on a real socket, and a client of it."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, ClientTimeout

from api_client import Client
from nvshare.fake_api_server.server import FakeApiServer


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    server = FakeApiServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(server: FakeApiServer) -> AsyncIterator[Client]:
    async with ClientSession(timeout=ClientTimeout(10)) as session:
        client = Client(session, server)
        yield client
        for stream in client.streams:
            stream.close()
