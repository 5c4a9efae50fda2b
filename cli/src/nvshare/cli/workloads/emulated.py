"""A workload for the emulated GPU, on `cuda-bindings`: `z = z + y` over and over, in kernels of a given time.

Four buffers of equal size, as PyTorch's `z = x + y` has with its old and its new result; or, with `--blocks`, the many
blocks of a training step, to each of which one is added in each iteration. With `--kernels graphs` an iteration is a
CUDA graph of several sums, with `--kernels training` many sums of different lengths. The sums are small whole numbers,
exact in float32, so the checksum says how many of the launches took effect: one that is lost, doubled or sees other
data changes it. Prints one JSON line.
"""

import ctypes
import struct
import uuid
from typing import Any, Protocol

from cuda.bindings import driver

from nvshare.cli.workloads.blocks import training_step_blocks
from nvshare.cli.workloads.loop import GRAPH_KERNELS, argument_parser, measure_as_asked, print_answer, wait_for_start
from nvshare.cli.workloads.training import training_step_kernels_ns

KERNELS = b"NVSHARE-EMULATOR-KERNELS-1\0"
BUFFERS = 4
STRIDE_ELEMENTS = 2**20  # the kernels touch one element in so many, so that a card's memory stays small on the host
FILL_NS = 1000
GROWTH_STEPS = 12


def call(function: Any, *arguments: Any) -> Any:
    """Call the driver; returns its result, a tuple if it has several. Raises SystemExit with the error's name."""
    status, *results = function(*arguments)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise SystemExit(f"{function.__name__} failed: {status.name}")
    return results[0] if len(results) == 1 else tuple(results)


