"""What a benchmark sees of its node."""

import pytest

from nvshare.cli.bench.watch import GpuObservation, Watch
from nvshare.cli.errors import CommandError


def test_the_first_gpu_of_a_node_is_the_one_of_the_least_index_that_it_shares() -> None:
    watch = Watch()
    watch.gpus = {3: GpuObservation(hand_overs=3), 1: GpuObservation(hand_overs=1)}
    assert watch.first_gpu.hand_overs == 1


def test_nothing_seen_is_an_error_and_no_zeros() -> None:
    with pytest.raises(CommandError, match="told nothing"):
        _ = Watch().first_gpu
