"""NVML from its opening to its end: the GPUs, their errors, how they are. Calls block, and belong in one thread."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml
import structlog

from nvshare.device_plugin.devices import Gpu
from nvshare.device_plugin.health import Probe, Verdict

_XID_EVENTS = pynvml.nvmlEventTypeXidCriticalError
_PCI_DEVICES = Path("/sys/bus/pci/devices")
_NO_ANSWER = (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_LibraryNotFound)

_log = structlog.get_logger()


class NvmlError(Exception):
    """The driver does not answer; the message is one line for people."""


@dataclass(frozen=True, slots=True)
class XidError:
    """What the driver told of a GPU (UUID)."""

    gpu: str
    xid: int


class NvmlSession:
    """NVML while it is open. `missing`: how many GPUs it counts that do not say who they are."""

    def __init__(self, indices: Collection[int] = ()) -> None:
        """Of all GPUs, or of those with these indices. Raises NvmlError."""
        _call(pynvml.nvmlInit)
        self.missing = 0
        found: list[tuple[Gpu, Any]] = []
        try:
            count = _call(pynvml.nvmlDeviceGetCount)
            for index in sorted(indices) or range(count):
                try:
                    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                    found.append((_describe(index, handle), handle))
                except pynvml.NVMLError:
                    self.missing += 1
            self.gpus = tuple(gpu for gpu, _ in found)
            self._handles = {gpu.uuid: handle for gpu, handle in found}
            # Who an event is about is told by the handle: a GPU that is lost does not answer who it is.
            self._uuids = {_address(handle): gpu.uuid for gpu, handle in found}
            self._events: Any = _call(pynvml.nvmlEventSetCreate)
        except NvmlError:
            self.close()
            raise
        for uuid, handle in self._handles.items():
            try:
                pynvml.nvmlDeviceRegisterEvents(handle, _XID_EVENTS, self._events)
            except pynvml.NVMLError as error:  # an old card, or one that is lost: probes are all there is
                _log.debug("no events", gpu=uuid, error=str(error))

    def wait(self, milliseconds: int) -> XidError | None:
        """The next error, or None when there was none for so long. Raises NvmlError when the driver cannot wait."""
        try:
            data = pynvml.nvmlEventSetWait_v2(self._events, milliseconds)
        except pynvml.NVMLError_Timeout:
            return None
        except pynvml.NVMLError as error:
            raise NvmlError(str(error)) from error
        uuid = self._uuids.get(_address(data.device))
        return XidError(uuid, int(data.eventData)) if uuid is not None and data.eventType == _XID_EVENTS else None

    def probe(self, uuid: str) -> Probe:
        """Asks a GPU how it is."""
        handle = self._handles.get(uuid)
        if handle is None:
            return Probe(Verdict.FAILED, "the driver does not know it any more")
        try:
            pynvml.nvmlDeviceGetMemoryInfo(handle)
            action = _recovery_action(handle)
        except pynvml.NVMLError_GpuIsLost:
            return Probe(Verdict.FAILED, "it is lost")
        except pynvml.NVMLError as error:
            return Probe(Verdict.DOUBTFUL, f"it does not answer: {error}")
        return Probe(Verdict.WELL) if action is None else Probe(Verdict.FAILED, f"it asks for {action}")

    def busy_permille(self, uuid: str) -> int | None:
        """How much of about the last second a GPU was busy; None: it does not say."""
        try:
            return int(pynvml.nvmlDeviceGetUtilizationRates(self._handles[uuid]).gpu) * 10
        except (KeyError, pynvml.NVMLError):
            return None

    def close(self) -> None:
        """Gives NVML back, whatever its state is."""
        if (events := getattr(self, "_events", None)) is not None:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlEventSetFree(events)
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _call(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except pynvml.NVMLError as error:
        raise NvmlError(str(error)) from error


def _describe(index: int, handle: Any) -> Gpu:
    uuid = pynvml.nvmlDeviceGetUUID(handle)
    total_bytes = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    return Gpu(uuid, index, total_bytes, numa=_numa_node(pynvml.nvmlDeviceGetPciInfo(handle).busId))


def _numa_node(bus_id: str) -> int | None:
    """The host's NUMA node that the GPU is at; None: not known. The kernel's names have domains of four digits."""
    domain, _, rest = bus_id.lower().partition(":")
    try:
        node = int((_PCI_DEVICES / f"{domain[-4:]}:{rest}" / "numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def _recovery_action(handle: Any) -> str | None:
    """What the driver says would repair the GPU; None: nothing is needed, or it is too old to say."""
    try:
        [value] = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
    except _NO_ANSWER:
        return None
    if value.nvmlReturn == pynvml.NVML_ERROR_GPU_IS_LOST:
        raise pynvml.NVMLError(value.nvmlReturn)
    if value.nvmlReturn != pynvml.NVML_SUCCESS:
        return None
    words = {
        pynvml.NVML_GPU_RECOVERY_ACTION_NONE: None,
        # Work that uses NVLink should end first; the GPU itself is well.
        pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_P2P: None,
        pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET: "a reset",
        pynvml.NVML_GPU_RECOVERY_ACTION_NODE_REBOOT: "a reboot of the node",
        pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_AND_RESET: "a reset after its work has ended",
    }
    return words.get(value.value.uiVal, f"repair (action {value.value.uiVal})")


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
