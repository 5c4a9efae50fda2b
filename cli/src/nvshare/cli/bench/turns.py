"""What programs that take turns did, from their points of progress and what the bus said. Pure.

A program has one point of progress after each batch, so the first one after a pause says when the card was its own
again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from nvshare.cli.bench.throughput import Progress, iterations_at
from nvshare.cli.bench.timeline import SeenGrant, SeenReport

REPORTED_NS = 100_000_000  # in which all that was moved for a switch has been reported


@dataclass(frozen=True)
class Switch:
    """The card went from one program to the next one. Times are CLOCK_MONOTONIC.

    `revoked_ns`: the first one was told to stop; `stopped_ns`: its last batch was done; `begun_ns`: the next one's
    first kernel began. `out_bytes` and `in_bytes` were moved for it.
    """

    leaving: str
    coming: str
    revoked_ns: int
    stopped_ns: int
    begun_ns: int
    out_bytes: int = 0
    in_bytes: int = 0

    @property
    def seconds(self) -> float:
        """From the revocation to the next one's first kernel."""
        return (self.begun_ns - self.revoked_ns) / 1e9


def finish_spread(start_ns: int, finished_ns: Sequence[int]) -> float:
    """The largest over the smallest finish time, each from the common start."""
    return (max(finished_ns) - start_ns) / (min(finished_ns) - start_ns)


def longest_wait_seconds(start_ns: int, progress: Progress) -> float:
    """The longest time without progress, from the common start to the program's end."""
    times = [start_ns, *(time_ns for time_ns, _ in progress)]
    return max(later - earlier for earlier, later in pairwise(times)) / 1e9


def longest_slot_wait_ms(progress: Progress, window: tuple[int, int], solo_speed: float) -> float:
    """The longest wait between two points within a window (first and last moment, ns): the time between them less what
    the iterations between them take at the `solo_speed` (a second)."""
    inside = [(time_ns, float(done)) for time_ns, done in progress if window[0] < time_ns < window[1]]
    first, last = ((time_ns, iterations_at(progress, time_ns)) for time_ns in window)
    return max(
        (later[0] - earlier[0]) / 1e6 - (later[1] - earlier[1]) / solo_speed * 1e3
        for earlier, later in pairwise([first, *inside, last])
    )


def iteration_ns(progress: Progress) -> float:
    """Time of one iteration where nothing is in the way: the median over the points."""
    pairs = pairwise(progress)
    return median(
        (later[0] - earlier[0]) / (later[1] - earlier[1]) for earlier, later in pairs if later[1] > earlier[1]
    )


def revocations(grants: Sequence[SeenGrant]) -> list[SeenGrant]:
    """The grants that took a program's leave to launch away."""
    could_launch: dict[str, bool] = {}
    found: list[SeenGrant] = []
    for grant in grants:
        if could_launch.get(grant.allocation) and not grant.may_launch:
            found.append(grant)
        could_launch[grant.allocation] = grant.may_launch
    return found


def switches(
    runs: Mapping[str, Progress], grants: Sequence[SeenGrant], reports: Sequence[SeenReport] = ()
) -> list[Switch]:
    """The switches between programs (by allocation) that both made progress; in order."""
    found: list[Switch] = []
    revoked = [grant for grant in revocations(grants) if grant.allocation in runs]
    for number, grant in enumerate(revoked):
        leaving = runs[grant.allocation]
        next_ns = revoked[number + 1].time_ns if number + 1 < len(revoked) else None
        coming = _next_to_run(runs, grant)
        if coming is None or leaving[0][0] > grant.time_ns:
            continue
        name, begun_ns = coming
        stopped_ns = max(time_ns for time_ns, _ in leaving if time_ns < begun_ns)
        told_ns = begun_ns + REPORTED_NS
        until_ns = told_ns if next_ns is None else min(told_ns, max(next_ns, begun_ns))
        moved_out, moved_in = _moved(reports, grant.time_ns, until_ns)
        found.append(Switch(grant.allocation, name, grant.time_ns, stopped_ns, begun_ns, moved_out, moved_in))
    return found


def _next_to_run(runs: Mapping[str, Progress], grant: SeenGrant) -> tuple[str, int] | None:
    """Who made progress first after a revocation, and when its first kernel began; None: nobody else did."""
    first: list[tuple[int, str, int]] = []
    for name, progress in runs.items():
        if name == grant.allocation:
            continue
        later = next((place for place, (time_ns, _) in enumerate(progress) if time_ns > grant.time_ns), None)
        # A program that has not begun to measure by then still loads, and says nothing about a switch.
        if later is None or later == 0:
            continue
        time_ns, done = progress[later]
        begun_ns = time_ns - round((done - progress[later - 1][1]) * iteration_ns(progress))
        first.append((time_ns, name, max(begun_ns, grant.time_ns)))
    if not first:
        return None
    _, name, begun_ns = min(first)
    return name, begun_ns


def _moved(reports: Sequence[SeenReport], since_ns: int, until_ns: int) -> tuple[int, int]:
    """Bytes that went out and in between two moments, as far as all programs had reported them by then."""
    before: dict[str, tuple[int, int]] = {}
    after: dict[str, tuple[int, int]] = {}
    for report in reports:
        counts = report.swapped_out_bytes, report.swapped_in_bytes
        if report.time_ns <= since_ns:
            before[report.allocation] = counts
        if report.time_ns <= until_ns:
            after[report.allocation] = counts
    differences = [
        (counts[0] - before.get(name, (0, 0))[0], counts[1] - before.get(name, (0, 0))[1])
        for name, counts in after.items()
    ]
    return sum(out for out, _ in differences), sum(back for _, back in differences)
