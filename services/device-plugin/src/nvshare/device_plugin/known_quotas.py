"""The quotas that the cluster has told so far, and waiting for one that is about to come."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from nvshare.device_plugin.quotas import newest_quota
from nvshare.device_plugin.records import Pod
from nvshare.v1.kubernetes_pb2 import PodQuota


class KnownQuotas:
    """Fed by who follows the bucket. `reachable`: whether more can be hoped for."""

    def __init__(self) -> None:
        self._quotas: dict[str, PodQuota] = {}
        self._news = asyncio.Condition()
        self.reachable = False

    async def update(self, quotas: Mapping[str, PodQuota], reachable: bool) -> None:
        """All of them, as they are now."""
        async with self._news:
            self._quotas, self.reachable = dict(quotas), reachable
            self._news.notify_all()

    def get(self, pod: Pod | None) -> PodQuota | None:
        """Of one pod; None: not known."""
        return None if pod is None else newest_quota(self._quotas, pod.namespace, pod.name, pod.uid)

    async def wait_for(self, pod: Pod, timeout_seconds: float) -> PodQuota | None:
        """Of one pod, at once or as soon as it is told; None: it was not, or cannot be."""
        try:
            async with asyncio.timeout(timeout_seconds), self._news:
                while (quota := self.get(pod)) is None and self.reachable:
                    await self._news.wait()
                return quota
        except TimeoutError:
            return None
