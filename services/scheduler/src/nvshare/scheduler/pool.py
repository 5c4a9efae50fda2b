"""How much pinned host memory each client should have ready, before its first memory has to leave."""

from __future__ import annotations

from collections.abc import Sequence

from nvshare.scheduler.clients import Client
from nvshare.scheduler.policy import SECOND_NS, Policy


def pool_sizes_bytes(clients: Sequence[Client], capacity_bytes: int, policy: Policy) -> dict[str, int]:
    """By the client's key; 0: nothing will have to move.

    Pinning 12 GB takes seconds, so it must begin before the card is full: what is needed beyond three quarters of the
    capacity is prepared for. Where not everything fits each client prepares for all that it could have to move: who
    asks now will want more, and who leaves must not wait for its pool. It is given up below half of the capacity, not
    at once: who was that full may be again. A client that is alone leaves for nobody.
    """
    needed_bytes = sum(client.wish_bytes for client in clients)
    alone = sum(client.wish_bytes > 0 for client in clients) < 2
    overflow_bytes = needed_bytes - capacity_bytes * 3 // 4
    if needed_bytes > capacity_bytes:
        overflow_bytes = needed_bytes
    sizes_bytes = {}
    for client in clients:
        before_bytes = client.granted.pool_bytes if client.granted else 0
        size_bytes = 0
        if overflow_bytes > 0 and client.report is not None and client.swaps and not alone:
            movable_bytes = client.wish_bytes - client.staying_of(client.wish_bytes)
            size_bytes = max(0, min(overflow_bytes, movable_bytes, client.report.host_room_bytes))
            size_bytes = -(-size_bytes // policy.credit_bytes) * policy.credit_bytes
            size_bytes = min(size_bytes, client.report.host_room_bytes)
        keeps = size_bytes < before_bytes and needed_bytes > capacity_bytes // 2 and not alone
        sizes_bytes[client.key] = before_bytes if keeps else size_bytes
    return sizes_bytes


def pins(client: Client, now_ns: int, policy: Policy) -> bool:
    """Whether the client's pool is on its way: not ready, and still growing."""
    if client.report is None or client.granted is None or client.report.pool_bytes >= client.granted.pool_bytes:
        return False
    return now_ns < client.pool_grew_ns + policy.pool_stall_ns


def pool_waited_for_until_ns(client: Client, begins_ns: int, policy: Policy) -> int:
    """Until when a client's first quantum, begun at `begins_ns`, goes on: what must leave then finds its pool ready.

    That is never later than a bound from the bytes, and sooner where the pool does not grow: some cannot be had.
    """
    report = client.report
    if report is None or client.granted is None or client.has_left:
        return begins_ns
    wished_bytes = client.granted.pool_bytes
    if report.pool_bytes >= wished_bytes:
        return begins_ns
    pinning_ns = wished_bytes * SECOND_NS // policy.pinned_bytes_per_second
    return min(begins_ns + policy.pool_limit_ns + pinning_ns, client.pool_grew_ns + policy.pool_stall_ns)
