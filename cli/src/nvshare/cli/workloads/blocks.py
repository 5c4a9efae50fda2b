"""Sizes of the blocks that a training step asks the driver for. Only the standard library.

PyTorch's allocator asks for 2 MiB for what is small, for 20 MiB for what is medium, and for the size itself, rounded up
to 2 MiB, for what is large: gradients, optimiser state and activations of each layer, and the few tensors over the
vocabulary.
"""

from collections.abc import Iterator
from itertools import cycle

MIB = 2**20
VOCABULARY_MIB = (394, 394, 394)  # weights, gradient and logits: 50,257 words of 2048
LAYER_MIB = (2, 20, 2, 20, 64, 20, 2, 96, 20, 2, 32, 20, 2, 64, 20, 2)


def training_step_blocks(total_bytes: int) -> list[int]:
    """Sizes in bytes, in the order in which a step asks; together at most `total_bytes`, and less by under 2 MiB."""
    sizes: list[int] = []
    left = total_bytes
    for size_mib in _sizes_mib(total_bytes):
        size = min(size_mib * MIB, left // (2 * MIB) * 2 * MIB)
        if size == 0:
            break
        sizes.append(size)
        left -= size
    return sizes


def _sizes_mib(total_bytes: int) -> Iterator[int]:
    if total_bytes >= 8 * sum(VOCABULARY_MIB) * MIB:
        yield from VOCABULARY_MIB
    yield from cycle(LAYER_MIB)
