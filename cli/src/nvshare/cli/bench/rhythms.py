"""Programs that work in short bursts, and how long their bursts take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from nvshare.cli.bench.steady import SETTLE_NS
from nvshare.cli.bench.workload import SMALL, Answer, Workload, named
from nvshare.cli.workloads.loop import GRAPH_KERNELS

SHARE = 0.99
BUSY = named(SMALL, "busy")
TINY = replace(SMALL, memory_bytes=4 * 4 * 2_000**2, kernel_ns=10_000, side=2_000)
# In graphs, for one by one the host may take longer to launch them than the card to run them.
DENSE_TINY = replace(TINY, name="dense", options=("--kernels", "graphs", "--batch-iterations", "100"))


@dataclass(frozen=True)
class Rhythm:
    """Bursts of so many iterations of `work`, with pauses between them. Before each launch the program computes for a
    time between the two of `gap_us`.

    `dense` is a program that runs the same kernels without rests, `dense_kernels` in each iteration.
    """

    name: str
    burst_iterations: int
    pause_ms: float
    gap_us: tuple[int, int] = (0, 0)
    work: Workload = SMALL
    dense: Workload = BUSY
    dense_kernels: int = 1

    def program(self) -> Workload:
        """The program with this rhythm. One wait at the end of each burst."""
        burst = str(self.burst_iterations)
        options = ["--batch-iterations", burst, "--burst-iterations", burst, "--pause-ms", str(self.pause_ms)]
        if self.gap_us[1]:
            options += ["--gap-us", *map(str, self.gap_us)]
        return replace(named(self.work, self.name), options=tuple(options))


RHYTHMS: Mapping[str, Rhythm] = {
    rhythm.name: rhythm
    for rhythm in (
        # 2.2 ms each 20 ms.
        Rhythm("light", burst_iterations=4, pause_ms=17.8),
        # 8.7 ms each 11 ms.
        Rhythm("heavy", burst_iterations=16, pause_ms=2.3),
        # 12 ms each 50 ms, of which the card works for 3: it runs empty before each kernel.
        Rhythm(
            "gaps",
            burst_iterations=300,
            pause_ms=38.0,
            gap_us=(20, 50),
            work=TINY,
            dense=DENSE_TINY,
            dense_kernels=GRAPH_KERNELS,
        ),
    )
}


def p99_us(bursts_us: Sequence[int]) -> int:
    """The least time within which 99 of 100 bursts were done. Raises ValueError when there are none."""
    if not bursts_us:
        raise ValueError("the program had no burst")
    return sorted(bursts_us)[ceil(SHARE * len(bursts_us)) - 1]


def settled_p99_us(answer: Answer) -> int:
    """That of its bursts without those of the beginning, in which the plan is not what it will be."""
    share = min(0.9, SETTLE_NS / max(1, answer.ended_ns - answer.started_ns))
    return p99_us(answer.bursts_us[int(share * len(answer.bursts_us)) :])
