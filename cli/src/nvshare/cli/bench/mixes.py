"""Mixes of programs that share a card, and the ways to share its time that are tried on them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nvshare.cli.bench.kinds_of_work import KINDS_OF_WORK
from nvshare.cli.bench.residents import idle
from nvshare.cli.bench.rhythms import BUSY, RHYTHMS
from nvshare.cli.bench.workload import SMALL, Workload, named, numbered
from nvshare.cli.node_options import TIME_SHARINGS

STOCK = "stock"
MPS = "mps"
AUTO = "auto"


def ways(*, mps: bool) -> tuple[str, ...]:
    """In the order of the table's columns: without nvshare, under MPS, then each that `nvshare up` knows."""
    without = (STOCK, MPS) if mps else (STOCK,)
    return (*without, *(way for way in TIME_SHARINGS if way != AUTO), AUTO)


@dataclass(frozen=True)
class Mix:
    """Programs that run at the same time. `bursty` is the position of the one whose bursts somebody waits for."""

    name: str
    text: str
    programs: tuple[Workload, ...]
    bursty: int | None = None


# A product of matrices, which is bound by what the card computes; SMALL is bound by its memory.
PRODUCT = replace(
    SMALL,
    name="product",
    memory_bytes=4 * 4 * 3_000**2,
    kernel_ns=1_000_000,
    side=3_000,
    options=("--kernels", "products"),
)
IDLE = tuple(idle(program, seed) for seed, program in enumerate(numbered(named(SMALL, "idle"), 3), 1))

MIXES: Sequence[Mix] = (
    Mix("pair", "two busy, memory-bound", tuple(numbered(SMALL, 2))),
    Mix("compute", "two busy, compute-bound", tuple(numbered(PRODUCT, 2))),
    Mix("quad", "four busy, memory-bound", tuple(numbered(SMALL, 4))),
    Mix("bursty", "bursts of 2 ms each 20 ms, and a busy one", (RHYTHMS["light"].program(), BUSY), bursty=0),
    Mix("idle", "three that work 10 % of the time", IDLE),
    Mix("long", "a busy one, and one with kernels of 100 ms", (BUSY, KINDS_OF_WORK["long"])),
)
