"""A PyTorch workload: `z = x + y` on square float32 tensors, again and again, unmodified PyTorch.

The same as the predecessor's test programs: 28000 a side is *large* (12 GB with the old and the new result), 14000 is
*small*. Prints one JSON line. Run it with the Python that has PyTorch.
"""

import torch

from nvshare.cli.workloads.loop import argument_parser, measure, print_answer, wait_for_start, warm_up

PERIODS = (1021, 509)  # of the patterns of x and y
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


def main() -> None:
    """Run the workload as the command line says."""
    parser = argument_parser(main.__doc__ or "")
    parser.add_argument("--side", type=int, required=True, help="rows and columns of each tensor")
    arguments = parser.parse_args()
    devices = [torch.device("cuda", index) for index in range(arguments.gpus)]
    pairs = [tuple(patterned(arguments.side, period, device) for period in PERIODS) for device in devices]
    torch.cuda.empty_cache()  # the pattern's temporary tensors are no part of the workload
    results = [x + y for x, y in pairs]

    def launch() -> None:
        for index, (x, y) in enumerate(pairs):
            results[index] = x + y

    def synchronize() -> None:
        for device in devices:
            torch.cuda.synchronize(device)

    warm_up(launch, synchronize)
    if arguments.wait_for_start:
        wait_for_start()
    measurement = measure(launch, synchronize, seconds=arguments.seconds, iterations=arguments.iterations)
    checksum = sum(checksum_of(z) for z in results) % 2**64
    print_answer(arguments.name, measurement, checksum, correct=not any(wrong_elements(z) for z in results))


if __name__ == "__main__":
    main()
