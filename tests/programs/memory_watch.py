"""Says what cuMemGetInfo answers: at once, and, unless its second argument is `once`, each time that it changes.

A line for each answer goes to the file that is the first argument: JSON with `total_bytes` and `at_ns`
(CLOCK_MONOTONIC).
"""

import ctypes
import json
import sys
import time
from pathlib import Path

POLL_SECONDS = 0.01


def main(path: Path, once: bool) -> None:
    cuda = ctypes.CDLL("libcuda.so.1")
    context, device = ctypes.c_void_p(), ctypes.c_int()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()

    def call(name: str, *arguments: object) -> None:
        status = getattr(cuda, name)(*arguments)
        if status:
            raise SystemExit(f"{name} failed with {status}")

    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    last = -1
    with path.open("a") as answers:
        while True:
            call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
            if total.value != last:
                last = total.value
                print(json.dumps({"total_bytes": last, "at_ns": time.monotonic_ns()}), file=answers, flush=True)
            if once:
                return
            time.sleep(POLL_SECONDS)


main(Path(sys.argv[1]), sys.argv[2:] == ["once"])
