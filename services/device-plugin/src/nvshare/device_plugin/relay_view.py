"""What the relay says: which allocations it has open, with which quotas, and who lives in them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping

from nvshare.bus.compute import PRIORITIES
from nvshare.device_plugin.records import Record
from nvshare.v1.node_pb2 import Allocation, RelayState

_FRESH_SECONDS = 5.0  # it speaks each second


class RelayView:
    """The last state, for as long as it can be believed."""

    def __init__(self) -> None:
        self._state: RelayState | None = None
        self._heard_s = 0.0
        self._news = asyncio.Condition()

    async def hear(self, subject: str, state: RelayState) -> None:
        """The relay said so."""
        async with self._news:
            self._state, self._heard_s = state, time.monotonic()
            self._news.notify_all()

    @property
    def living(self) -> Mapping[str, int] | None:
        """The number of living processes by allocation; None: the relay has not spoken of late."""
        state = self._fresh()
        return None if state is None else Counter(peer.allocation for peer in state.peers)

    def shows(self, record: Record) -> bool:
        """Whether the relay has the allocation with this quota."""
        state = self._fresh()
        return state is not None and any(one.id == record.id and _same(one, record) for one in state.allocations)

    async def until_shown(self, record: Record, timeout_seconds: float) -> bool:
        """Waits until the scheduler has been told of this quota; not at all while the relay is silent."""
        try:
            async with asyncio.timeout(timeout_seconds), self._news:
                while self._fresh() is not None and not self.shows(record):
                    await self._news.wait()
        except TimeoutError:
            return False
        return self.shows(record)

    def _fresh(self) -> RelayState | None:
        return self._state if time.monotonic() - self._heard_s < _FRESH_SECONDS else None


def _same(one: Allocation, record: Record) -> bool:
    quota = record.quota
    said = (one.memory_limit_bytes, one.core_limit_percent, one.weight, one.priority, one.core_burst, one.group)
    return said == (
        quota.memory_limit_bytes,
        quota.core_limit_percent,
        quota.weight,
        PRIORITIES[quota.priority],
        quota.core_burst,
        quota.group,
    )
