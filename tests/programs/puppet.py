"""A program for the emulated GPU that does what it is told, one line at a time, and answers each with a JSON line.

    alloc BYTES         allocate device memory
    free                free what was allocated last
    map BYTES           make and map memory of its own behind what it has mapped, which is its first allocation then
    export              hand the first handle of that memory to other processes
    unmap BYTES         unmap and release so much of it, the last first
    fill VALUE          write to the first allocation
    sum                 its checksum
    info                what cuMemGetInfo says
    launch NS [COUNT]   launch kernels of that many nanoseconds
    sync                wait for all launched work
    device INDEX        go on with that device
    fork                make a child that lives on and does nothing
    pulse BYTES SECONDS EVERY   allocate BYTES each EVERY seconds, for SECONDS; tells when each one returned

Each answer has `started_ns` and `ended_ns` (CLOCK_MONOTONIC) and `error`, the driver's name for it or null.
"""

import ctypes
import json
import os
import signal
import sys
import time
from typing import Any

from cuda.bindings import driver

KERNELS = b"NVSHARE-EMULATOR-KERNELS-1\0"
STRIDE = 2**20
DESCRIPTOR = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
PIECE_BYTES = 4 * 2**20
ROOM_BYTES = 2**32


class DriverError(Exception):
    """The driver refused a call; the message is its name for why."""


def call(function: Any, *arguments: Any) -> Any:
    status, *results = function(*arguments)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise DriverError(status.name)
    return results[0] if len(results) == 1 else tuple(results)


class Puppet:
    def __init__(self) -> None:
        call(driver.cuInit, 0)
        self.kernels: dict[int, Any] = {}
        self.allocations: list[tuple[int, int]] = []
        self.mapped: list[Any] = []  # handles, in the order of their addresses
        self.device("0")

    def device(self, index: str) -> None:
        context = call(driver.cuDevicePrimaryCtxRetain, call(driver.cuDeviceGet, int(index)))
        call(driver.cuCtxSetCurrent, context)
        self.module = call(driver.cuModuleLoadData, KERNELS)

    def run(self, name: str, values: tuple[int, ...], types: tuple[Any, ...]) -> None:
        kernel = call(driver.cuModuleGetFunction, self.module, name.encode())
        call(driver.cuLaunchKernel, kernel, 1, 1, 1, 1, 1, 1, 0, 0, (values, types), 0)

    def alloc(self, size_bytes: str) -> None:
        self.allocations.append((int(call(driver.cuMemAlloc, int(size_bytes))), int(size_bytes)))

    def free(self) -> None:
        call(driver.cuMemFree, self.allocations.pop()[0])

    def map(self, size_bytes: str) -> None:
        asked, access = driver.CUmemAllocationProp(), driver.CUmemAccessDesc()
        asked.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        asked.location.type = access.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        asked.requestedHandleTypes = DESCRIPTOR  # as PyTorch does everywhere
        access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        if not self.mapped:
            self.allocations.insert(0, (int(call(driver.cuMemAddressReserve, ROOM_BYTES, 0, 0, 0)), 0))
        start, mapped_bytes = self.allocations[0]
        for offset in range(mapped_bytes, mapped_bytes + int(size_bytes), PIECE_BYTES):
            self.mapped.append(call(driver.cuMemCreate, PIECE_BYTES, asked, 0))
            call(driver.cuMemMap, start + offset, PIECE_BYTES, 0, self.mapped[-1], 0)
            call(driver.cuMemSetAccess, start + offset, PIECE_BYTES, [access], 1)
        self.allocations[0] = (start, len(self.mapped) * PIECE_BYTES)

    def export(self) -> None:
        call(driver.cuMemExportToShareableHandle, self.mapped[0], DESCRIPTOR, 0)

    def unmap(self, size_bytes: str) -> None:
        start, mapped_bytes = self.allocations[0]
        for offset in range(mapped_bytes - int(size_bytes), mapped_bytes, PIECE_BYTES):
            call(driver.cuMemUnmap, start + offset, PIECE_BYTES)
            call(driver.cuMemRelease, self.mapped.pop())
        self.allocations[0] = (start, len(self.mapped) * PIECE_BYTES)
        if not self.mapped:
            call(driver.cuMemAddressFree, self.allocations.pop(0)[0], ROOM_BYTES)

    def launch(self, duration_ns: str, count: str = "1") -> None:
        for _ in range(int(count)):
            self.run("spin", (int(duration_ns),), (ctypes.c_uint64,))

    def sync(self) -> None:
        call(driver.cuCtxSynchronize)

    def info(self) -> dict[str, int]:
        free_bytes, total_bytes = call(driver.cuMemGetInfo)
        return {"free_bytes": int(free_bytes), "total_bytes": int(total_bytes)}

    def fill(self, value: str) -> None:
        address, size_bytes = self.allocations[0]
        types = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint64)
        self.run("fill", (address, size_bytes // 4, STRIDE, int(value), 1000), types)
        self.sync()

    def sum(self) -> dict[str, int]:
        address, size_bytes = self.allocations[0]
        result = ctypes.c_uint64()
        out = int(call(driver.cuMemAlloc, 8))
        types = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)
        self.run("checksum", (out, address, size_bytes // 4, STRIDE, 1000), types)
        call(driver.cuMemcpyDtoH, ctypes.addressof(result), out, 8)
        call(driver.cuMemFree, out)
        return {"sum": result.value}

    def fork(self) -> dict[str, int]:
        child = os.fork()
        if child == 0:
            os.close(0)
            os.close(1)
            while True:
                signal.pause()
        return {"child": child}

    def pulse(self, size_bytes: str, seconds: str, every: str) -> dict[str, list[int]]:
        returned_ns = []
        end = time.monotonic() + float(seconds)
        next_time = time.monotonic()
        while next_time < end:
            time.sleep(max(0.0, next_time - time.monotonic()))
            self.alloc(size_bytes)
            returned_ns.append(time.monotonic_ns())
            next_time = max(next_time + float(every), time.monotonic())
        return {"returned_ns": returned_ns}


def main() -> None:
    puppet = Puppet()
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        answer: dict[str, Any] = {"error": None, "started_ns": time.monotonic_ns()}
        try:
            answer |= getattr(puppet, name)(*arguments) or {}
        except DriverError as error:
            answer["error"] = str(error)
        print(json.dumps(answer | {"ended_ns": time.monotonic_ns()}), flush=True)


if __name__ == "__main__":
    main()
