"""Programs that keep the card busy, each by another kind of work, for scenarios that must hold for all of them."""

from collections.abc import Mapping
from dataclasses import replace

from nvshare.cli.bench.workload import SMALL, Workload

PLAIN = "plain"
# A point of progress after each batch, and batches shorter than a slot of 10 ms: each wait lies between two points.
_EACH_BATCH = ("--progress-ms", "0")


def _small(name: str, *options: str) -> Workload:
    return replace(SMALL, name=name, options=(*options, *_EACH_BATCH))


KINDS_OF_WORK: Mapping[str, Workload] = {
    program.name: program
    for program in (
        _small(PLAIN, "--batch-iterations", "8"),
        _small("graphs", "--kernels", "graphs", "--batch-iterations", "1"),
        # One kernel of about 100 ms. On a real card it is a product of matrices, in float32 and not in TF32.
        replace(_small("long", "--kernels", "products", "--batch-iterations", "1"), kernel_ns=100_000_000),
        # A step of about 45 ms with kernels of different lengths, and a wait at its end. On a real card it trains a
        # transformer, whose size does not follow from these (workloads/pytorch_training.py).
        replace(
            _small("training", "--kernels", "training", "--batch-iterations", "1"),
            memory_bytes=4_000_000_000,
            kernel_ns=45_000_000,
        ),
        # A wait after each launch.
        _small("sync", "--batch-iterations", "1"),
        # As small as can keep the card busy: longer than the host takes to launch the next one.
        replace(
            _small("tiny", "--batch-iterations", "200"), memory_bytes=4 * 4 * 2_000**2, kernel_ns=30_000, side=2_000
        ),
    )
}
