"""Whether a GPU can be given to new containers. Pure: time comes in as an argument.

A GPU is failed by an error that no program causes, or when it does not answer; it is healthy again as soon as it
answers and nothing has to be repaired. Containers that run keep what they have either way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""Xid errors that programs cause: the GPU is well. The same as NVIDIA's device plugin ignores."""

SETTLE_NS = 2_000_000_000
"""How long an Xid error counts, whatever a probe says: one that was on its way proves nothing, and older drivers do
not say that a GPU has to be reset."""

_DOUBTS = 2  # answers in a row that are errors, but do not say that the GPU is lost


class SettingError(ValueError):
    """A setting that cannot be; the message is one line for people."""


@dataclass(frozen=True, slots=True)
class IgnoredXids:
    """Xid errors that do not fail a GPU."""

    numbers: frozenset[int] = APPLICATION_XIDS
    all: bool = False

    def __contains__(self, xid: int) -> bool:
        return self.all or xid in self.numbers


class Verdict(Enum):
    """What a probe found."""

    WELL = auto()
    DOUBTFUL = auto()  # it did not answer this time
    FAILED = auto()  # it is lost, or has to be repaired


@dataclass(frozen=True, slots=True)
class Probe:
    """`problem`: words for people, where it is not well."""

    verdict: Verdict
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """Of one GPU. `problem`: why it is failed, for people; empty: it is healthy."""

    problem: str = ""
    failed_until_ns: int = 0
    doubts: int = 0

    @property
    def healthy(self) -> bool:
        return not self.problem


def parse_ignored_xids(text: str) -> IgnoredXids:
    """The usual ones, and as the setting says: `63` ignores one more, `-13` one less, `all` ignores all.

    Raises SettingError.
    """
    numbers, everything = set(APPLICATION_XIDS), False
    for word in filter(None, (part.strip() for part in text.split(","))):
        number = word.removeprefix("-")
        if word == "all":
            everything = True
        elif not (number.isascii() and number.isdecimal()):
            raise SettingError(f"{word!r} is no Xid error: give numbers, such as 63,-13, or all")
        elif word.startswith("-"):
            numbers.discard(int(number))
        else:
            numbers.add(int(number))
    return IgnoredXids(frozenset(numbers), everything)


def after_xid(health: Health, xid: int, now_ns: int, ignored: IgnoredXids) -> Health:
    """The driver told of an Xid error of this GPU."""
    if xid in ignored:
        return health
    return Health(f"Xid error {xid}", now_ns + SETTLE_NS)


def after_probe(health: Health, probe: Probe, now_ns: int) -> Health:
    """The GPU was asked how it is."""
    match probe.verdict:
        case Verdict.WELL:
            return replace(health, doubts=0) if now_ns < health.failed_until_ns else Health()
        case Verdict.FAILED:
            return replace(health, problem=health.problem or probe.problem, doubts=0)
        case Verdict.DOUBTFUL:
            doubts = health.doubts + 1
            problem = health.problem or (probe.problem if doubts >= _DOUBTS else "")
            return replace(health, problem=problem, doubts=doubts)
