"""What the test programs share: a GPU by the driver's own interface, and lines of JSON to and from the test.

Runs in the program's process, under the preload library. Nothing here knows of nvshare.
"""

import ctypes
import json
import os
import sys
import time
from typing import Any

from cuda.bindings import driver

IMAGE = b"NVSHARE-EMULATOR-KERNELS-1\0"
MS = 1_000_000
MIB = 1 << 20

_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "spin": (ctypes.c_uint64,),
    "fill": (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint64),
    "add": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64),
    "checksum": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64),
}


class DriverError(Exception):
    """A driver call that did not succeed; `name` is the driver's name for it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def ok(answer: Any) -> Any:
    """The values of a driver call (one, or a tuple). Raises DriverError if it failed."""
    result, *values = answer
    if result != driver.CUresult.CUDA_SUCCESS:
        raise DriverError(result.name)
    return values[0] if len(values) == 1 else tuple(values)


def error_of(answer: Any) -> str:
    """The name of a driver call's result."""
    return str(answer[0].name)


def say(**facts: Any) -> None:
    """Tells the test."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def hear() -> str:
    """Waits for the test's word."""
    return sys.stdin.readline().strip()


def now_ns() -> int:
    """CLOCK_MONOTONIC."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class Gpu:
    """A device with its primary context current on this thread, and the emulator's kernels."""

    def __init__(self, ordinal: int = 0) -> None:
        ok(driver.cuInit(0))
        self.device = ok(driver.cuDeviceGet(ordinal))
        self.context = ok(driver.cuDevicePrimaryCtxRetain(self.device))
        self.use()
        module = ok(driver.cuModuleLoadData(IMAGE))
        self.functions = {name: ok(driver.cuModuleGetFunction(module, name.encode())) for name in _ARGUMENTS}

    def use(self) -> None:
        """Makes its context the current one of the calling thread."""
        ok(driver.cuCtxSetCurrent(self.context))

    def launch(self, kernel: str, *values: int, stream: Any = 0) -> None:
        arguments = tuple(int(value) for value in values), _ARGUMENTS[kernel]
        ok(driver.cuLaunchKernel(self.functions[kernel], 1, 1, 1, 1, 1, 1, 0, stream, arguments, 0))

    def spin(self, duration_ns: int, stream: Any = 0) -> None:
        """A kernel that takes this long."""
        self.launch("spin", duration_ns, stream=stream)

    def spin_for(self, length_ns: int, seconds: float) -> list[int]:
        """Launches kernels of this length, one after another; returns when each launch came back."""
        returned = []
        until_ns = now_ns() + int(seconds * 1e9)
        while now_ns() < until_ns:
            self.spin(length_ns)
            returned.append(now_ns())
        return returned

    def synchronize(self) -> None:
        ok(driver.cuCtxSynchronize())

    def allocate(self, size_bytes: int) -> int:
        return int(ok(driver.cuMemAlloc(size_bytes)))

    def read(self, address: int, size_bytes: int) -> bytes:
        data = bytearray(size_bytes)
        ok(driver.cuMemcpyDtoH(data, address, size_bytes))
        return bytes(data)


# ---- A program's own virtual memory management: what PyTorch and vLLM do in C++.

DESCRIPTOR = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
FABRIC = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_FABRIC


def properties(ordinal: int = 0, *, exportable: bool = False) -> Any:
    """Of physical memory on a device."""
    asked = driver.CUmemAllocationProp()
    asked.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    asked.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    asked.location.id = ordinal
    if exportable:
        asked.requestedHandleTypes = DESCRIPTOR
    return asked


def access(*ordinals: int, flags: int = 3) -> list[Any]:
    """Of devices, as cuMemSetAccess wants it; 3 is read and write."""
    descriptions = []
    for ordinal in ordinals or (0,):
        description = driver.CUmemAccessDesc()
        description.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        description.location.id = ordinal
        description.flags = driver.CUmemAccess_flags(flags)
        descriptions.append(description)
    return descriptions


