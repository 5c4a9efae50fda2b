"""Makes the bucket of quotas hold what it should, however often the hub goes away."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

import structlog

from nvshare.quota_watcher.quotas import same_quota
from nvshare.v1.kubernetes_pb2 import PodQuota

_AT_ONCE = 32
_TRY_AGAIN_SECONDS = 0.25

_log = structlog.get_logger()


class QuotaBucket(Protocol):
    """The key-value bucket, as `nvshare.bus.bucket.Bucket` is one."""

    async def put(self, key: str, message: PodQuota) -> bool: ...
    async def delete(self, key: str) -> bool: ...
    async def read_all(self) -> dict[str, PodQuota] | None: ...


class Publisher:
    """Writes `wanted` (by UID) into the bucket: what was marked, until the hub has acknowledged it."""

    def __init__(self, bucket: QuotaBucket, wanted: Mapping[str, PodQuota]) -> None:
        self._bucket = bucket
        self._wanted = wanted
        self._held: dict[str, PodQuota] = {}  # by the bucket, as far as is known
        self._dirty: set[str] = set()
        self._marked = asyncio.Event()
        self._writing = False
        self.failures = 0

    @property
    def settled(self) -> bool:
        """Whether the bucket holds all that it should."""
        return not self._dirty and not self._writing

    def mark(self, uid: str) -> None:
        """The entry of `uid` may have changed."""
        self._dirty.add(uid)
        self._marked.set()

    async def read(self) -> Mapping[str, PodQuota] | None:
        """Reads what the bucket holds, and marks all that is not as it should be, but for what is in it too much.
        Returns what it holds; None: the hub is away.
        """
        held = await self._bucket.read_all()
        if held is None:
            return None
        self._held = held
        for uid in self._wanted:
            if uid not in held or not same_quota(held[uid], self._wanted[uid]):
                self.mark(uid)
        return held

    @property
    def superfluous(self) -> dict[str, PodQuota]:
        """What the bucket holds of pods that are not wanted."""
        return {uid: quota for uid, quota in self._held.items() if uid not in self._wanted}

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self._writing = False
            await self._marked.wait()
            self._writing = True
            batch = [self._dirty.pop() for _ in range(min(_AT_ONCE, len(self._dirty)))]
            if not self._dirty:
                self._marked.clear()
            done = await asyncio.gather(*(self._settle(uid) for uid in batch))
            failed = [uid for uid, is_done in zip(batch, done, strict=True) if not is_done]
            if failed:
                self.failures += 1
                for uid in failed:
                    self.mark(uid)
                await asyncio.sleep(_TRY_AGAIN_SECONDS)

    async def _settle(self, uid: str) -> bool:
        wanted, held = self._wanted.get(uid), self._held.get(uid)
        if wanted is None:
            if held is None:
                return True
            if not await self._bucket.delete(uid):
                return False
            self._held.pop(uid, None)
            _log.info("quota removed", pod=f"{held.namespace}/{held.name}", uid=uid)
            return True
        if held is not None and same_quota(held, wanted):
            return True
        # It may arrive without being acknowledged: until then nobody knows what is there.
        self._held.pop(uid, None)
        if not await self._bucket.put(uid, wanted):
            return False
        self._held[uid] = wanted
        return True
