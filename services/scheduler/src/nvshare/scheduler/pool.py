"""How much pinned host memory each client should have ready, before its first memory has to leave."""

from __future__ import annotations

from collections.abc import Sequence

from nvshare.scheduler.clients import Client
from nvshare.scheduler.policy import Policy


def pool_sizes_bytes(clients: Sequence[Client], capacity_bytes: int, policy: Policy) -> dict[str, int]:
    """By the client's key; 0: nothing will have to move.

    Pinning costs about a second for each 12 GB, so it must begin before the card is full: what is needed beyond three
    quarters of the capacity is prepared for. No client has to move out more than that, nor what stays anyway. It is
    given up below half of the capacity, not at once: who was that full may be again.
    """
    needed_bytes = sum(client.wish_bytes for client in clients)
    overflow_bytes = needed_bytes - capacity_bytes * 3 // 4
    sizes_bytes = {}
    for client in clients:
        before_bytes = client.granted.pool_bytes if client.granted else 0
        size_bytes = 0
        if client.report is not None and client.swaps:
            movable_bytes = client.wish_bytes - client.staying_of(client.wish_bytes)
            size_bytes = max(0, min(overflow_bytes, movable_bytes, client.report.host_room_bytes))
            size_bytes = -(-size_bytes // policy.credit_bytes) * policy.credit_bytes
            size_bytes = min(size_bytes, client.report.host_room_bytes)
        keeps = size_bytes < before_bytes and needed_bytes > capacity_bytes // 2
        sizes_bytes[client.key] = before_bytes if keeps else size_bytes
    return sizes_bytes
