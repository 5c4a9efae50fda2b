"""The node's GPUs as NVML tells them: a `DeviceSource` whose thread waits for errors and probes each GPU.

NVML's wait fails for all GPUs when one of them is lost, so a wait that failed says nothing of any of them: each is
asked for itself. A GPU that was reset may only be seen by a session that began after that.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Protocol

import structlog

from nvshare.device_plugin.devices import Gpu
from nvshare.device_plugin.health import Health, IgnoredXids, Probe, Verdict, after_probe, after_xid
from nvshare.device_plugin.nvml_session import NvmlError, NvmlSession, XidError

PERIOD_SECONDS = 1.0
"""Between two probes of a GPU."""

_PERIODS_OF_A_SESSION = 2  # after so many, a session in which a GPU is failed is given up for a new one
_SILENT = Probe(Verdict.DOUBTFUL, "the driver does not answer")

_log = structlog.get_logger()


class Session(Protocol):
    """What is needed of NVML while it is open; see NvmlSession."""

    gpus: tuple[Gpu, ...]
    missing: int

    def wait(self, milliseconds: int) -> XidError | None: ...
    def probe(self, uuid: str) -> Probe: ...
    def busy_permille(self, uuid: str) -> int | None: ...
    def close(self) -> None: ...


class NvmlDevices:
    """`shared_bytes`: a logical capacity of each GPU; 0: the whole card."""

    def __init__(
        self,
        indices: Collection[int] = (),
        ignored: IgnoredXids | None = None,
        shared_bytes: int = 0,
        open_session: Callable[[Collection[int]], Session] = NvmlSession,
        period_seconds: float = PERIOD_SECONDS,
    ) -> None:
        self._indices = tuple(indices)
        self._ignored = ignored or IgnoredXids()
        self._shared_bytes = shared_bytes
        self._open_session = open_session
        self._period_seconds = period_seconds
        self._known: dict[str, Gpu] = {}
        self._health: dict[str, Health] = {}
        self._busy: Mapping[str, int] = {}
        self._gpus: tuple[Gpu, ...] | None = None
        self._refusal = ""
        self._answered = False

    @property
    def gpus(self) -> tuple[Gpu, ...] | None:
        """All that are shared, in the order of their indices; None before the driver has answered."""
        return self._gpus

    async def busy_permille(self) -> Mapping[str, int]:
        """How much of about the last second each GPU was busy, as of the last probe."""
        return self._busy

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Keeps `gpus` true until it is cancelled, and calls `on_change` after each change."""
        loop = asyncio.get_running_loop()
        stop = threading.Event()

        def tell() -> None:
            if not stop.is_set():
                loop.call_soon_threadsafe(on_change)

        thread = threading.Thread(target=self._run, args=(stop, tell), name="nvml-events", daemon=True)
        thread.start()
        try:
            await loop.create_future()
        finally:
            stop.set()

    def _run(self, stop: threading.Event, tell: Callable[[], None]) -> None:
        """The thread: sessions, one after the other. An event may last for a whole wait after `stop`."""
        while not stop.is_set():
            session = self._open()
            if session is None:
                self._probe(lambda _: _SILENT, tell)
                stop.wait(self._period_seconds)
                continue
            try:
                self._use(session, stop, tell)
            except Exception:  # the thread must live: without it no GPU would fail or recover any more
                _log.exception("the watch over the GPUs failed, and begins anew")
                stop.wait(self._period_seconds)
            finally:
                session.close()

    def _open(self) -> Session | None:
        try:
            session = self._open_session(self._indices)
        except NvmlError as error:
            if str(error) != self._refusal:
                _log.warning("the driver does not answer: no GPU is offered until it does", error=str(error))
            self._refusal = str(error)
            return None
        self._refusal = ""
        for gpu in session.gpus:
            total_bytes = min(gpu.total_bytes, self._shared_bytes or gpu.total_bytes)
            self._known[gpu.uuid] = replace(gpu, total_bytes=total_bytes)
        return session

    def _use(self, session: Session, stop: threading.Event, tell: Callable[[], None]) -> None:
        """Probes and waits, until the session should be another one."""
        began = time.monotonic()
        self._answered = self._answered or session.missing == 0
        while not stop.is_set():
            self._probe(session.probe, tell)
            self._busy = {uuid: busy for uuid in self._known if (busy := session.busy_permille(uuid)) is not None}
            all_well = session.missing == 0 and all(self._health[uuid].healthy for uuid in self._known)
            if not all_well and time.monotonic() > began + _PERIODS_OF_A_SESSION * self._period_seconds:
                return
            self._listen(session, stop, tell)

    def _listen(self, session: Session, stop: threading.Event, tell: Callable[[], None]) -> None:
        """Takes errors for one period, or until the driver cannot wait any more."""
        end = time.monotonic() + self._period_seconds
        while not stop.is_set() and (left := end - time.monotonic()) > 0:
            try:
                error = session.wait(int(left * 1000) + 1)
            except NvmlError:
                # It says so at once, each time: the probes tell which GPU is to blame, without turning in a circle.
                stop.wait(min(left, self._period_seconds / 4))
                return
            if error is not None:
                _log.warning("Xid error", gpu=error.gpu, xid=error.xid, ignored=error.xid in self._ignored)
                health = self._health.get(error.gpu, Health())
                self._set({error.gpu: after_xid(health, error.xid, time.monotonic_ns(), self._ignored)}, tell)

    def _probe(self, ask: Callable[[str], Probe], tell: Callable[[], None]) -> None:
        now_ns = time.monotonic_ns()
        self._set(
            {uuid: after_probe(self._health.get(uuid, Health()), ask(uuid), now_ns) for uuid in self._known}, tell
        )

    def _set(self, news: Mapping[str, Health], tell: Callable[[], None]) -> None:
        for uuid, health in news.items():
            before = self._health.get(uuid, Health())
            if health.healthy != before.healthy:
                log = _log.info if health.healthy else _log.error
                log("the GPU is well again" if health.healthy else "the GPU failed", gpu=uuid, why=health.problem)
            self._health[uuid] = health
        if not self._known and not self._answered:
            return  # none that is known is not none
        gpus = [replace(gpu, healthy=self._health[gpu.uuid].healthy) for gpu in self._known.values()]
        changed = tuple(sorted(gpus, key=lambda gpu: (gpu.index, gpu.uuid)))
        if changed != self._gpus:
            self._gpus = changed
            tell()
