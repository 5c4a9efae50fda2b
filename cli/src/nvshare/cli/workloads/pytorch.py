"""A PyTorch workload: `z = x + y` on square float32 tensors, again and again, unmodified PyTorch.

The same as the predecessor's test programs: 28000 a side is *large* (12 GB with the old and the new result), 14000 is
*small*. With `--blocks` it has the many tensors of a training step instead, and adds one to each; with `--kernels` the
sums come in CUDA graphs, or products or a training take their place. Prints one JSON line.
Run it with the Python that has PyTorch.
"""

from typing import Protocol

import torch

from nvshare.cli.workloads.blocks import training_step_blocks
from nvshare.cli.workloads.loop import GRAPH_KERNELS, argument_parser, measure_as_asked, print_answer, wait_for_start
from nvshare.cli.workloads.pytorch_training import Training

PERIODS = (1021, 509)  # of the patterns of x and y
GROWTH_STEPS = 12
ROWS_AT_ONCE = 500  # of a checksum's temporary tensors: they must fit beside the workload's own


def patterned(side: int, period: int, device: torch.device) -> torch.Tensor:
    """A matrix (side, side), float32: 0, 1, 2 … period-1, 0, 1 … by element; sums of two such are exact."""
    matrix = torch.empty((side, side), dtype=torch.float32, device=device)
    for row in range(0, side, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, side - row)
        index = torch.arange(row * side, (row + rows) * side, device=device)
        matrix[row : row + rows] = (index % period).to(torch.float32).view(rows, side)
    return matrix


def checksum_of(matrix: torch.Tensor) -> int:
    """A 64-bit sum over bits times position, so that a wrong or moved element changes it."""
    side = matrix.shape[1]
    total = 0
    for row in range(0, matrix.shape[0], ROWS_AT_ONCE):
        bits = matrix[row : row + ROWS_AT_ONCE].contiguous().view(torch.int32).to(torch.int64).flatten()
        position = torch.arange(row * side, row * side + bits.numel(), device=matrix.device)
        total += int((bits * (position % 65_521 + 1)).sum().item())
    return total % 2**64


def wrong_elements(result: torch.Tensor) -> int:
    """How many elements of x + y are not what the pattern says, by a way that uses neither x nor y."""
    side = result.shape[1]
    wrong = 0
    for row in range(0, result.shape[0], ROWS_AT_ONCE):
        part = result[row : row + ROWS_AT_ONCE].flatten()
        index = torch.arange(row * side, row * side + part.numel(), device=result.device)
        wrong += int((part != (index % PERIODS[0] + index % PERIODS[1]).to(torch.float32)).sum().item())
    return wrong


class Work(Protocol):
    """What one GPU computes: iterations, and at the end whether the results are right."""

    def step(self) -> None:
        """Launch one iteration."""

    def checksum(self) -> int:
        """A 64-bit sum over all results."""

    def correct(self) -> bool:
        """Whether they are what they must be, found in another way than they were computed."""


class Sums:
    """`z = x + y` on square matrices."""

    def __init__(self, side: int, device: torch.device) -> None:
        self._x, self._y = (patterned(side, period, device) for period in PERIODS)
        torch.cuda.empty_cache()  # the pattern's temporary tensors are no part of the workload
        self.z = self._x + self._y

    def step(self) -> None:
        self.z = self._x + self._y

    def checksum(self) -> int:
        return checksum_of(self.z)

    def correct(self) -> bool:
        return wrong_elements(self.z) == 0


class GraphedSums(Sums):
    """The same, with an iteration of several sums in one CUDA graph, whose results lie in the graph's own memory."""

    def __init__(self, side: int, device: torch.device) -> None:
        super().__init__(side, device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=torch.cuda.Stream(device)):
            for _ in range(GRAPH_KERNELS):
                super().step()

    def step(self) -> None:
        self._graph.replay()


