"""Following pods through the requests, also when one of them cannot be read."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from nvshare.bus.api_access import Access
from nvshare.fake_api_server.objects import pod
from nvshare.fake_api_server.server import FakeApiServer
from nvshare.quota_watcher.api import Api, Page
from nvshare.quota_watcher.follower import Follower
from nvshare.quota_watcher.listing import Change, Gone


@dataclass
class SpoiltApi(Api):
    """Takes the spec out of the pods with these names."""

    spoilt: set[str] = field(default_factory=set)

    def __init__(self, server: FakeApiServer) -> None:
        super().__init__(Access(server.url))
        self.spoilt = set()

    async def list_pods(self, limit: int, continue_token: str) -> Page:
        page = await super().list_pods(limit, continue_token)
        return Page([self._spoil(item) for item in page.items], page.version, page.continue_token)

    def _spoil(self, item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "spec": None} if item["metadata"]["name"] in self.spoilt else item


@dataclass
class Followed:
    """A follower that runs, and what it told."""

    api: SpoiltApi
    changes: list[Change] = field(default_factory=list)
    lists: int = 0

    def __post_init__(self) -> None:
        self.follower = Follower(self.api, self.changes.append, self._listed)

    def _listed(self) -> None:
        self.lists += 1

    async def until_listed(self, times: int) -> None:
        async with asyncio.timeout(5):
            while self.lists < times:
                await asyncio.sleep(0.005)

    @property
    def gone(self) -> list[str]:
        return [change.pod.name for change in self.changes if isinstance(change, Gone)]


@contextlib.asynccontextmanager
async def following(server: FakeApiServer) -> AsyncIterator[Followed]:
    async with SpoiltApi(server) as api:
        followed = Followed(api)
        task = asyncio.create_task(followed.follower.run())
        try:
            yield followed
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_e18_a_pod_that_cannot_be_read_stays_as_it_was(server: FakeApiServer) -> None:
    server.add(pod("a"))
    server.add(pod("b"))
    async with following(server) as followed:
        await followed.until_listed(1)
        followed.api.spoilt.add("a")
        server.store.compact()
        server.add(pod("c"))
        server.store.compact()
        server.end_watches()
        await followed.until_listed(2)
        assert (followed.gone, followed.follower.malformed_pods) == ([], 1)
        assert {change.pod.name for change in followed.changes} == {"a", "b", "c"}


async def test_the_latest_pod_of_a_name_is_found(server: FakeApiServer) -> None:
    server.add(pod("a"))
    async with following(server) as followed:
        await followed.until_listed(1)
        found = followed.follower.find("default", "a")
        assert found is not None
        assert found.name == "a"
        assert followed.follower.find("default", "b") is None
