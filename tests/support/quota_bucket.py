"""A bucket of quotas in memory, for tests of what writes it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from nvshare.quota_watcher.annotations import CORE_LIMIT
from nvshare.quota_watcher.quotas import values_of
from nvshare.v1.kubernetes_pb2 import PodQuota


@dataclass
class MemoryBucket:
    """As the hub's, which is `away` when the test says so. `puts` and `deletes` count what was written."""

    held: dict[str, PodQuota] = field(default_factory=dict)
    away: bool = False
    puts: int = 0
    deletes: list[str] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def put(self, key: str, message: PodQuota) -> bool:
        if self.away:
            return False
        self.puts += 1
        self.held[key] = message
        await self._notify()
        return True

    async def delete(self, key: str) -> bool:
        if self.away:
            return False
        self.deletes.append(key)
        self.held.pop(key, None)
        await self._notify()
        return True

    async def read_all(self) -> dict[str, PodQuota] | None:
        return None if self.away else dict(self.held)

    async def until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        """Waits until `condition` holds. Raises TimeoutError."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(condition)

    def cores(self) -> dict[str, int]:
        """The core limits of pods, by name; 0: none."""
        limits = {quota.name: values_of(quota).get((CORE_LIMIT, ""), 0) for quota in self.held.values()}
        return {name: int(limit) for name, limit in limits.items()}

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
