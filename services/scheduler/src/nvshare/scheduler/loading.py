"""Programs whose memory cannot be moved load one after the other.

Programs load their memory in pieces and nobody knows how much they will want. Several that load side by side could
fill the card with none complete, and what they have cannot leave it. So while an older one still loads, a younger one
gets no memory beyond half of the capacity (decision 0004).
"""

from __future__ import annotations

from nvshare.scheduler.clients import Client
from nvshare.scheduler.eviction import Moment
from nvshare.scheduler.room import Room


def older_loads_until(client: Client, room: Room, ghost_bytes: int, moment: Moment) -> int | None:
    """The time at which older clients will have loaded, if the client must wait for them; else None."""
    if client.swaps:
        return None
    staying = [other for other in room.clients if not other.swaps]
    after_bytes = sum(c.served_bytes for c in staying) + ghost_bytes + client.wish_bytes - client.needed_bytes
    if after_bytes <= room.capacity_bytes // 2:
        return None
    policy = moment.policy
    ends_ns = [
        min(other.grew_ns + policy.loading_quiet_ns, other.admitted_ns + policy.loading_limit_ns)
        for other in staying
        if other.reachable and other.wish_bytes > 0 and other.admitted_ns is not None and _is_older(other, client)
    ]
    end_ns = max(ends_ns, default=moment.now_ns)
    return end_ns if end_ns > moment.now_ns else None


def _is_older(one: Client, other: Client) -> bool:
    """Whether `one` was admitted before `other`. Nobody is older than itself."""
    if one.admitted_ns is None or other.admitted_ns is None:
        return one.admitted
    return (one.admitted_ns, one.order) < (other.admitted_ns, other.order)
