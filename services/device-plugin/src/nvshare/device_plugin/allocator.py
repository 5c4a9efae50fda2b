"""Which shares a container should get. Pure.

Nothing is counted: kubelet says which shares are still free each time that it asks, so what others use is what is
listed less what is free. It says so of the GPUs that it offers; of the others nothing is known, and nothing needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from nvshare.device_plugin.shares import Share


class Policy(StrEnum):
    """SPREAD: over GPUs, the emptiest first. PACKED: on as few GPUs as possible."""

    SPREAD = "spread"
    PACKED = "packed"


@dataclass(frozen=True, slots=True)
class Load:
    """What a GPU has promised and how busy it was of late."""

    promised_bytes: int = 0
    busy_permille: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One container's: `must_include` is what it has already (of the pod's init containers), `size` how many it needs
    in all.
    """

    available: frozenset[Share]
    must_include: frozenset[Share]
    size: int


def preferred_shares(
    request: Request,
    listed: Collection[Share],
    loads: Mapping[str, Load],
    order: Sequence[str],
    policy: Policy = Policy.SPREAD,
) -> tuple[Share, ...]:
    """The shares that suit best, `request.size` of them, or as many as there are: an error would end the pod.

    With SPREAD each goes to a GPU that this request does not have yet, then to the one with the fewest shares in use,
    then with the least promised memory, then to the least busy one, then by `order` (UUIDs) and UUID; with PACKED the
    first three the other way round.
    """
    chosen = sorted(request.must_include)[: request.size]
    free: dict[str, list[Share]] = {}
    for share in sorted(request.available - request.must_include, reverse=True):
        free.setdefault(share.gpu, []).append(share)
    offered = Counter(share.gpu for share in request.available | request.must_include)
    used = Counter(share.gpu for share in listed)
    used.subtract(offered)
    own = Counter(share.gpu for share in chosen)
    places = {gpu: place for place, gpu in enumerate(order)}
    sign = 1 if policy is Policy.SPREAD else -1

    def rank(gpu: str) -> tuple[int, int, int, int, int, str]:
        load = loads.get(gpu, Load())
        has_it = int(own[gpu] > 0)
        in_use = max(0, used[gpu]) + own[gpu]
        place = places.get(gpu, len(places))
        return sign * has_it, sign * in_use, sign * load.promised_bytes, load.busy_permille, place, gpu

    while len(chosen) < request.size and free:
        gpu = min(free, key=rank)
        chosen.append(free[gpu].pop())  # the lowest number
        own[gpu] += 1
        if not free[gpu]:
            del free[gpu]
    return tuple(chosen)
