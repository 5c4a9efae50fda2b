"""How long a client keeps its place while others wait: fixed, or from the measured time of a swap.

The automatic quantum is 40 times the time of a swap, so that a fortieth of the time is lost; shorter where somebody
would wait for longer than `max_wait`, but never below 5 times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nvshare.scheduler.clients import Client
from nvshare.scheduler.model import Report
from nvshare.scheduler.policy import SECOND_NS, Policy


@dataclass(slots=True)
class Moved:
    """What all clients have moved since the scheduler started, those that ended included."""

    out_bytes: int = 0
    out_us: int = 0
    in_bytes: int = 0
    in_us: int = 0

    @property
    def size_bytes(self) -> int:
        return self.out_bytes + self.in_bytes

    def add(self, before: Report | None, now: Report) -> None:
        """Counts what a client has moved between two of its reports. The first one may tell of an earlier life of the
        scheduler, and a counter that falls counts nothing."""
        if before is None:
            return
        self.out_bytes += max(0, now.swapped_out_bytes - before.swapped_out_bytes)
        self.out_us += max(0, now.swap_out_us - before.swap_out_us)
        self.in_bytes += max(0, now.swapped_in_bytes - before.swapped_in_bytes)
        self.in_us += max(0, now.swap_in_us - before.swap_in_us)


def swap_time_ns(clients: Sequence[Client], moved: Moved, capacity_bytes: int, policy: Policy) -> int:
    """How long it takes to move out and in what must move for a switch, one after the other; 0: everything fits."""
    overflow_bytes = sum(client.wish_bytes for client in clients) - capacity_bytes
    if overflow_bytes <= 0:
        return 0
    largest_bytes = max(client.wish_bytes - client.staying_of(client.wish_bytes) for client in clients)
    most_bytes = min(overflow_bytes, largest_bytes)
    return (
        max(0, most_bytes)
        * (_ns_per_gib(moved.out_bytes, moved.out_us, policy) + _ns_per_gib(moved.in_bytes, moved.in_us, policy))
        >> 30
    )


def automatic_quantum_ns(swap_ns: int, waiters: int, max_wait_ns: int, policy: Policy) -> int:
    """The quantum for a swap of `swap_ns` while `waiters` wait."""
    wished_ns = max(policy.quantum_swaps * swap_ns, policy.quiet_quantum_ns)
    bearable_ns = max_wait_ns // max(1, waiters) - swap_ns
    least_ns = max(policy.least_quantum_swaps * swap_ns, policy.shortest_quantum_ns)
    return min(max(least_ns, min(wished_ns, bearable_ns)), policy.longest_quantum_ns)


def _ns_per_gib(size_bytes: int, time_us: int, policy: Policy) -> int:
    """The measured time for 2^30 bytes; a guess until enough was moved to measure."""
    if size_bytes < policy.credit_bytes or time_us <= 0:
        return (SECOND_NS << 30) // policy.link_bytes_per_second
    return (time_us * 1000 << 30) // size_bytes
