"""How fast memory can be moved off a card and back without nvshare, on `cuda-bindings`: what a swap is compared with.

    python -m nvshare.cli.workloads.moves pinned --out-bytes N --in-bytes M   # copies, through pinned host memory
    python -m nvshare.cli.workloads.moves managed --out-bytes N --in-bytes N  # prefetches of managed memory
    python -m nvshare.cli.workloads.moves hold --out-bytes N                  # holds memory until stdin ends
    python -m nvshare.cli.workloads.moves checkpoint --pid P                  # the driver's checkpoint of that process

Prints one JSON line, with the nanoseconds of each way; `error` is the driver's name for why it cannot.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from cuda.bindings import driver

CHUNK_BYTES = 256 * 2**20
PAGE_BYTES = 4096
LOCK_TIMEOUT_MS = 10_000


class DriverError(Exception):
    """The driver refused a call; the message is its name for why."""


def call(function: Any, *arguments: Any) -> Any:
    """Call the driver; returns its result. Raises DriverError."""
    status, *results = function(*arguments)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise DriverError(f"{function.__name__}: {status.name}")
    return results[0] if len(results) == 1 else tuple(results)


def timed_ns(work: Callable[[], None]) -> int:
    """Nanoseconds of `work`."""
    before = time.monotonic_ns()
    work()
    return time.monotonic_ns() - before


def context() -> Any:
    """The first card's primary context, current; returns the device."""
    call(driver.cuInit, 0)
    device = call(driver.cuDeviceGet, 0)
    call(driver.cuCtxSetCurrent, call(driver.cuDevicePrimaryCtxRetain, device))
    return device


def pinned(out_bytes: int, in_bytes: int) -> dict[str, int]:
    """One copy after the other on one stream: out first, then in; the same host and device memory again and again."""
    context()
    memory = call(driver.cuMemAlloc, CHUNK_BYTES)
    host = call(driver.cuMemHostAlloc, CHUNK_BYTES, 0)
    stream = call(driver.cuStreamCreate, driver.CUstream_flags.CU_STREAM_NON_BLOCKING)

    def copy(total_bytes: int, one: Callable[[int], Any]) -> None:
        left = total_bytes
        while left > 0:
            one(min(left, CHUNK_BYTES))
            left -= CHUNK_BYTES
        call(driver.cuStreamSynchronize, stream)

    def out(size: int) -> None:
        call(driver.cuMemcpyDtoHAsync, host, memory, size, stream)

    def back(size: int) -> None:
        call(driver.cuMemcpyHtoDAsync, memory, host, size, stream)

    for warm in (out, back):
        copy(CHUNK_BYTES, warm)
    return {"out_ns": timed_ns(lambda: copy(out_bytes, out)), "in_ns": timed_ns(lambda: copy(in_bytes, back))}


def managed(out_bytes: int, in_bytes: int) -> dict[str, int]:
    """Prefetches to the host and back, of memory that was on the card."""
    device = context()
    size = max(out_bytes, in_bytes)
    memory = call(driver.cuMemAllocManaged, size, driver.CUmemAttach_flags.CU_MEM_ATTACH_GLOBAL.value)
    card = driver.CUmemLocation()
    card.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    card.id = int(device)
    host = driver.CUmemLocation()
    host.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_HOST

    def move(total_bytes: int, location: Any) -> None:
        call(driver.cuMemPrefetchAsync, memory, total_bytes, location, 0, 0)
        call(driver.cuCtxSynchronize)

    move(size, card)
    call(driver.cuMemsetD8, memory, 1, size)
    call(driver.cuCtxSynchronize)
    return {"out_ns": timed_ns(lambda: move(out_bytes, host)), "in_ns": timed_ns(lambda: move(in_bytes, card))}


def hold(out_bytes: int) -> None:
    """Hold memory that was written to, and say so, until stdin ends."""
    context()
    memory = call(driver.cuMemAlloc, out_bytes)
    call(driver.cuMemsetD8, memory, 1, out_bytes)
    call(driver.cuCtxSynchronize)
    print(json.dumps({"event": "ready"}), flush=True)
    sys.stdin.read()


def checkpoint(pid: int) -> dict[str, int]:
    """The driver moves a process's memory to the host, and back."""
    call(driver.cuInit, 0)
    lock = driver.CUcheckpointLockArgs()
    lock.timeoutMs = LOCK_TIMEOUT_MS
    call(driver.cuCheckpointProcessLock, pid, lock)
    out_ns = timed_ns(lambda: call(driver.cuCheckpointProcessCheckpoint, pid, None))
    in_ns = timed_ns(lambda: call(driver.cuCheckpointProcessRestore, pid, None))
    call(driver.cuCheckpointProcessUnlock, pid, None)
    return {"out_ns": out_ns, "in_ns": in_ns}


def main() -> None:
    """Move memory as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=("pinned", "managed", "hold", "checkpoint"))
    parser.add_argument("--out-bytes", type=int, default=0)
    parser.add_argument("--in-bytes", type=int, default=0)
    parser.add_argument("--pid", type=int, default=0)
    arguments = parser.parse_args()
    answer: dict[str, Any] = {"event": "result", "error": None}
    try:
        match arguments.way:
            case "pinned":
                answer |= pinned(arguments.out_bytes, arguments.in_bytes)
            case "managed":
                answer |= managed(arguments.out_bytes, arguments.in_bytes)
            case "checkpoint":
                answer |= checkpoint(arguments.pid)
            case _:
                hold(arguments.out_bytes)
    except (
        DriverError,
        AttributeError,
        RuntimeError,
    ) as error:  # cuda-bindings says so where the driver has no such call
        answer["error"] = str(error)
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