class Card:
    """One of the visible cards: its kernels and one stream."""

    def __init__(self, index: int) -> None:
        self.context = call(driver.cuDevicePrimaryCtxRetain, call(driver.cuDeviceGet, index))
        self.select()
        self._module = call(driver.cuModuleLoadData, KERNELS)
        self._result = 0
        self.stream = call(driver.cuStreamCreate, driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._kernels = {
            name: call(driver.cuModuleGetFunction, self._module, name.encode()) for name in ("fill", "add", "checksum")
        }

    def uuid(self) -> str:
        """As NVML prints it."""
        self.select()
        return f"GPU-{uuid.UUID(bytes=call(driver.cuDeviceGetUuid, call(driver.cuCtxGetDevice)).bytes[:16])}"

    def select(self) -> None:
        """Make the thread's next calls go to this card."""
        call(driver.cuCtxSetCurrent, self.context)

    def launch(self, name: str, values: tuple[int, ...], types: tuple[Any, ...]) -> None:
        """Launch a kernel with these arguments."""
        call(driver.cuLaunchKernel, self._kernels[name], 1, 1, 1, 1, 1, 1, 0, self.stream, (values, types), 0)

    def synchronize(self) -> None:
        """Wait until all that was launched is done."""
        self.select()
        call(driver.cuStreamSynchronize, self.stream)

    def allocate(self, size_bytes: int) -> int:
        """Address of new device memory."""
        return int(call(driver.cuMemAlloc, size_bytes))

    def fill(self, address: int, elements: int, value: float) -> None:
        """Write `value` to float32 elements."""
        values = (address, elements, STRIDE_ELEMENTS, float_bits(value), FILL_NS)
        self.launch("fill", values, (POINTER, U64, U64, U32, U64))

    def add(self, out: int, first: int, second: int, elements: int, kernel_ns: int) -> None:
        """`out = first + second` of float32 elements, in a kernel that takes `kernel_ns`."""
        values = (out, first, second, elements, STRIDE_ELEMENTS, kernel_ns)
        self.launch("add", values, (POINTER, POINTER, POINTER, U64, U64, U64))

    def checksum(self, address: int, elements: int) -> int:
        """The card's checksum of float32 elements; `expected_checksum` says what it is where all are equal."""
        values = (self.result(), address, elements, STRIDE_ELEMENTS, FILL_NS)
        self.launch("checksum", values, (POINTER, POINTER, U64, U64, U64))
        self.synchronize()
        value = ctypes.c_uint64()
        call(driver.cuMemcpyDtoH, ctypes.addressof(value), self.result(), 8)
        return value.value

    def result(self) -> int:
        """Address of device memory for one checksum; allocated when it is first asked for."""
        if not self._result:
            self._result = self.allocate(8)
        return self._result


U32, U64, POINTER = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p


def float_bits(value: float) -> int:
    """The 32 bits of a float32."""
    bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    return bits


def expected_checksum(value: float, elements: int) -> int:
    """The card's checksum of elements that all are `value`: it sums bits * (index + 1)."""
    touched = range(0, elements, STRIDE_ELEMENTS)
    return float_bits(value) * (sum(touched) + len(touched)) % 2**64


class Work(Protocol):
    """What one card computes: iterations, and at the end whether each took effect once."""

    def step(self) -> None:
        """Launch one iteration."""

    def checksum(self) -> int:
        """The card's checksum of all results."""

    def expected_checksum(self) -> int:
        """What it must be."""


class Sums:
    """The four buffers: in each iteration the new sum is the old one plus y."""

    def __init__(self, card: Card, memory_bytes: int, kernel_ns: int, seed: int) -> None:
        self._card = card
        self._elements = memory_bytes // BUFFERS // 4
        self._kernel_ns = kernel_ns
        self._seed = seed
        card.select()
        card.result()  # now: a quota may later have no room for it
        self._x, self._y, self._now, self._next = (card.allocate(self._elements * 4) for _ in range(BUFFERS))
        card.fill(self._x, self._elements, float(seed))
        card.fill(self._y, self._elements, 1.0)
        card.fill(self._now, self._elements, float(seed))
        self._launches = 0

    def step(self) -> None:
        self._add(self._kernel_ns)

    def _add(self, kernel_ns: int) -> None:
        self._card.select()
        self._card.add(self._next, self._now, self._y, self._elements, kernel_ns)
        self._now, self._next = self._next, self._now
        self._launches += 1

    def checksum(self) -> int:
        self._card.select()
        return self._card.checksum(self._now, self._elements)

    def expected_checksum(self) -> int:
        return expected_checksum(float(self._seed + self._launches), self._elements)


class GraphedSums(Sums):
    """The same, with an iteration of several sums in one CUDA graph."""

    def __init__(self, card: Card, memory_bytes: int, kernel_ns: int, seed: int) -> None:
        super().__init__(card, memory_bytes, kernel_ns, seed)
        card.synchronize()
        call(driver.cuStreamBeginCapture, card.stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL)
        for _ in range(GRAPH_KERNELS):
            super().step()
        self._graph = call(driver.cuGraphInstantiate, call(driver.cuStreamEndCapture, card.stream), 0)
        self._launches = 0  # none of them has run yet

    def step(self) -> None:
        self._card.select()
        call(driver.cuGraphLaunch, self._graph, self._card.stream)
        self._launches += GRAPH_KERNELS


class TrainingSteps(Sums):
    """The same, with an iteration of as many sums, short and long, as a training step has kernels."""

    def __init__(self, card: Card, memory_bytes: int, kernel_ns: int, seed: int) -> None:
        super().__init__(card, memory_bytes, kernel_ns, seed)
        self._kernels_ns = training_step_kernels_ns(kernel_ns)

    def step(self) -> None:
        for kernel_ns in self._kernels_ns:
            self._add(kernel_ns)


class Blocks:
    """The blocks of a training step: each iteration adds one to all, in kernels that take `kernel_ns` together."""

    def __init__(self, card: Card, memory_bytes: int, kernel_ns: int, seed: int) -> None:
        self._card = card
        self._seed = seed
        sizes = training_step_blocks(memory_bytes)
        largest = max(sizes)
        card.select()
        card.result()
        self._ones = card.allocate(largest)
        card.fill(self._ones, largest // 4, 1.0)
        self._blocks: list[tuple[int, int]] = []
        for size in training_step_blocks(memory_bytes - largest):  # written one by one, as PyTorch does it
            self._blocks.append((card.allocate(size), size // 4))
            card.fill(*self._blocks[-1], float(seed))
        self._kernel_ns = kernel_ns // len(self._blocks)
        self._launches = 0

    def step(self) -> None:
        self._card.select()
        for address, elements in self._blocks:
            self._card.add(address, address, self._ones, elements, self._kernel_ns)
        self._launches += 1

    def checksum(self) -> int:
        self._card.select()
        return sum(self._card.checksum(address, elements) for address, elements in self._blocks) % 2**64

    def expected_checksum(self) -> int:
        value = float(self._seed + self._launches)
        return sum(expected_checksum(value, elements) for _, elements in self._blocks) % 2**64


class Growth:
    """Memory that is allocated while the program runs, up to `total_bytes` in equal steps, and filled."""

    def __init__(self, card: Card, total_bytes: int) -> None:
        self._card = card
        self._step_bytes = total_bytes // GROWTH_STEPS
        self._blocks: list[int] = []

    def reach(self, share: float) -> None:
        """Grow to `share` (0 to 1) of the whole."""
        while self._step_bytes and len(self._blocks) < int(share * GROWTH_STEPS):
            self._card.select()
            address = self._card.allocate(self._step_bytes)
            self._blocks.append(address)
            self._card.fill(address, self._step_bytes // 4, float(len(self._blocks)))

    def correct(self) -> bool:
        """Whether all of it has what was written into it."""
        self._card.select()
        return all(
            self._card.checksum(address, self._step_bytes // 4)
            == expected_checksum(float(number), self._step_bytes // 4)
            for number, address in enumerate(self._blocks, start=1)
        )


def main() -> None:
    """Run the workload as the command line says."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--memory-bytes", type=int, required=True, help="of all buffers")
    parser.add_argument("--kernel-ns", type=int, required=True, help="modelled time of an iteration")
    arguments = parser.parse_args()
    call(driver.cuInit, 0)
    cards = [Card(index) for index in range(arguments.gpus)]
    if arguments.wait_for_memory:
        wait_for_start()
    # What a product takes, --kernel-ns says.
    kinds = {"sums": Sums, "graphs": GraphedSums, "products": Sums, "training": TrainingSteps}
    kind: type[Blocks] | type[Sums] = Blocks if arguments.blocks else kinds[arguments.kernels]
    works: list[Work] = [kind(card, arguments.memory_bytes, arguments.kernel_ns, arguments.seed) for card in cards]
    growths = [Growth(card, max(0, arguments.grow_to_bytes - arguments.memory_bytes)) for card in cards]

    def launch() -> None:
        for work in works:
            work.step()

    def synchronize() -> None:
        for card in cards:
            card.synchronize()

    def grow(share: float) -> None:
        for growth in growths:
            growth.reach(share)

    measurement = measure_as_asked(arguments, launch, synchronize, grow)
    checksums = [work.checksum() for work in works]
    correct = checksums == [work.expected_checksum() for work in works] and all(one.correct() for one in growths)
    uuids = [card.uuid() for card in cards]
    print_answer(arguments.name, measurement, sum(checksums) % 2**64, correct=correct, gpus=uuids)


if __name__ == "__main__":
    main()
