"""The memory of a simulated program: what of it is on the card, and what moves, as the library moves it.

Memory moves in whole extents over a link that all programs share, one transfer at a time in each direction, so that
one program's way out overlaps another one's way in. The target of the newest grant is followed from wherever the memory
is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from nvshare.scheduler.policy import MIB, SECOND_NS

EXTENT_BYTES = 64 * MIB
REPORT_BYTES = 256 * MIB
POOL_SEGMENT_BYTES = 256 * MIB

Later = Callable[[int, Callable[[], None]], None]
"""Runs an action of the program after a delay in ns."""


class Card(Protocol):
    """The account of the simulated card."""

    def take(self, pid: int, size_bytes: int, managed: bool) -> None: ...


@dataclass(slots=True)
class Link:
    """The link between card and host."""

    bytes_per_second: int = 50_000_000_000
    busy_until_ns: dict[str, int] = field(default_factory=lambda: {"out": 0, "in": 0})
    moved_bytes: int = 0

    def transfer_ns(self, direction: str, size_bytes: int, now_ns: int) -> int:
        """Begins a transfer as soon as the link is free. Gives how long from now it takes to its end."""
        begin_ns = max(now_ns, self.busy_until_ns[direction])
        end_ns = begin_ns + size_bytes * SECOND_NS // self.bytes_per_second
        self.busy_until_ns[direction] = end_ns
        self.moved_bytes += size_bytes
        return end_ns - now_ns


@dataclass(slots=True)
class Swapping:
    """What a program's library can do with its memory."""

    swaps: bool = True
    host_room_bytes: int = 1 << 50
    pinned_bytes: int = 0
    fails: bool = False  # every attempt to move memory out fails
    pool_bytes_per_second: int = 0  # how fast host memory is pinned; 0: at once


@dataclass(slots=True)
class SimulatedMemory:
    """One program's memory. `footprint_bytes` is the program's own count, `present_bytes` are on the card."""

    pid: int
    card: Card
    link: Link
    swapping: Swapping
    footprint_bytes: int = 0
    present_bytes: int = 0
    away_bytes: int = 0
    target_bytes: int = 0
    moving: bool = False
    pool_wish_bytes: int = 0
    pool_ready_bytes: int = 0
    pinning: bool = False
    stands_ns: int | None = None  # since when it waits for its pool to move on; the library counts that as moving
    unreported_bytes: int = 0
    swapped_out_bytes: int = 0
    swapped_in_bytes: int = 0
    swap_out_ns: int = 0
    swap_in_ns: int = 0
    failures: int = 0

    @property
    def needed_bytes(self) -> int:
        return self.present_bytes + self.away_bytes

    @property
    def pinned_bytes(self) -> int:
        return min(self.swapping.pinned_bytes, self.present_bytes)

    def needed_for(self, footprint_bytes: int) -> int:
        """What a footprint takes on the card."""
        if not self.swapping.swaps:
            return footprint_bytes
        return -(-footprint_bytes // EXTENT_BYTES) * EXTENT_BYTES

    def resize(self, footprint_bytes: int, managed: bool) -> None:
        """The program allocates, with all of its memory on the card, or frees, first what is away."""
        change_bytes = self.needed_for(footprint_bytes) - self.needed_bytes
        self.footprint_bytes = footprint_bytes
        freed_away_bytes = min(self.away_bytes, max(0, -change_bytes))
        self.away_bytes -= freed_away_bytes
        self.present_bytes += change_bytes + freed_away_bytes
        self.card.take(self.pid, change_bytes + freed_away_bytes, managed)

    @property
    def must_leave(self) -> bool:
        """Whether more is on the card than may be, and could leave it."""
        return self.swapping.swaps and self.present_bytes > max(self.target_bytes, self.pinned_bytes)

    @property
    def all_present(self) -> bool:
        """Whether the program may work: everything is on the card, and nothing has to leave it."""
        return self.away_bytes == 0 and not self.must_leave and not self.moving

    def prepare(self, later: Later, changed: Callable[[], None]) -> None:
        """Pins host memory, a segment after the other, until there is what is wished and what moves at once needs.
        `changed` is called after each."""
        speed = self.swapping.pool_bytes_per_second
        needed_bytes = max(self.pool_wish_bytes, self.away_bytes + (EXTENT_BYTES if self.must_leave else 0))
        if speed == 0:
            self.pool_ready_bytes = needed_bytes
        if self.pinning or self.pool_ready_bytes >= needed_bytes:
            return
        self.pinning = True

        def done() -> None:
            self.pinning = False
            self.pool_ready_bytes += POOL_SEGMENT_BYTES
            changed()
            self.prepare(later, changed)

        later(POOL_SEGMENT_BYTES * SECOND_NS // speed, done)

    def step(self, now_ns: int, later: Later, moved: Callable[[], None]) -> None:
        """Moves the next extent, if one must leave or may come. `moved` is called when it has."""
        if self.moving:
            return
        if self.must_leave:
            self._move_out(now_ns, later, moved)
        elif self.away_bytes > 0 and self.present_bytes + EXTENT_BYTES <= self.target_bytes:
            self._move_in(now_ns, later, moved)

    def _move_out(self, now_ns: int, later: Later, moved: Callable[[], None]) -> None:
        if self.swapping.fails or self.away_bytes + EXTENT_BYTES > self.swapping.host_room_bytes:
            self.failures += 1
            return
        self.prepare(later, moved)
        if self.away_bytes + EXTENT_BYTES > self.pool_ready_bytes:
            if self.stands_ns is None:
                self.stands_ns = now_ns
            return
        if self.stands_ns is not None:
            self.swap_out_ns += now_ns - self.stands_ns
            self.stands_ns = None
        self.moving = True
        size_bytes = min(EXTENT_BYTES, self.present_bytes - self.pinned_bytes)

        def done() -> None:
            self.moving = False
            self.card.take(self.pid, -size_bytes, True)
            self.present_bytes -= size_bytes
            self.away_bytes += size_bytes
            self.swapped_out_bytes += size_bytes
            self.unreported_bytes += size_bytes
            moved()

        time_ns = self.link.transfer_ns("out", size_bytes, now_ns)
        self.swap_out_ns += time_ns
        later(time_ns, done)

    def _move_in(self, now_ns: int, later: Later, moved: Callable[[], None]) -> None:
        self.moving = True
        size_bytes = min(EXTENT_BYTES, self.away_bytes)
        self.card.take(self.pid, size_bytes, True)
        self.away_bytes -= size_bytes
        self.present_bytes += size_bytes

        def done() -> None:
            self.moving = False
            self.swapped_in_bytes += size_bytes
            self.unreported_bytes += size_bytes
            moved()

        time_ns = self.link.transfer_ns("in", size_bytes, now_ns)
        self.swap_in_ns += time_ns
        later(time_ns, done)
