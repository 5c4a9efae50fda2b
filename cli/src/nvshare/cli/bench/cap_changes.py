"""How fast a program follows a cap that changes while it runs, from its points of progress. Pure.

What is in effect is seen in the time before a moment, and what holds from then on in the time after it.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from nvshare.cli.bench.throughput import Progress, iterations_at

PERIOD_NS = 100_000_000  # of one program's slots: whatever its cap, it has run for just that share of it
WINDOW_NS = 2_000_000_000  # over one second a slot that ends 10 ms late is a point already
IN_EFFECT_POINTS = 10.0
SETTLED_POINTS = 1.0
STEP_NS = 5_000_000  # between two moments that are looked at


@dataclass(frozen=True)
class Phase:
    """The time in which one cap was asked for, from the request to the next one. Times are CLOCK_MONOTONIC."""

    cap_percent: int
    begun_ns: int
    ended_ns: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.ended_ns - self.begun_ns) / 1e9

    @property
    def settled_ns(self) -> int:
        """The beginning of its settled part: its second half."""
        return (self.begun_ns + self.ended_ns) // 2


def phases(changes: Sequence[tuple[int, int]], ended_ns: int) -> list[Phase]:
    """From (cap in percent, when it was asked for), in order, and the end of the last one."""
    ends = [*(time_ns for _, time_ns in changes[1:]), ended_ns]
    return [Phase(cap, time_ns, end_ns) for (cap, time_ns), end_ns in zip(changes, ends, strict=True)]


@dataclass(frozen=True)
class CappedRun:
    """A program's progress, and its speed (iterations per second) without a cap."""

    progress: Progress
    solo_speed: float

    def ratio(self, since_ns: int, until_ns: int) -> float:
        """Its speed between two moments, over its solo speed."""
        done = iterations_at(self.progress, until_ns) - iterations_at(self.progress, since_ns)
        return done / ((until_ns - since_ns) / 1e9) / self.solo_speed

    def effect_seconds(self, phase: Phase) -> float:
        """From the request until the speed over a period first was within 10 points of the cap; the whole phase where
        it never was."""
        for time_ns in range(phase.begun_ns, phase.ended_ns, STEP_NS):
            if self._error_points(phase, time_ns - PERIOD_NS, time_ns) <= IN_EFFECT_POINTS:
                return (time_ns - phase.begun_ns) / 1e9
        return phase.seconds

    def settled_seconds(self, phase: Phase) -> float:
        """From the request until the moment from which on the speed over any 2 s is within a point of the cap, and as
        much more as a batch is of that time; the whole phase where there is no such moment 2 s before its end."""
        settled_seconds = phase.seconds
        for since_ns in range(phase.ended_ns - WINDOW_NS, phase.begun_ns - 1, -STEP_NS):
            most_points = SETTLED_POINTS + 100 * self._batch_ns / WINDOW_NS
            if self._error_points(phase, since_ns, since_ns + WINDOW_NS) > most_points:
                break
            settled_seconds = (since_ns - phase.begun_ns) / 1e9
        return settled_seconds

    @functools.cached_property
    def _batch_ns(self) -> float:
        """How long the most work between two points of progress takes alone: so much of it is on either side of a
        moment between them."""
        most = max(later - earlier for (_, earlier), (_, later) in pairwise(self.progress))
        return most / self.solo_speed * 1e9

    def settled_error_points(self, phase: Phase) -> float:
        """The difference between speed and cap over the settled part."""
        return self._error_points(phase, phase.settled_ns, phase.ended_ns)

    def _error_points(self, phase: Phase, since_ns: int, until_ns: int) -> float:
        return abs(100 * self.ratio(since_ns, until_ns) - phase.cap_percent)
