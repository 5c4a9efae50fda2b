"""A program that holds blocks of memory on the GPU, and does one thing for each line on stdin.

    alloc NUMBER BYTES   allocate a block, and fill it with its number
    free NUMBER          give it back
    check                whether every block has what was written into it
    info                 how much memory the GPU has, and how much is free, as the program is told

Each answer is one JSON line; `error` is `out of memory` or null. PyTorch on a real GPU, `cuda-bindings` on an emulated
one.
"""

import argparse
import json
import sys
from typing import Any, Protocol

OUT_OF_MEMORY = "out of memory"
PIECE_ELEMENTS = 2**18


class OutOfMemoryError(Exception):
    """The GPU, or the quota, has no more."""


class Memory(Protocol):
    """Blocks of memory on one GPU."""

    def allocate(self, number: int, size_bytes: int) -> None:
        """A block, filled with its number. Raises OutOfMemoryError."""

    def free(self, number: int) -> None:
        """Give a block back to the driver."""

    def correct(self) -> bool:
        """Whether every block has what was written into it."""

    def info(self) -> tuple[int, int]:
        """Bytes that are free, and bytes in all."""


def torch_memory() -> Memory:
    """Blocks as tensors of an unmodified PyTorch."""
    import torch

    class TorchMemory:
        def __init__(self) -> None:
            self._blocks: dict[int, torch.Tensor] = {}
            # It keeps the small memory in which comparisons have theirs: a quota may later have no room for that.
            self._anchor = torch.zeros(1, device="cuda")

        def allocate(self, number: int, size_bytes: int) -> None:
            try:
                self._blocks[number] = torch.full((size_bytes // 4,), float(number), device="cuda")
            except torch.OutOfMemoryError as error:
                raise OutOfMemoryError from error

        def free(self, number: int) -> None:
            del self._blocks[number]
            torch.cuda.empty_cache()

        def correct(self) -> bool:
            # A comparison makes a tensor of its own: in small pieces, so that it fits beside the anchor.
            return all(
                bool((piece == number).all().item())
                for number, block in self._blocks.items()
                for piece in block.split(PIECE_ELEMENTS)
            )

        def info(self) -> tuple[int, int]:
            free_bytes, total_bytes = torch.cuda.mem_get_info()
            return int(free_bytes), int(total_bytes)

    torch.cuda.init()
    return TorchMemory()


def emulated_memory() -> Memory:
    """Blocks on an emulated card."""
    from cuda.bindings import driver

    from nvshare.cli.workloads.emulated import Card, call, expected_checksum

    class EmulatedMemory:
        def __init__(self) -> None:
            call(driver.cuInit, 0)
            self._card = Card(0)
            self._card.result()  # now: a quota may later have no room for it
            self._blocks: dict[int, tuple[int, int]] = {}

        def allocate(self, number: int, size_bytes: int) -> None:
            status, address = driver.cuMemAlloc(size_bytes)
            if status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
                raise OutOfMemoryError
            if status != driver.CUresult.CUDA_SUCCESS:
                raise SystemExit(f"cuMemAlloc failed: {status.name}")
            self._blocks[number] = int(address), size_bytes // 4
            self._card.fill(int(address), size_bytes // 4, float(number))
            self._card.synchronize()

        def free(self, number: int) -> None:
            address, _ = self._blocks.pop(number)
            call(driver.cuMemFree, address)

        def correct(self) -> bool:
            return all(
                self._card.checksum(address, elements) == expected_checksum(float(number), elements)
                for number, (address, elements) in self._blocks.items()
            )

        def info(self) -> tuple[int, int]:
            free_bytes, total_bytes = call(driver.cuMemGetInfo)
            return int(free_bytes), int(total_bytes)

    return EmulatedMemory()


def do(memory: Memory, line: str) -> dict[str, Any]:
    """Do what a line says; its answer."""
    match line.split():
        case ["alloc", number, size_bytes]:
            memory.allocate(int(number), int(size_bytes))
            return {}
        case ["free", number]:
            memory.free(int(number))
            return {}
        case ["check"]:
            return {"correct": memory.correct()}
        case ["info"]:
            free_bytes, total_bytes = memory.info()
            return {"free_bytes": free_bytes, "total_bytes": total_bytes}
    raise SystemExit(f"not a line for this program: {line!r}")


def main() -> None:
    """Hold memory until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emulated", action="store_true")
    memory = emulated_memory() if parser.parse_args().emulated else torch_memory()
    print(json.dumps({"event": "ready"}), flush=True)
    for line in sys.stdin:
        answer: dict[str, Any] = {"event": "answer", "error": None}
        try:
            answer |= do(memory, line)
        except OutOfMemoryError:
            answer["error"] = OUT_OF_MEMORY
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
