"""What `helm test` runs in a pod that has a share and a memory quota: `check_share.py 1Gi`.

The library must be in the process by itself, and the driver must answer by the quota: so the way from the pod's
annotation to its first process is whole.
"""

import ctypes
import re
import sys
from pathlib import Path

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quota_bytes(text: str) -> int:
    """Bytes of a quantity such as 1Gi. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+)([KMGT]i?|)", text)
    if match is None:
        raise ValueError(f"{text!r} is no amount of memory")
    return int(match[1]) * UNITS[match[2]]


def total_bytes() -> int:
    """Memory of the first GPU, as the driver says it. Raises OSError, RuntimeError."""
    driver = ctypes.CDLL("libcuda.so.1")
    device, size = ctypes.c_int(), ctypes.c_size_t()
    steps = (
        ("cuInit", (0,)),
        ("cuDeviceGet", (ctypes.byref(device), 0)),
        ("cuDeviceTotalMem_v2", (ctypes.byref(size), device)),
    )
    for name, arguments in steps:
        # The value of `device` counts when the call is made, after the steps before.
        if (status := getattr(driver, name)(*arguments)) != 0:
            raise RuntimeError(f"{name} answers error {status}")
    return size.value


def main(quota: str) -> None:
    """Prints what is right, or exits with the first thing that is not."""
    if "libnvshare.so" not in Path("/proc/self/maps").read_text():
        sys.exit("libnvshare is not in this process: does the device plugin of this node run?")
    try:
        found = total_bytes()
    except OSError as error:
        sys.exit(f"no driver in the container ({error}): does it need the value runtimeClassName?")
    except RuntimeError as error:
        sys.exit(str(error))
    if found != quota_bytes(quota):
        sys.exit(f"the GPU shows {found} bytes, not {quota}: do quota watcher and hub run?")
    print(f"one share of a GPU, which shows its quota of {quota}")


if __name__ == "__main__":
    main(sys.argv[1])
