"""When an allocation's folder may go. Pure: what is known comes in, with the time.

A folder goes when nobody lives in it, and nobody can come back to it: its shares were given to somebody else, or its
pod did not have them, twice, some time apart. Without word from the relay nobody knows who lives, and all stay.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Absences:
    """Since when each allocation's pod has been absent, without a break. `apart_ns`: how far the first and the last
    look must be apart.
    """

    apart_ns: int
    _since_ns: dict[str, int] = field(default_factory=dict)

    def seen(self, absent: Collection[str], now_ns: int) -> None:
        """Somebody looked: the pods of `absent` were not there, those of all others were."""
        self._since_ns = {one: self._since_ns.get(one, now_ns) for one in absent}

    def gone(self, now_ns: int) -> set[str]:
        """Those that were absent each time that somebody looked, and long enough."""
        return {one for one, since_ns in self._since_ns.items() if now_ns - since_ns >= self.apart_ns}


def removable(superseded: Collection[str], gone: Collection[str], living: Mapping[str, int] | None) -> set[str]:
    """The allocations whose folders may go. `living`: the number of living processes by allocation; None: the relay
    has not said so of late.
    """
    if living is None:
        return set()
    return {one for one in {*superseded, *gone} if not living.get(one)}
