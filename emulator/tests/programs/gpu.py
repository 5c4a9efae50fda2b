"""A thin layer over ``cuda.bindings.driver`` for the programs that the emulator's tests run."""

import ctypes
import time
from collections.abc import Callable
from typing import Any

from cuda.bindings import driver

KERNELS = b"NVSHARE-EMULATOR-KERNELS-1\0"
MIB = 1 << 20
GIB = 1 << 30
_ARGUMENT_TYPES = {
    "spin": (ctypes.c_uint64,),
    "fill": (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint64),
    "add": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64),
    "checksum": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64),
}


class DriverError(Exception):
    """A driver call that failed; ``code`` is its CUresult."""

    def __init__(self, code: driver.CUresult) -> None:
        super().__init__(code.name)
        self.code = int(code)


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the driver and return what it gives, or raise ``DriverError``."""
    result, *values = function(*arguments)
    if result != driver.CUresult.CUDA_SUCCESS:
        raise DriverError(result)
    return values[0] if len(values) == 1 else tuple(values)


def error_of(function: Callable[..., Any], *arguments: Any) -> int:
    """Call the driver and return its CUresult."""
    return int(function(*arguments)[0])


class Gpu:
    """One device with its primary context current, and the emulator's kernels."""

    def __init__(self, ordinal: int = 0) -> None:
        call(driver.cuInit, 0)
        self.device = call(driver.cuDeviceGet, ordinal)
        self.context = call(driver.cuDevicePrimaryCtxRetain, self.device)
        call(driver.cuCtxSetCurrent, self.context)
        module = call(driver.cuModuleLoadData, KERNELS)
        self.kernels = {name: call(driver.cuModuleGetFunction, module, name.encode()) for name in _ARGUMENT_TYPES}
        self.emulator = ctypes.CDLL("libcuda.so.1")

    def launch(self, kernel: str, *arguments: int, stream: Any = 0) -> None:
        call(driver.cuLaunchKernel, *self.launch_arguments(kernel, *arguments, stream=stream))

    def launch_arguments(self, kernel: str, *arguments: int, stream: Any = 0) -> tuple[Any, ...]:
        parameters = (tuple(int(argument) for argument in arguments), _ARGUMENT_TYPES[kernel])
        return (self.kernels[kernel], 1, 1, 1, 1, 1, 1, 0, stream, parameters, 0)

    def checksum(self, pointer: int, n: int, stride: int = 1) -> int:
        out = call(driver.cuMemAlloc, 8)
        self.launch("checksum", int(out), int(pointer), n, stride, 1000)
        value = self.read_u64(int(out))
        call(driver.cuMemFree, out)
        return value

    def read_u64(self, pointer: int) -> int:
        value = ctypes.c_uint64()
        call(driver.cuMemcpyDtoH, ctypes.addressof(value), pointer, 8)
        return value.value

    def set_timeslice(self, timeslice_us: int) -> None:
        error = self.emulator.nvshare_emulator_set_timeslice(int(self.device), ctypes.c_uint64(timeslice_us))
        assert error == 0, error


def checksum_of(values: list[int], stride: int = 1) -> int:
    """What the kernel ``checksum`` computes."""
    return sum(value * (index + 1) for index, value in enumerate(values) if index % stride == 0) % (1 << 64)


def busy_until(gpu: Gpu, end: float, kernel_ns: int = 540_000, batch: int = 100) -> None:
    """Keep the compute engine busy until ``time.monotonic()`` is ``end``, with one or two batches in flight."""
    stream = call(driver.cuStreamCreate, 1)
    events = [call(driver.cuEventCreate, 2) for _ in range(2)]
    turn = 0
    while time.monotonic() < end:
        for _ in range(batch):
            gpu.launch("spin", kernel_ns, stream=stream)
        call(driver.cuEventRecord, events[turn % 2], stream)
        if turn > 0:
            call(driver.cuEventSynchronize, events[(turn - 1) % 2])
        turn += 1
    call(driver.cuStreamSynchronize, stream)
