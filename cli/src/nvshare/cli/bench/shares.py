"""What programs that keep the card busy get of it, against what they should get. Pure."""

from collections.abc import Sequence


def weighted_shares(weights: Sequence[int]) -> list[float]:
    """The share of the card (0 to 1) of each program, all of which want all of it."""
    return [weight / sum(weights) for weight in weights]


def capped_shares(caps_percent: Sequence[int]) -> list[float]:
    """The share of the card of each program that wants more than its cap: the cap, scaled in proportion where all
    together pass 100 %."""
    whole = max(100, sum(caps_percent))
    return [cap_percent / whole for cap_percent in caps_percent]


def error_points(found: Sequence[float], expected: Sequence[float]) -> float:
    """The largest difference between a share and what it should be, in points of a hundred."""
    return max(100 * abs(one - other) for one, other in zip(found, expected, strict=True))


def of_sum(speeds: Sequence[float]) -> list[float]:
    """The part of each speed in the sum of all."""
    return [speed / sum(speeds) for speed in speeds]
