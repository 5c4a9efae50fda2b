"""Which shares kubelet is told of. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from nvshare.device_plugin.promises import Holding, Terms
from nvshare.device_plugin.shares import Share


@dataclass(frozen=True, slots=True, order=True)
class ListedShare:
    """One device of kubelet's. `numa`: None where it is not known, or not told."""

    share: Share
    healthy: bool
    numa: int | None = None


def listed_shares(
    terms: Mapping[str, Terms], held: Collection[Share], holdings: Iterable[Holding], tell_numa: bool = False
) -> tuple[ListedShare, ...]:
    """The shares of all GPUs.

    A share that somebody has is always listed, also beyond the number of shares in force: kubelet starts no container
    again whose device is gone. Of the free ones only as many as the GPU can still promise memory to.
    """
    everybody = list(holdings)
    listed: list[ListedShare] = []
    for uuid, one in terms.items():
        taken = {share for share in held if share.gpu == uuid}
        free = [share for number in range(one.shares) if (share := Share(uuid, number)) not in taken]
        room = one.room_for_shares(everybody)
        shares = sorted(taken) + (free if room is None else free[:room])
        numa = one.gpu.numa if tell_numa else None
        listed += [ListedShare(share, one.gpu.healthy, numa) for share in shares]
    return tuple(sorted(listed))
