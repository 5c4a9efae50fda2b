"""Which share of a card's time each client gets: pure water-filling.

Who wants more than there is gets it by weight, and nobody gets more than it wants or its cap allows: what one leaves is
handed on to the others. It is done for allocations, and within each again for its processes. Where caps together exceed
the card they are scaled in proportion. Best effort has what all others leave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_HEADROOM = 1.5  # of what a client uses, so that it shows when it wants more: it uses less than its part until then
_STEPS = 8  # of an equal part
_LEAST_STEPS = 2  # of which one that uses nothing has so many, with which it begins when it wants more
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Claim:
    """What one allocation may have of a card, and what its clients want. Shares are of 0 to 1."""

    wanted: Mapping[str, float]  # by the client's key; 1: all that it can get
    weight: int = 100
    cap: float | None = None  # of all its clients together; None: no cap
    best_effort: bool = False
    burst: bool = False  # beyond its cap it may have what nobody else wants


@dataclass(frozen=True, slots=True)
class _Cup:
    """What is filled: as fast as its rate says, until it is full."""

    rate: float
    size: float


def split_card(claims: Sequence[Claim]) -> dict[str, float]:
    """Each client's share by its key. Their sum is at most 1, and less only where nobody may have more."""
    given = [0.0] * len(claims)
    left = 1.0
    for best_effort in (False, True):
        tier = [index for index, claim in enumerate(claims) if claim.best_effort == best_effort]
        for index, share in zip(tier, _within_caps([claims[index] for index in tier], left), strict=True):
            given[index] = share
            left -= share
    bursts = [
        _Cup(c.weight, max(0.0, _wanted(c) - share) if c.burst else 0.0) for c, share in zip(claims, given, strict=True)
    ]
    given = [share + more for share, more in zip(given, _fill(bursts, left), strict=True)]
    return {
        key: share
        for claim, total in zip(claims, given, strict=True)
        for key, share in zip(
            claim.wanted, _fill([_Cup(1.0, want) for want in claim.wanted.values()], total), strict=True
        )
    }


def split_by_use(total: float, uses: Mapping[str, float]) -> dict[str, float]:
    """Each client's part of `total` (more than 0), all of it, from what it uses. Nobody has less than it wants, or an
    equal part; and what nobody wants goes to those that have least, so that small wants change nothing."""
    equal = total / len(uses)
    wants = [_with_headroom(use, equal) for use in uses.values()]
    if sum(wants) < total:
        level = _level(wants, total)
        parts = [max(want, level) for want in wants]
    else:
        parts = _fill([_Cup(1.0, want) for want in wants], total)
    return dict(zip(uses, parts, strict=True))


def _with_headroom(use: float, equal: float) -> float:
    """What a client may want that uses so much: in steps, so that small changes change no plan."""
    step = equal / _STEPS
    return step * max(_LEAST_STEPS, math.ceil(_HEADROOM * use / step - _ROUNDING))


def _level(wants: Sequence[float], total: float) -> float:
    """To which height all below it are raised when `total` is given out: more than all want."""
    left = total
    for above, want in enumerate(sorted(wants, reverse=True)):
        level = left / (len(wants) - above)
        if want <= level:
            return level
        left -= want
    return 0.0


def _within_caps(claims: Sequence[Claim], total: float) -> list[float]:
    """Each claim's share of `total` by weight. Caps that together exceed it are first scaled: in proportion, or, where
    weights differ, in proportion to weight times cap; a cap that is not used up leaves the others more of theirs."""
    capped = [_Cup(c.weight * c.cap, min(c.cap, _wanted(c))) if c.cap else _Cup(1.0, 0.0) for c in claims]
    scaled = _fill(capped, total)
    sizes = [_wanted(claim) if claim.cap is None else cap for claim, cap in zip(claims, scaled, strict=True)]
    return _fill([_Cup(claim.weight, size) for claim, size in zip(claims, sizes, strict=True)], total)


def _wanted(claim: Claim) -> float:
    return min(1.0, sum(claim.wanted.values()))


def _fill(cups: Sequence[_Cup], total: float) -> list[float]:
    """How much of `total` runs into each cup when all are filled at once, each at its rate."""
    filled = [0.0] * len(cups)
    rates = sum(cup.rate for cup in cups)
    for index in sorted(range(len(cups)), key=lambda index: cups[index].size / cups[index].rate):
        cup = cups[index]
        filled[index] = max(0.0, min(cup.size, total * cup.rate / rates if rates > 0 else total))
        total -= filled[index]
        rates -= cup.rate
    return filled
