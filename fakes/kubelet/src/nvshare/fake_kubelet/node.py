"""A node: kubelet, and the pods that run under it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from nvshare.fake_kubelet.kubelet import Kubelet
from nvshare.fake_kubelet.pod_worker import BackOff, PodWorker
from nvshare.fake_kubelet.pods import Pod
from nvshare.fake_kubelet.runner import Runner


class Node:
    """Runs pods by `runner`, with the devices that `kubelet` gives them. All of `on_change` are called with a pod's
    worker whenever its state has changed. `async with` starts and stops kubelet, and ends all containers.
    """

    def __init__(
        self,
        kubelet: Kubelet,
        runner: Runner,
        *,
        address: str = "127.0.0.1",
        back_off: BackOff | None = None,
    ) -> None:
        self.kubelet = kubelet
        self.address = address
        self.workers: dict[str, PodWorker] = {}
        self._runner = runner
        self._back_off = back_off
        self.on_change: list[Callable[[PodWorker], None]] = []

    async def __aenter__(self) -> Self:
        await self.kubelet.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all containers at once, then kubelet."""
        if not self.kubelet.started:  # who waits for kubelet could not end
            await self.kubelet.start()
        await asyncio.gather(*(worker.delete(0) for worker in self.workers.values()))
        await self.kubelet.stop()

    def run(self, pod: Pod) -> PodWorker:
        """Begins to run a pod; its worker says how it goes. A pod that runs already goes on."""
        if pod.uid not in self.workers:
            directory = self.kubelet.directory / "pods" / pod.uid
            worker = PodWorker(
                self.kubelet,
                self._runner,
                pod,
                directory,
                node_address=self.address,
                back_off=self._back_off,
                on_change=self._tell,
            )
            self.workers[pod.uid] = worker
        return self.workers[pod.uid]

    async def delete(self, pod_uid: str, grace_seconds: float | None = None) -> None:
        """Ends a pod, and forgets it. Its devices are freed later."""
        await self.workers[pod_uid].delete(grace_seconds)
        self.workers.pop(pod_uid, None)
        self.kubelet.remove(pod_uid)

    def _tell(self, worker: PodWorker) -> None:
        for listener in self.on_change:
            listener(worker)

    async def reboot(self, *, admit_pods: bool = True) -> None:
        """Kubelet and all containers end at once; then kubelet starts. Plugins are the caller's to end and start."""
        await self.kubelet.stop()
        await asyncio.gather(*(worker.kill_containers() for worker in self.workers.values()))
        self.kubelet.reboot_node()
        await self.kubelet.start(admit_pods=admit_pods)
