"""A workload for the emulated GPU, on `cuda-bindings`: `z = z + y` over and over, in kernels of a given time.

Four buffers of equal size, as PyTorch's `z = x + y` has with its old and its new result. The sums are small whole
numbers, exact in float32, so the checksum says how many of the launches took effect: one that is lost, doubled or sees
other data changes it. Prints one JSON line.
"""

import ctypes
import struct
from typing import Any

from cuda.bindings import driver

from nvshare.cli.workloads.loop import (
    argument_parser,
    measure,
    print_answer,
    wait_for_start,
    warm_up,
)

KERNELS = b"NVSHARE-EMULATOR-KERNELS-1\0"
BUFFERS = 4
STRIDE_ELEMENTS = 2**20  # the kernels touch one element in so many, so that a card's memory stays small on the host
FILL_NS = 1000


def call(function: Any, *arguments: Any) -> Any:
    """Call the driver; returns its result, a tuple if it has several. Raises SystemExit with the error's name."""
    status, *results = function(*arguments)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise SystemExit(f"{function.__name__} failed: {status.name}")
    return results[0] if len(results) == 1 else tuple(results)


class Card:
    """One of the visible cards: its kernels and one stream."""

    def __init__(self, index: int) -> None:
        self._context = call(driver.cuDevicePrimaryCtxRetain, call(driver.cuDeviceGet, index))
        self.select()
        self._module = call(driver.cuModuleLoadData, KERNELS)
        self._stream = call(driver.cuStreamCreate, driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._kernels = {
            name: call(driver.cuModuleGetFunction, self._module, name.encode()) for name in ("fill", "add", "checksum")
        }

    def select(self) -> None:
        """Make the thread's next calls go to this card."""
        call(driver.cuCtxSetCurrent, self._context)

    def launch(self, name: str, values: tuple[int, ...], types: tuple[Any, ...]) -> None:
        """Launch a kernel with these arguments."""
        call(driver.cuLaunchKernel, self._kernels[name], 1, 1, 1, 1, 1, 1, 0, self._stream, (values, types), 0)

    def synchronize(self) -> None:
        """Wait until all that was launched is done."""
        self.select()
        call(driver.cuStreamSynchronize, self._stream)

    def allocate(self, size_bytes: int) -> int:
        """Address of new device memory."""
        return int(call(driver.cuMemAlloc, size_bytes))

    def read_u64(self, address: int) -> int:
        """A number from device memory."""
        value = ctypes.c_uint64()
        call(driver.cuMemcpyDtoH, ctypes.addressof(value), address, 8)
        return value.value


U32, U64, POINTER = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p


def float_bits(value: float) -> int:
    """The 32 bits of a float32."""
    bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    return bits


class Sums:
    """The four buffers, and what is done with them."""

    def __init__(self, card: Card, memory_bytes: int, kernel_ns: int, seed: int) -> None:
        self._card = card
        self._elements = memory_bytes // BUFFERS // 4
        self._kernel_ns = kernel_ns
        self._seed = seed
        card.select()
        self._x, self._y, self._now, self._next = (card.allocate(self._elements * 4) for _ in range(BUFFERS))
        self._fill(self._x, float(seed))
        self._fill(self._y, 1.0)
        self._fill(self._now, float(seed))
        self.launches = 0

    def add(self) -> None:
        """One iteration: the new sum is the old one plus y."""
        self._card.select()
        values = (self._next, self._now, self._y, self._elements, STRIDE_ELEMENTS, self._kernel_ns)
        self._card.launch("add", values, (POINTER, POINTER, POINTER, U64, U64, U64))
        self._now, self._next = self._next, self._now
        self.launches += 1

    def checksum(self) -> int:
        """The card's checksum of the sum."""
        self._card.select()
        out = self._card.allocate(8)
        values = (out, self._now, self._elements, STRIDE_ELEMENTS, FILL_NS)
        self._card.launch("checksum", values, (POINTER, POINTER, U64, U64, U64))
        self._card.synchronize()
        return self._card.read_u64(out)

    def expected_checksum(self) -> int:
        """What it must be, if each of the launches took effect once: the emulator sums bits * (index + 1)."""
        bits = float_bits(float(self._seed + self.launches))
        touched = range(0, self._elements, STRIDE_ELEMENTS)
        return bits * (sum(touched) + len(touched)) % 2**64

    def _fill(self, address: int, value: float) -> None:
        values = (address, self._elements, STRIDE_ELEMENTS, float_bits(value), FILL_NS)
        self._card.launch("fill", values, (POINTER, U64, U64, U32, U64))


def main() -> None:
    """Run the workload as the command line says."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--memory-bytes", type=int, required=True, help="of all buffers")
    parser.add_argument("--kernel-ns", type=int, required=True, help="modelled time of an iteration")
    parser.add_argument("--seed", type=int, default=1, help="the sum's first value")
    arguments = parser.parse_args()
    call(driver.cuInit, 0)
    cards = [Card(index) for index in range(arguments.gpus)]
    sums = [Sums(card, arguments.memory_bytes, arguments.kernel_ns, arguments.seed) for card in cards]

    def launch() -> None:
        for own in sums:
            own.add()

    def synchronize() -> None:
        for card in cards:
            card.synchronize()

    warm_up(launch, synchronize)
    if arguments.wait_for_start:
        wait_for_start()
    measurement = measure(launch, synchronize, seconds=arguments.seconds, iterations=arguments.iterations)
    checksums = [own.checksum() for own in sums]
    correct = checksums == [own.expected_checksum() for own in sums]
    print_answer(arguments.name, measurement, sum(checksums) % 2**64, correct=correct)


if __name__ == "__main__":
    main()
