"""How much of its memory a GPU has promised to containers, and what it may promise in all. Pure.

A container with a memory quota is promised that much on each of its GPUs, however many shares of it it has. One
without is promised, for each share, the cap over the number of shares: containers without quotas fill a card exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nvshare.bus.quantities import format_bytes
from nvshare.device_plugin.devices import Gpu


@dataclass(frozen=True, slots=True)
class Holding:
    """What one allocation has: how many shares of each GPU, and its memory quota (0: none)."""

    allocation: str
    shares: Mapping[str, int]
    memory_limit_bytes: int


@dataclass(frozen=True, slots=True)
class Terms:
    """Of one GPU. `overcommit_percent`: how much it may promise in all, of what it has; 0: as much as is asked for.
    `default_limit_bytes`: the quota of a container without one (0: none).
    """

    gpu: Gpu
    shares: int
    overcommit_percent: int = 0
    default_limit_bytes: int = 0

    @property
    def cap_bytes(self) -> int | None:
        """The most that it promises in all; None: there is no cap."""
        return self.gpu.total_bytes * self.overcommit_percent // 100 if self.overcommit_percent else None

    @property
    def share_bytes(self) -> int:
        """What one share promises to a container that has no quota."""
        if self.default_limit_bytes:
            return self.default_limit_bytes
        cap = self.cap_bytes
        return (self.gpu.total_bytes if cap is None else cap) // max(1, self.shares)

    def promised_to(self, holding: Holding, memory_limit_bytes: int | None = None) -> int:
        """What `holding` is promised here; with another quota, if one is given."""
        shares = holding.shares.get(self.gpu.uuid, 0)
        limit = holding.memory_limit_bytes if memory_limit_bytes is None else memory_limit_bytes
        if not shares:
            return 0
        return limit or shares * self.share_bytes

    def promised_bytes(self, holdings: Iterable[Holding]) -> int:
        """What it has promised in all."""
        return sum(self.promised_to(holding) for holding in holdings)

    def room_for_shares(self, holdings: Iterable[Holding]) -> int | None:
        """How many containers of one share each without a quota it can still take; None: there is no cap."""
        cap = self.cap_bytes
        if cap is None:
            return None
        return max(0, cap - self.promised_bytes(holdings)) // max(1, self.share_bytes)


def quota_refusal(
    terms: Mapping[str, Terms], holdings: Iterable[Holding], holding: Holding, memory_limit_bytes: int
) -> str:
    """Why `holding` cannot have the quota `memory_limit_bytes` (0: none) instead of what it has, in one sentence;
    empty: it can. Less than now is always possible, whatever else was promised.
    """
    everybody = list(holdings)
    for uuid in holding.shares:
        if uuid not in terms:
            continue
        one = terms[uuid]
        others = one.promised_bytes(other for other in everybody if other.allocation != holding.allocation)
        wanted, has = one.promised_to(holding, memory_limit_bytes), one.promised_to(holding)
        cap = one.cap_bytes
        if cap is not None and wanted > has and others + wanted > cap:
            return (
                f"{uuid} cannot promise {format_bytes(wanted)}: it may promise {format_bytes(cap)} in all"
                f" and has promised {format_bytes(others)} to others"
            )
    return ""
