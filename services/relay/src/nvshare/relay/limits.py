"""How much of the node one allocation, one user and all together may take. Pure.

The numbers bound RelayState, which is one message, below the bus's largest (nats_server.MAX_PAYLOAD_BYTES, 1 MiB):
at the worst 1024 peers of 110 bytes, 4096 clients of 70 bytes, and 512 requested allocations of 340 bytes with 16 GPUs
of 43 bytes each, 0.9 MiB in all. A device plugin's allocations have the rest.
"""

from collections.abc import Callable, Iterable

from nvshare.relay.allocations import ANY_UID, SOURCE_RUN, Allocation
from nvshare.relay.peers import Peer

MAX_PEERS_PER_ALLOCATION = 256
"""Living processes of one allocation, connected or not."""

MAX_PEERS_PER_USER = 256
MAX_PEERS_PER_NODE = 1024

MAX_CLIENTS_PER_USER = 1024
"""Clients (processes by the GPUs of their allocation) in the allocations of one user."""

MAX_CLIENTS_PER_NODE = 4096

MAX_ALLOCATIONS_PER_USER = 64
"""Allocations of `nvshare run` that one user may have at a time."""

MAX_ALLOCATIONS_PER_NODE = 512
"""Allocations of `nvshare run` of all users."""

MAX_CONNECTIONS = 64
"""Connections of one allocation, and of one user, at a time."""


def peer_refusal(
    allocation: Allocation, pid: int, peers: Iterable[Peer], allocation_of: Callable[[str], Allocation | None]
) -> str:
    """Why the process `pid` may not become another peer of `allocation`; empty: it may. What `pid` itself was before
    (it called exec) does not count.
    """
    others = [(peer.key.allocation, allocation_of(peer.key.allocation)) for peer in peers if peer.process.pid != pid]
    if sum(name == allocation.id for name, _ in others) >= MAX_PEERS_PER_ALLOCATION:
        return "too many processes in this allocation"
    own = len(allocation.gpus)
    if len(others) >= MAX_PEERS_PER_NODE or _clients(one for _, one in others) + own > MAX_CLIENTS_PER_NODE:
        return "too many processes on this node"
    if allocation.uid != ANY_UID:
        users = [one for _, one in others if one is not None and one.uid == allocation.uid]
        if len(users) >= MAX_PEERS_PER_USER or _clients(users) + own > MAX_CLIENTS_PER_USER:
            return "too many processes of this user"
    return ""


def allocation_refusal(uid: int, allocations: Iterable[Allocation]) -> str:
    """Why `uid` gets no further allocation beside `allocations`; empty: it may have one."""
    requested = [one for one in allocations if one.source == SOURCE_RUN]
    if sum(one.uid == uid for one in requested) >= MAX_ALLOCATIONS_PER_USER:
        return f"you have {MAX_ALLOCATIONS_PER_USER} allocations already; end some of them first"
    if len(requested) >= MAX_ALLOCATIONS_PER_NODE:
        return f"the node has {MAX_ALLOCATIONS_PER_NODE} allocations already; wait until some of them end"
    return ""


def _clients(allocations: Iterable[Allocation | None]) -> int:
    """Clients of processes in `allocations`; one that is no longer known counts as one client."""
    return sum(1 if one is None else len(one.gpus) for one in allocations)
