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
    demand: bool = False  # wants to run, or waits for memory, or did just now
    demand_ends_ns: int = 0  # when that "just now" is over, if nothing happens
    placed: bool = False  # has its place, or the promise of it
    arrived: bool = True  # all of its memory is there
    ends_ns: int = 0  # when its quantum there is over
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
    ghost_bytes: int = 0  # what dead clients have not given back yet


Wants = Mapping[str, Sequence[Claim]]
"""The claims of one owner (a gang, or a client that is in none), by GPU."""


def fits_alone(gpus: Iterable[GpuClaims], wants: Wants) -> bool:
    """Whether an owner would fit on all of its GPUs if nobody else were there."""
    capacities = {gpu.gpu: gpu.capacity_bytes for gpu in gpus}
    return all(sum(claim.needed_bytes for claim in claims) <= capacities[gpu] for gpu, claims in wants.items())


class Places:
    """An account of all GPUs that starts empty but for what cannot leave, and what is to come free (`ghosts`)."""

    def __init__(self, gpus: Iterable[GpuClaims], *, ghosts: bool = True) -> None:
        self._serial: dict[str, bool] = {}
        self._free_bytes: dict[str, int] = {}
        self._owners: dict[str, set[str]] = {}
        for gpu in gpus:
            self._serial[gpu.gpu] = gpu.serial
            staying_bytes = sum(claim.stays_bytes for claim in gpu.claims) + (gpu.ghost_bytes if ghosts else 0)
            self._free_bytes[gpu.gpu] = gpu.capacity_bytes - staying_bytes
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