def reserve(size_bytes: int) -> int:
    return int(ok(driver.cuMemAddressReserve(size_bytes, 0, 0, 0)))


def create(size_bytes: int, ordinal: int = 0, *, exportable: bool = False) -> Any:
    return ok(driver.cuMemCreate(size_bytes, properties(ordinal, exportable=exportable), 0))


def attach(address: int, size_bytes: int, handle: Any, *ordinals: int) -> None:
    """Maps it and lets the devices in."""
    ok(driver.cuMemMap(address, size_bytes, 0, handle, 0))
    ok(driver.cuMemSetAccess(address, size_bytes, access(*ordinals), len(ordinals) or 1))


def export(handle: Any) -> str:
    """Hands a handle to other processes of this user, which import_handle() it by what this returns."""
    return f"/proc/{os.getpid()}/fd/{ok(driver.cuMemExportToShareableHandle(handle, DESCRIPTOR, 0))}"


def import_handle(exported: str) -> Any:
    """A handle of memory that a process, this one or another, has exported and keeps the descriptor of."""
    descriptor = os.open(exported, os.O_RDWR)
    handle = ok(driver.cuMemImportFromShareableHandle(descriptor, DESCRIPTOR))
    os.close(descriptor)
    return handle


class ExpandableSegment:
    """As PyTorch's: a large reservation that grows and shrinks at its end by pieces of one size.

    Each piece may be exported, as PyTorch asks for everywhere, and hardly ever is.
    """

    def __init__(self, room_bytes: int, piece_bytes: int) -> None:
        self.address = reserve(room_bytes)
        self.piece_bytes = piece_bytes
        self.handles: list[Any] = []

    @property
    def size_bytes(self) -> int:
        return len(self.handles) * self.piece_bytes

    def grow(self, pieces: int) -> None:
        start = self.address + self.size_bytes
        for index in range(pieces):
            self.handles.append(create(self.piece_bytes, exportable=True))
            ok(driver.cuMemMap(start + index * self.piece_bytes, self.piece_bytes, 0, self.handles[-1], 0))
        ok(driver.cuMemSetAccess(start, pieces * self.piece_bytes, access(), 1))

    def shrink(self, pieces: int) -> None:
        ok(driver.cuCtxSynchronize())
        for _ in range(pieces):
            handle = self.handles.pop()
            ok(driver.cuMemUnmap(self.address + self.size_bytes, self.piece_bytes))
            ok(driver.cuMemRelease(handle))


class SleepingMemory:
    """As vLLM's allocator: each block has its own addresses, which stay while its memory sleeps."""

    def __init__(self, sizes_mib: list[int]) -> None:
        self.blocks = [(reserve(size * MIB), size * MIB) for size in sizes_mib]
        self.handles: list[Any] = []

    def wake(self) -> None:
        for address, size_bytes in self.blocks:
            self.handles.append(create(size_bytes))
            attach(address, size_bytes, self.handles[-1])

    def sleep(self) -> None:
        ok(driver.cuCtxSynchronize())
        for (address, size_bytes), handle in zip(self.blocks, self.handles, strict=True):
            ok(driver.cuMemUnmap(address, size_bytes))
            ok(driver.cuMemRelease(handle))
        self.handles.clear()


def turns(since_ns: int = 0, card: int = 0) -> list[tuple[int, int]]:
    """When this process had the card's compute engine, by the card's own account: starts and ends after `since_ns`."""
    from nvshare.emulator import account

    own = (turn for turn in account.turns(card) if turn.pid == os.getpid() and turn.end_ns > since_ns)
    return [(turn.start_ns, turn.end_ns) for turn in own]


def timeslice_us(card: int = 0) -> int:
    """This process's time slice, by the card's own account."""
    from nvshare.emulator import account

    return next(one.timeslice_us for one in account.accounts(card) if one.pid == os.getpid() and one.present)


def wakes(card: int = 0) -> int:
    """How often this process had the card come to it, by the card's own account."""
    from nvshare.emulator import account

    return next(one.wakes for one in account.accounts(card) if one.pid == os.getpid() and one.present)
