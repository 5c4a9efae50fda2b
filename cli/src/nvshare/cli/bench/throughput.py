"""Speeds of programs that run at the same time, from their points of progress. Pure.

Programs do not start and end at the same moment, so a sum of their own speeds says too much: speeds are taken over the
window in which all of them ran.
"""

from bisect import bisect_right
from collections.abc import Sequence

Progress = Sequence[tuple[int, int]]
"""Points (CLOCK_MONOTONIC in ns, iterations done by then), in order; at least the start and the end."""


def iterations_at(progress: Progress, time_ns: int) -> float:
    """Iterations done by `time_ns`, between two points on the straight line through them."""
    after = bisect_right(progress, time_ns, key=lambda point: point[0])
    if after == 0:
        return float(progress[0][1])
    if after == len(progress):
        return float(progress[-1][1])
    (time_before, done_before), (time_after, done_after) = progress[after - 1], progress[after]
    return done_before + (done_after - done_before) * (time_ns - time_before) / (time_after - time_before)


def common_window(runs: Sequence[Progress], settle_ns: int = 0) -> tuple[int, int]:
    """First and last moment (ns) at which all of the programs ran, the first `settle_ns` of it left out. Raises
    ValueError when there is none."""
    start = max(progress[0][0] for progress in runs) + settle_ns
    end = min(progress[-1][0] for progress in runs)
    if end <= start:
        raise ValueError("the programs did not run at the same time")
    return start, end


def common_speeds(runs: Sequence[Progress], settle_ns: int = 0) -> list[float]:
    """Iterations per second of each program within the window that they share, the first `settle_ns` of it left out.
    Raises ValueError when there is none."""
    start, end = common_window(runs, settle_ns)
    return [
        (iterations_at(progress, end) - iterations_at(progress, start)) / ((end - start) / 1e9) for progress in runs
    ]
