"""Who had an emulated card when, from its own account (nvshare.emulator.account). Pure.

The account says what the card did, however long a busy host took to say so: what it shows is exact to a kernel.
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from nvshare.emulator.account import Turn


def time_ns(turns: Sequence[Turn], pid: int, begin_ns: int, end_ns: int) -> int:
    """How much of the time between two moments a process had the card."""
    own = (min(turn.end_ns, end_ns) - max(turn.start_ns, begin_ns) for turn in turns if turn.pid == pid)
    return sum(part_ns for part_ns in own if part_ns > 0)


def share(turns: Sequence[Turn], pid: int, begin_ns: int, end_ns: int) -> float:
    """The same as a part of that time."""
    return time_ns(turns, pid, begin_ns, end_ns) / (end_ns - begin_ns)


def usual_share(turns: Sequence[Turn], pid: int, begin_ns: int, period_ns: int, periods: int) -> float:
    """The median of its shares of so many periods. Where slots follow one another without a gap, a program whose host
    stands still loses its slot, and nobody makes up for it: that says nothing about the other periods."""
    starts_ns = range(begin_ns, begin_ns + periods * period_ns, period_ns)
    return median(share(turns, pid, start_ns, start_ns + period_ns) for start_ns in starts_ns)


def waits_ns(turns: Sequence[Turn], pid: int, begin_ns: int) -> list[int]:
    """For how long the others had the card between two turns of the process, since a moment. That it stood idle
    between, as a host was too busy to use it, is no wait for anybody's turn."""
    own = [turn for turn in turns if turn.pid == pid and turn.start_ns >= begin_ns]
    others = {turn.pid for turn in turns} - {pid}
    return [
        sum(time_ns(turns, other, earlier.end_ns, later.start_ns) for other in others)
        for earlier, later in pairwise(own)
    ]
