"""How fast the memory of programs that take turns left the card and came back, and how fast they loaded. Pure.

The memory of a program *has to move* while its last report says that it is not where its newest grant wants it. That
is the time of a swap: it begins with the grant, and counts the end of the work in flight, a pool of host memory that is
not ready, the copies, and the report. While a neighbour loads, more and more has to leave for it, as it asks; what lies
in between is the neighbour's loading, and told as such.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from nvshare.cli.bench.timeline import SeenGrant, SeenReport
from nvshare.cli.bench.turns import revocations

EXTENT_BYTES = 256 * 2**20  # the largest piece that moves at once: room for less may stay empty
LEAST_BYTES = 512 * 2**20  # a swap of less says more of messages than of memory: it counts with the next one


@dataclass(frozen=True)
class Way:
    """Memory that went one way, in the time in which it had to."""

    moved_bytes: int = 0
    time_ns: int = 0

    def __add__(self, other: "Way") -> "Way":
        return Way(self.moved_bytes + other.moved_bytes, self.time_ns + other.time_ns)

    @property
    def ns_per_byte(self) -> float:
        return self.time_ns / self.moved_bytes


@dataclass(frozen=True)
class Swap:
    """What left of a program's memory between two of its revocations (or from its start), and what came back."""

    allocation: str
    out: Way
    back: Way


@dataclass(frozen=True)
class Loading:
    """What a program grew by before it began to measure; `beside`: while another one's memory left for it."""

    allocation: str
    grown_bytes: int
    seconds: float
    beside: bool

    @property
    def seconds_per_byte(self) -> float:
        return self.seconds / self.grown_bytes


def swaps(grants: Sequence[SeenGrant], reports: Sequence[SeenReport]) -> list[Swap]:
    """The swaps of all programs, those of each in order."""
    return [
        swap
        for allocation in dict.fromkeys(grant.allocation for grant in grants)
        for swap in _swaps_of(
            allocation,
            [grant for grant in grants if grant.allocation == allocation],
            [report for report in reports if report.allocation == allocation],
        )
    ]


def _swaps_of(allocation: str, grants: Sequence[SeenGrant], reports: Sequence[SeenReport]) -> list[Swap]:
    revoked = {id(grant) for grant in revocations(grants)}
    found: list[Swap] = []
    out, back = Way(), Way()
    grant: SeenGrant | None = None
    report: SeenReport | None = None
    heard: list[SeenGrant | SeenReport] = sorted([*grants, *reports], key=lambda one: one.time_ns)
    since_ns = 0
    for one in heard:
        if grant is not None and report is not None:
            if report.resident_bytes > grant.target_bytes:
                out += Way(0, one.time_ns - since_ns)
            elif _comes_back(report, grant):
                back += Way(0, one.time_ns - since_ns)
        since_ns = one.time_ns
        if isinstance(one, SeenGrant):
            if id(one) in revoked:
                found.append(Swap(allocation, out, back))
                out, back = Way(), Way()
            grant = one
        else:
            if report is not None:
                out += Way(one.swapped_out_bytes - report.swapped_out_bytes, 0)
                back += Way(one.swapped_in_bytes - report.swapped_in_bytes, 0)
            report = one
    return [*found, Swap(allocation, out, back)]


def _comes_back(report: SeenReport, grant: SeenGrant) -> bool:
    """Whether something is on its way back, which counts as resident from its beginning, or has the room for it."""
    away_bytes = report.needed_bytes - report.resident_bytes
    room_bytes = grant.target_bytes - report.resident_bytes
    coming_bytes = report.swapped_out_bytes - report.swapped_in_bytes - away_bytes
    return coming_bytes > 0 or (away_bytes > 0 and room_bytes >= min(away_bytes, EXTENT_BYTES))


def first_over_later(found: Iterable[Swap]) -> float | None:
    """Time per byte of the slowest first way of a program over the median of the later ways in the same direction; the
    larger of both directions. None: too few."""
    programs: dict[str, list[Swap]] = {}
    for swap in found:
        programs.setdefault(swap.allocation, []).append(swap)
    ratios = [
        _first_over_later([_large_enough(swap.out for swap in own) for own in programs.values()]),
        _first_over_later([_large_enough(swap.back for swap in own) for own in programs.values()]),
    ]
    return max((ratio for ratio in ratios if ratio is not None), default=None)


def _first_over_later(programs: Sequence[Sequence[Way]]) -> float | None:
    first = [ways[0].ns_per_byte for ways in programs if ways]
    later = [way.ns_per_byte for ways in programs for way in ways[1:]]
    return max(first) / median(later) if later else None


def _large_enough(ways: Iterable[Way]) -> list[Way]:
    found: list[Way] = []
    gathered = Way()
    for way in ways:
        gathered += way
        if gathered.moved_bytes >= LEAST_BYTES:
            found.append(gathered)
            gathered = Way()
    return found


def loadings(
    measured_from_ns: Mapping[str, int], grants: Sequence[SeenGrant], reports: Sequence[SeenReport]
) -> list[Loading]:
    """How each program (with the time from which on it measured, by allocation) loaded: alone, and, where others had to
    leave for it, from the first revocation of another one."""
    revoked = revocations(grants)
    found: list[Loading] = []
    for allocation, end_ns in measured_from_ns.items():
        own = [report for report in reports if report.allocation == allocation and report.time_ns <= end_ns]
        others_ns = (grant.time_ns for grant in revoked if grant.allocation != allocation)
        border_ns = min(others_ns, default=end_ns)
        found += _loading(allocation, [report for report in own if report.time_ns <= border_ns], None)
        found += _loading(allocation, own, border_ns)
    return found


def _loading(allocation: str, own: Sequence[SeenReport], since_ns: int | None) -> list[Loading]:
    """The loading in these reports, from a time on; None: from where it began. Nothing, if it did not grow."""
    before_bytes = max((one.needed_bytes for one in own if since_ns and one.time_ns <= since_ns), default=0)
    grown = [one for one in own if one.needed_bytes > before_bytes]
    if not grown:
        return []
    full_bytes = max(one.needed_bytes for one in grown)
    full_ns = next(one.time_ns for one in grown if one.needed_bytes == full_bytes)
    begun_ns = grown[0].time_ns if since_ns is None else since_ns
    return [Loading(allocation, full_bytes - before_bytes, (full_ns - begun_ns) / 1e9, since_ns is not None)]