class Products:
    """`z = x @ y` on square matrices: one long kernel. Its sums are not exact, but the same each time."""

    def __init__(self, side: int, device: torch.device) -> None:
        self._x, self._y = (patterned(side, period, device) for period in PERIODS)
        torch.cuda.empty_cache()
        self._first = self._x @ self._y
        self._z = self._first

    def step(self) -> None:
        self._z = self._x @ self._y

    def checksum(self) -> int:
        return checksum_of(self._z)

    def correct(self) -> bool:
        return bool(torch.equal(self._z, self._first))


class Blocks:
    """The tensors of a training step, as many as `memory_bytes` hold: each iteration adds one to all of them."""

    def __init__(self, memory_bytes: int, seed: int, device: torch.device) -> None:
        sizes = training_step_blocks(memory_bytes)
        self._blocks = [torch.full((size // 4,), float(seed), device=device) for size in sizes]
        self._seed = seed
        self._iterations = 0

    def step(self) -> None:
        for block in self._blocks:
            block += 1.0
        self._iterations += 1

    def checksum(self) -> int:
        return sum(int(block.view(torch.int32)[:: 2**12].sum(dtype=torch.int64).item()) for block in self._blocks)

    def correct(self) -> bool:
        value = float(self._seed + self._iterations)
        return all(bool((block.amin() == value).item() and (block.amax() == value).item()) for block in self._blocks)


class Growth:
    """Memory that is allocated while the program runs, up to `total_bytes` in equal steps, and filled."""

    def __init__(self, total_bytes: int, device: torch.device) -> None:
        self._step_bytes = total_bytes // GROWTH_STEPS
        self._device = device
        self._blocks: list[torch.Tensor] = []

    def reach(self, share: float) -> None:
        """Grow to `share` (0 to 1) of the whole."""
        while self._step_bytes and len(self._blocks) < int(share * GROWTH_STEPS):
            value = float(len(self._blocks) + 1)
            self._blocks.append(torch.full((self._step_bytes // 4,), value, device=self._device))

    def correct(self) -> bool:
        """Whether all of it has what was written into it."""
        return all(
            bool((block.amin() == number).item() and (block.amax() == number).item())
            for number, block in enumerate(self._blocks, start=1)
        )


def uuid_of(device: torch.device) -> str:
    """As NVML prints it; empty where this PyTorch does not know it."""
    uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
    return uuid if not uuid or uuid.startswith("GPU-") else f"GPU-{uuid}"


def main() -> None:
    """Run the workload as the command line says."""
    parser = argument_parser(main.__doc__ or "")
    parser.add_argument("--side", type=int, required=True, help="rows and columns of each tensor")
    arguments = parser.parse_args()
    devices = [torch.device("cuda", index) for index in range(arguments.gpus)]
    if arguments.wait_for_memory:
        for device in devices:
            torch.cuda.synchronize(device)
        wait_for_start()
    memory_bytes = 4 * 4 * arguments.side**2
    kinds: dict[str, type[Sums] | type[Products]] = {"sums": Sums, "graphs": GraphedSums, "products": Products}

    def work_on(device: torch.device) -> Work:
        if arguments.blocks:
            return Blocks(memory_bytes, arguments.seed, device)
        if arguments.kernels == "training":
            return Training(arguments.seed, device)
        return kinds[arguments.kernels](arguments.side, device)

    works = [work_on(device) for device in devices]
    growths = [Growth(max(0, arguments.grow_to_bytes - memory_bytes), device) for device in devices]

    def launch() -> None:
        for work in works:
            work.step()

    def synchronize() -> None:
        for device in devices:
            torch.cuda.synchronize(device)

    def grow(share: float) -> None:
        for growth in growths:
            growth.reach(share)

    measurement = measure_as_asked(arguments, launch, synchronize, grow)
    checksum = sum(work.checksum() for work in works) % 2**64
    correct = all(work.correct() for work in works) and all(growth.correct() for growth in growths)
    print_answer(arguments.name, measurement, checksum, correct=correct, gpus=[uuid_of(device) for device in devices])


if __name__ == "__main__":
    main()
