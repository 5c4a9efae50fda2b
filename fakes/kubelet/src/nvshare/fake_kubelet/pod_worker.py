"""The life of one pod: its containers start in order, start again, and end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nvshare.fake_kubelet.accounting import UNEXPECTED, AdmissionError
from nvshare.fake_kubelet.kubelet import Kubelet
from nvshare.fake_kubelet.launches import launch
from nvshare.fake_kubelet.plugin_client import PluginError
from nvshare.fake_kubelet.pods import Container, Kind, Pod, PodError
from nvshare.fake_kubelet.runner import Runner, Running, StartError
from nvshare.fake_kubelet.statuses import ContainerRecord, Ended, PodRecord, Started, Waiting

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BackOff:
    """How long a container that ended, or could not start, waits: nothing the first time after an end, then `first`,
    twice as long each time, up to `most`; from the beginning again after it ran for `reset`."""

    first_seconds: float = 10.0
    most_seconds: float = 300.0
    reset_seconds: float = 600.0


def timestamp() -> str:
    """Now, as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class PodWorker:
    """Runs one pod. `directory` is for its logs and volumes; `on_change` is called when `record` has changed."""

    def __init__(
        self,
        kubelet: Kubelet,
        runner: Runner,
        pod: Pod,
        directory: Path,
        *,
        node_address: str = "",
        back_off: BackOff | None = None,
        on_change: Callable[[PodWorker], None] = lambda worker: None,
    ) -> None:
        self.pod = pod
        self.directory = directory
        self._kubelet = kubelet
        self._runner = runner
        self._node_address = node_address
        self._back_off = back_off or BackOff()
        self._on_change = on_change
        self._containers = {one.name: ContainerRecord() for one in pod.containers}
        self._running: dict[str, Running] = {}
        self._started = timestamp()
        self._finished = False
        self._failure: tuple[str, str] | None = None
        self._end = asyncio.Event()
        self._grace_seconds = pod.grace_seconds
        self._life: asyncio.Task[None] = asyncio.create_task(self._run())

    @property
    def record(self) -> PodRecord:
        return PodRecord(self.pod, dict(self._containers), self._started, self._finished, self._failure)

    @property
    def finished(self) -> bool:
        """No container runs, and none will start again."""
        return self._finished

    def log_path(self, container: str, attempt: int | None = None) -> Path:
        """The output of a container: of its present or last start, or of another one."""
        number = self._containers[container].restarts if attempt is None else attempt
        return self.directory / "logs" / container / f"{number}.log"

    async def wait(self) -> PodRecord:
        """What it came to, when the pod has ended."""
        await asyncio.shield(self._life)
        return self.record

    def process_of(self, container: str) -> Running | None:
        """The running container."""
        return self._running.get(container)

    async def delete(self, grace_seconds: float | None = None) -> None:
        """Ends the pod: SIGTERM, and SIGKILL after the grace. Asked again with a shorter one, it ends sooner."""
        self._grace_seconds = self.pod.grace_seconds if grace_seconds is None else grace_seconds
        if self._end.is_set():
            await self._stop(list(self._running))
        else:
            self._end.set()
            self._kubelet.changes.notify()
        await self.wait()

    async def kill_containers(self) -> None:
        """All at once, by SIGKILL, as when the node loses power. Those that may start again will."""
        await asyncio.gather(*(running.stop(0) for running in list(self._running.values())))

    async def _run(self) -> None:
        try:
            await self._kubelet.admit(self.pod)
            containers = asyncio.create_task(self._run_containers())
            ending = asyncio.create_task(self._until_ending())
            await asyncio.wait({containers, ending}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                await self._stop([one.name for one in self.pod.containers if one.kind is not Kind.SIDECAR])
                await self._stop(list(self._running))
            ending.cancel()
            await containers
        except AdmissionError as error:
            self._failure = (error.reason, _rejected(error))
        except Exception as error:
            log.exception("pod %s/%s", self.pod.namespace, self.pod.name)
            self._failure = ("KubeletError", repr(error))
        state = self._kubelet.pods.get(self.pod.uid)
        if state is not None and state.rejection is not None:
            self._failure = (state.rejection.reason, _rejected(state.rejection))
        self._finished = True
        if state is not None:
            self._kubelet.end(self.pod.uid)
        self._changed()

    async def _until_ending(self) -> None:
        """Until somebody deletes the pod, or kubelet rejects it when it admits it anew."""

        def ending() -> bool:
            state = self._kubelet.pods.get(self.pod.uid)
            return self._end.is_set() or state is None or state.rejection is not None

        await self._kubelet.changes.until(ending)
        self._end.set()

    async def _stop(self, names: Sequence[str]) -> None:
        running = [self._running[name] for name in names if name in self._running]
        await asyncio.gather(*(one.stop(self._grace_seconds) for one in running))

    async def _run_containers(self) -> None:
        sidecars: list[asyncio.Task[bool]] = []
        try:
            for container in self.pod.containers:
                if container.kind is Kind.INIT and not await self._keep(container):
                    return
                if container.kind is Kind.SIDECAR:
                    up = asyncio.Event()
                    sidecars.append(asyncio.create_task(self._keep(container, up)))
                    await self._first_of(up.wait(), self._end.wait())
            apps = [container for container in self.pod.containers if container.kind is Kind.APP]
            await asyncio.gather(*(self._keep(container) for container in apps))
        finally:
            self._end.set()
            await self._stop([one.name for one in self.pod.containers if one.kind is Kind.SIDECAR])
            await asyncio.gather(*sidecars)

    async def _keep(self, container: Container, up: asyncio.Event | None = None) -> bool:
        """Runs a container until it has ended for good; whether that was well."""
        failures = 0
        while not self._end.is_set():
            running = await self._start(container)
            if running is None:
                failures = max(failures, 1)
                await self._pause(failures)
                failures += 1
                continue
            if up is not None:
                up.set()
            started_seconds = time.monotonic()
            code = await self._until_end(container, running)
            if not self._starts_again(container, code):
                return code == 0
            if time.monotonic() - started_seconds >= self._back_off.reset_seconds:
                failures = 0
            if failures:
                message = f"back-off restarting failed container={container.name}"
                self._set(container, Waiting("CrashLoopBackOff", message))
                await self._pause(failures)
            failures += 1
        return False

    async def _start(self, container: Container) -> Running | None:
        """Starts a container. None where that failed, or the pod is to end."""
        await self._first_of(self._kubelet.until_started(), self._end.wait())
        if self._end.is_set():
            return None
        try:
            options = await self._kubelet.start_container(self.pod.uid, container.name)
            attempt = self._containers[container.name]
            told = launch(
                self.pod,
                container,
                options,
                attempt=attempt.restarts + (attempt.last is not None or isinstance(attempt.state, Ended)),
                node_address=self._node_address,
                volume_path=self._volume_path,
            )
            running = await self._runner.start(told, self.log_path(container.name, told.attempt))
        except AdmissionError:
            await self._end.wait()
            return None
        except (PluginError, PodError) as error:
            self._not_started(container, "CreateContainerConfigError", str(error))
            return None
        except StartError as error:
            self._not_started(container, error.reason, str(error))
            return None
        self._running[container.name] = running
        self._set(container, Started(timestamp(), running.id))
        if self._end.is_set():
            await running.stop(0)
        return running

    def _not_started(self, container: Container, reason: str, message: str) -> None:
        self._kubelet.end_container(self.pod.uid, container.name, done=False)
        self._set(container, Waiting(reason, message))

    async def _until_end(self, container: Container, running: Running) -> int:
        code = await running.wait()
        state = self._containers[container.name].state
        started = state.at if isinstance(state, Started) else self._started
        del self._running[container.name]
        if self.pod.uid in self._kubelet.pods:
            self._kubelet.end_container(self.pod.uid, container.name, done=code == 0)
        self._set(container, Ended(code, started, timestamp(), running.id))
        await running.remove()
        return code

    def _starts_again(self, container: Container, code: int) -> bool:
        if self._end.is_set():
            return False
        if container.kind is Kind.SIDECAR:
            return True
        if container.kind is Kind.INIT:
            return code != 0 and self.pod.restart_policy != "Never"
        return self.pod.restart_policy == "Always" or (code != 0 and self.pod.restart_policy == "OnFailure")

    async def _pause(self, failures: int) -> None:
        """Waits for the time that is due after so many failures, or until the pod is to end."""
        longest = self._back_off.most_seconds
        seconds = min(self._back_off.first_seconds * 2.0 ** min(failures - 1, 16), longest)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._end.wait()

    async def _first_of(self, *waits: Coroutine[Any, Any, object]) -> None:
        tasks = {asyncio.create_task(one) for one in waits}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    def _volume_path(self, volume: str) -> str:
        path = self.directory / "volumes" / volume
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    def _set(self, container: Container, state: Waiting | Started | Ended) -> None:
        self._containers[container.name] = self._containers[container.name].now(state)
        self._changed()

    def _changed(self) -> None:
        self._on_change(self)
        self._kubelet.changes.notify()


def _rejected(error: AdmissionError) -> str:
    unexpected = error.reason == UNEXPECTED
    return "Pod was rejected: " + (f"Allocate failed due to {error}, which is unexpected" if unexpected else str(error))
