"""Finds a deadlock over memory, and who must give way.

Clients that have memory and wait for more can block each other: none gives up what it has. Where it cannot be moved,
one of them is refused, which is CUDA's own out-of-memory error in its program: the youngest, because it has the least
to lose. As long as anybody runs, comes back or gives memory back, it is no deadlock: the others wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nvshare.scheduler.clients import Client
from nvshare.scheduler.model import ClientState
from nvshare.scheduler.policy import Policy


@dataclass(frozen=True, slots=True)
class Deadlock:
    """All wait, or will do nothing more, from `since_ns` on, which may lie ahead. `victim` is to be refused."""

    victim: Client
    since_ns: int


def find_deadlock(
    clients: Sequence[Client], unserved: Sequence[Client], now_ns: int, policy: Policy
) -> Deadlock | None:
    """The deadlock among `clients`, whose memory cannot be moved, and of whom `unserved` wait because memory is short.
    The caller knows that nothing is on its way: no headroom to be given back, no dead client's memory."""
    holders = [client for client in clients if client.charge_bytes > 0]
    waiting = [client for client in unserved if client.resident_bytes > 0]
    if waiting:
        victim = max(waiting, key=lambda client: (client.admitted_ns or 0, client.order))
    elif unserved and not holders:
        victim = unserved[0]  # alone on the card, and it does not fit
    else:
        return None
    since_ns = now_ns
    for client in holders:
        end_ns = _blocked_from(client, client in unserved, now_ns, policy)
        if end_ns is None:
            return None
        since_ns = max(since_ns, end_ns)
    return Deadlock(victim, since_ns)


def _blocked_from(client: Client, unserved: bool, now_ns: int, policy: Policy) -> int | None:
    """From when on the client does nothing that could free memory. None: it may, at any time."""
    if client.report is None or not client.reachable or client.state == ClientState.STUCK:
        return None
    if client.is_silent(now_ns, policy.silent_ns):
        return None
    if unserved and client.report.allocation_waits:
        if not client.demand:
            return now_ns
        return client.progress_ns + policy.no_progress_ns if client.may_launch else None
    if client.demand:
        return None
    return max(client.demanded_ns or 0, client.progress_ns, client.grew_ns) + policy.idle_for_good_ns
