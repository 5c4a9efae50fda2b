"""Waiting for a condition on state that changes on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Changes:
    """Somebody says that something changed; somebody else waits for what becomes true by that."""

    def __init__(self) -> None:
        self._next: asyncio.Event | None = None

    def notify(self) -> None:
        """State that a condition may look at has changed."""
        if self._next is not None:
            self._next.set()
            self._next = None

    async def until(self, condition: Callable[[], bool], timeout_seconds: float | None = None) -> None:
        """Returns when `condition` is true. Raises TimeoutError."""
        async with asyncio.timeout(timeout_seconds):
            while not condition():
                await self.next()

    async def next(self) -> None:
        """Returns after the next change."""
        if self._next is None:
            self._next = asyncio.Event()
        await self._next.wait()
