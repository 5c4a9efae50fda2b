"""How long a client keeps its place while others wait: fixed, or from the measured time of a swap.

The automatic quantum is 40 times the time of a swap, so that a fortieth of the time is lost. Either is shorter where
somebody would wait for longer than `max_wait`, but not below 5 times the swap for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nvshare.scheduler.clients import Client
from nvshare.scheduler.model import Report
from nvshare.scheduler.policy import SECOND_NS, Policy

_LATELY_BYTES = 256 << 30
_SLOWEST_US_PER_GIB = 1_000_000  # no link is as slow: a client cannot claim that moving took for ever


@dataclass(slots=True)
class Speed:
    """How fast memory moved lately, in one direction: what is older than a few hundred GiB counts half, and so on."""

    size_bytes: int = 0
    time_us: int = 0

    def add(self, size_bytes: int, time_us: int) -> None:
        """Memory has moved in this time."""
        self.size_bytes += size_bytes
        self.time_us += min(time_us, size_bytes * _SLOWEST_US_PER_GIB >> 30)
        if self.size_bytes > _LATELY_BYTES:
            self.size_bytes //= 2
            self.time_us //= 2

    def time_ns(self, size_bytes: int, policy: Policy) -> int:
        """How long `size_bytes` take; a guess until enough was moved to measure."""
        if self.size_bytes < policy.credit_bytes or self.time_us <= 0:
            return size_bytes * SECOND_NS // policy.link_bytes_per_second
        return size_bytes * self.time_us * 1000 // self.size_bytes


@dataclass(slots=True)
class Moved:
    """What all clients have moved since the scheduler started, those that ended included, and how fast they do."""

    size_bytes: int = 0
    out: Speed = field(default_factory=Speed)
    back: Speed = field(default_factory=Speed)

    def add(self, before: Report | None, now: Report, *, pins: bool) -> None:
        """Counts what a client has moved between two of its reports. The first one may tell of an earlier life of the
        scheduler, and a counter that falls counts nothing. One that `pins` host memory meanwhile waits for that, and
        will not the next time: its speed on the way out says nothing."""
        if before is None:
            return
        out_bytes = max(0, now.swapped_out_bytes - before.swapped_out_bytes)
        back_bytes = max(0, now.swapped_in_bytes - before.swapped_in_bytes)
        self.size_bytes += out_bytes + back_bytes
        if not pins:
            self.out.add(out_bytes, max(0, now.swap_out_us - before.swap_out_us))
        self.back.add(back_bytes, max(0, now.swap_in_us - before.swap_in_us))


def swap_time_ns(clients: Sequence[Client], moved: Moved, capacity_bytes: int, policy: Policy) -> int:
    """How long it takes to move out and in what must move for a switch, one after the other; 0: everything fits."""
    overflow_bytes = sum(client.wish_bytes for client in clients) - capacity_bytes
    if overflow_bytes <= 0:
        return 0
    largest_bytes = max(client.wish_bytes - client.staying_of(client.wish_bytes) for client in clients)
    most_bytes = max(0, min(overflow_bytes, largest_bytes))
    return moved.out.time_ns(most_bytes, policy) + moved.back.time_ns(most_bytes, policy)


def automatic_quantum_ns(swap_ns: int, policy: Policy) -> int:
    """The quantum for a swap of `swap_ns`, as long as nobody waits too long."""
    return min(max(policy.quantum_swaps * swap_ns, policy.quiet_quantum_ns), policy.longest_quantum_ns)


def bearable_quantum_ns(wished_ns: int, swap_ns: int, waiters: int, max_wait_ns: int, policy: Policy) -> int:
    """The wished quantum, or what `waiters` can bear of it; no less than what keeps the swaps' share of the time small,
    where more than that was wished."""
    bearable_ns = max_wait_ns // max(1, waiters) - swap_ns
    least_ns = min(max(policy.least_quantum_swaps * swap_ns, policy.shortest_quantum_ns), policy.longest_quantum_ns)
    return min(wished_ns, max(least_ns, bearable_ns))
