"""What the driver says about the node's GPUs, through NVML (the emulator's, on an emulated node)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml

from nvshare.scheduler.model import MemorySampled, Owner, ProcessMemory
from nvshare.scheduler.owners import parse_owner

_PROC = Path("/proc")


class DriverError(Exception):
    """NVML is not there, or refuses; the message is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of this node."""

    uuid: str
    index: int
    name: str
    total_bytes: int


class Driver:
    """An open NVML. Its calls take up to milliseconds and belong in a thread of their own.

    `missing` are the indices of GPUs that are there and did not say who they are.
    """

    missing: tuple[int, ...] = ()

    def __init__(self, indices: Collection[int] = ()) -> None:
        """Of all GPUs, or of those with these indices. One that is lost does not keep the others from being shared.

        Raises DriverError when none answers.
        """
        found: list[tuple[Gpu, Any]] = []
        missing: dict[int, pynvml.NVMLError] = {}
        try:
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            if indices and max(indices) >= count:
                raise DriverError(f"NVSHARE_GPUS names GPU {max(indices)}; NVML knows {count}, the first is GPU 0")
            for index in sorted(indices) or range(count):
                try:
                    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                    found.append((_describe(index, handle), handle))
                except pynvml.NVMLError as error:
                    missing[index] = error
        except pynvml.NVMLError as error:
            raise DriverError(
                f"cannot read the GPUs through NVML ({error}): install the NVIDIA driver, or use an emulated node"
            ) from error
        if not found and missing:
            named = ", ".join(f"GPU {index}: {error}" for index, error in missing.items())
            raise DriverError(f"no GPU answers ({named}): see the kernel's log for Xid errors; reset it or reboot")
        if not found:
            raise DriverError("NVML knows no GPU: check the driver, or use an emulated node")
        self.gpus: tuple[Gpu, ...] = tuple(gpu for gpu, _ in found)
        self.missing = tuple(missing)
        self._handles: dict[str, Any] = {gpu.uuid: handle for gpu, handle in found}

    def sample(self, uuid: str, clients: Collection[int] = ()) -> MemorySampled:
        """The memory of one GPU now; of processes that are not `clients` (pids) also whose they are.

        Raises DriverError.
        """
        handle = self._handles[uuid]
        started_ns = time.monotonic_ns()
        try:
            # The three answers are not of one instant. The smaller of two counts of a process can only make a dead
            # client's memory look larger than it is, never smaller.
            before = _processes(handle)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            after = _processes(handle)
        except pynvml.NVMLError as error:
            raise DriverError(f"NVML does not answer for {uuid}: {error}") from error
        processes = tuple(
            ProcessMemory(
                pid, min(size, after[pid]), (_PROC / str(pid)).exists(), Owner() if pid in clients else _owner(pid)
            )
            for pid, size in before.items()
            if pid in after
        )
        return MemorySampled(started_ns, int(memory.total), int(memory.used), processes)

    def renew(self) -> bool:
        """Opens NVML anew: a GPU that was reset may only be seen after that. Whether one of the missing answers now."""
        self.close()
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return False
        for uuid in self._handles:
            with contextlib.suppress(pynvml.NVMLError):
                self._handles[uuid] = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        return any(_answers(index) for index in self.missing)

    def close(self) -> None:
        """Gives NVML back, if it is open."""
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _answers(index: int) -> bool:
    try:
        _describe(index, pynvml.nvmlDeviceGetHandleByIndex(index))
    except pynvml.NVMLError:
        return False
    return True


def _describe(index: int, handle: Any) -> Gpu:
    name, uuid = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetUUID(handle)
    return Gpu(_text(uuid), index, _text(name), int(pynvml.nvmlDeviceGetMemoryInfo(handle).total))


def _processes(handle: Any) -> dict[int, int]:
    """Bytes by pid. A process whose bytes the driver does not tell is left out."""
    listed = list(pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
    with contextlib.suppress(pynvml.NVMLError_NotSupported):  # cards that only compute
        listed += pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
    return {int(process.pid): int(process.usedGpuMemory) for process in listed if process.usedGpuMemory is not None}


def _owner(pid: int) -> Owner:
    """What the kernel lets us know of it: less, or nothing, of another user's."""
    texts = {"comm": "", "cgroup": ""}
    for name in texts:
        with contextlib.suppress(OSError):
            texts[name] = (_PROC / str(pid) / name).read_text(errors="replace")
    return parse_owner(texts["comm"], texts["cgroup"])


def _text(answer: str | bytes) -> str:
    return answer.decode() if isinstance(answer, bytes) else answer
