"""The blocks of a training step."""

import pytest

from nvshare.cli.workloads.blocks import MIB, training_step_blocks


@pytest.mark.parametrize("total_mib", [64, 784, 12_000])
def test_blocks_fill_the_memory_up_to_less_than_2_mib(total_mib: int) -> None:
    sizes = training_step_blocks(total_mib * MIB)
    assert total_mib * MIB - 2 * MIB < sum(sizes) <= total_mib * MIB
    assert all(size % (2 * MIB) == 0 for size in sizes)


def test_most_blocks_are_those_that_pytorch_s_allocator_asks_for() -> None:
    sizes = training_step_blocks(12_000 * MIB)
    small = sum(size in (2 * MIB, 20 * MIB) for size in sizes)
    assert small > len(sizes) / 2
    assert max(sizes) > 256 * MIB
