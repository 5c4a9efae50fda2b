"""An API server to watch."""

from collections.abc import AsyncIterator

import pytest

from nvshare.fake_api_server.server import FakeApiServer


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    server = FakeApiServer(bookmark_seconds=0.5)
    await server.start()
    yield server
    await server.stop()
