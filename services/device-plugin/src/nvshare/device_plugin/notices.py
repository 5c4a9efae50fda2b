"""What is to be said on pods, until the cluster has taken it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from nvshare.device_plugin.records import Pod, pod_message
from nvshare.v1.kubernetes_pb2 import PodNotice

_MOST_KEPT = 512
_RETRY_SECONDS = 1.0

_log = structlog.get_logger()


class Notices:
    """A queue with an end: where the cluster is away for long, the newest of each kind on each pod is what counts."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], PodNotice] = {}
        self._news = asyncio.Event()
        self.dropped = 0

    def add(self, pod: Pod, reason: str, text: str, warning: bool = False) -> None:
        """Says it, now or when the cluster is back."""
        write = _log.warning if warning else _log.info
        write(text, reason=reason, pod=str(pod))
        key = (f"{pod}/{pod.uid}", reason)
        self._kept.pop(key, None)
        self._kept[key] = PodNotice(
            pod=pod_message(pod), warning=warning, reason=reason, text=text, time_unix_ns=time.time_ns()
        )
        if len(self._kept) > _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
            self.dropped += 1
        self._news.set()

    def waiting(self) -> list[PodNotice]:
        """What was not taken yet, the oldest first."""
        return list(self._kept.values())

    async def deliver(self, send: Callable[[PodNotice], Awaitable[bool]]) -> None:
        """Sends until it is cancelled; what `send` does not get rid of is sent again."""
        while True:
            await self._news.wait()
            self._news.clear()
            for key, notice in list(self._kept.items()):
                if not await send(notice):
                    self._news.set()
                    await asyncio.sleep(_RETRY_SECONDS)
                    break
                if self._kept.get(key) is notice:
                    del self._kept[key]
