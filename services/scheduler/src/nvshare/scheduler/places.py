"""What the coordinator of gangs knows of each GPU, and the account of who can be there together.

A *place* is what a client needs to run: all of its memory on the card, and in serial mode also the lock. The clients of
a gang that are on one GPU take their places there together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """One client on one GPU."""

    key: str  # names it among the clients of its GPU
    gang: str = ""  # empty: it is in none
    demand: bool = False  # wants to run, or waits for memory
    placed: bool = False  # has its place
    placed_ns: int = 0  # since when
    waiting_ns: int | None = None  # since when it wants its place and has it not
    quiet: bool = True  # nothing of it runs, and it may launch nothing
    needed_bytes: int = 0  # on the card when all of it is there
    resident_bytes: int = 0  # there now
    stays_bytes: int = 0  # what of it cannot leave


@dataclass(frozen=True, slots=True)
class GpuClaims:
    """One GPU with all of its clients."""

    gpu: str
    serial: bool  # one client at a time
    capacity_bytes: int
    quantum_ns: int
    claims: tuple[Claim, ...] = ()


Wants = Mapping[str, Sequence[Claim]]
"""The claims of one owner (a gang, or a client that is in none), by GPU."""


class Places:
    """An account of all GPUs that starts empty but for what cannot leave."""

    def __init__(self, gpus: Iterable[GpuClaims]) -> None:
        self._serial: dict[str, bool] = {}
        self._free_bytes: dict[str, int] = {}
        self._owners: dict[str, set[str]] = {}
        for gpu in gpus:
            self._serial[gpu.gpu] = gpu.serial
            self._free_bytes[gpu.gpu] = gpu.capacity_bytes - sum(claim.stays_bytes for claim in gpu.claims)
            self._owners[gpu.gpu] = set()

    def fits(self, owner: str, wants: Wants) -> bool:
        """Whether the owner fits on all of its GPUs, beside who has taken places there."""
        return all(self._fits_on(gpu, owner, claims) for gpu, claims in wants.items())

    def take(self, owner: str, wants: Wants) -> None:
        """The owner's places are taken, whether or not it fits: then nobody else fits there any more."""
        for gpu, claims in wants.items():
            self._owners[gpu].add(owner)
            self._free_bytes[gpu] -= _extra_bytes(claims)

    def _fits_on(self, gpu: str, owner: str, claims: Sequence[Claim]) -> bool:
        if self._serial[gpu] and self._owners[gpu] - {owner}:
            return False
        return _extra_bytes(claims) <= self._free_bytes[gpu]


def _extra_bytes(claims: Sequence[Claim]) -> int:
    """What the claims need beyond what stays of them anyway."""
    return sum(max(0, claim.needed_bytes - claim.stays_bytes) for claim in claims)
