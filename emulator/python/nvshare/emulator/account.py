"""The cards' own account: who had how much memory and compute time, and when.

Reads the shared state through ``libcuda.so.1``'s own interface (``nvshare_emulator.h``), in a process that need not use
a card. The folder is the one of ``NVSHARE_EMULATOR_DIR`` in this process's environment at the first call.
"""

import ctypes
import functools
import os
import uuid
from dataclasses import dataclass

from nvshare.emulator import library_directory

_MOST_ACCOUNTS = 512
_MOST_TURNS = 4096
_MOST_COPIES = 2 * 4096


class _Account(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_int32),
        ("alive", ctypes.c_uint32),
        ("present", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("used_bytes", ctypes.c_uint64),
        ("peak_bytes", ctypes.c_uint64),
        ("context_bytes", ctypes.c_uint64),
        ("linear_bytes", ctypes.c_uint64),
        ("handle_bytes", ctypes.c_uint64),
        ("managed_bytes", ctypes.c_uint64),
        ("copied_in_bytes", ctypes.c_uint64),
        ("copied_out_bytes", ctypes.c_uint64),
        ("busy_ns", ctypes.c_uint64),
        ("launches", ctypes.c_uint64),
        ("timeslice_us", ctypes.c_uint64),
        ("joined_ns", ctypes.c_uint64),
        ("left_ns", ctypes.c_uint64),
        ("wakes", ctypes.c_uint64),
    ]


class _Card(ctypes.Structure):
    _fields_ = [
        ("total_bytes", ctypes.c_uint64),
        ("used_bytes", ctypes.c_uint64),
        ("peak_bytes", ctypes.c_uint64),
        ("memory_bytes", ctypes.c_uint64),
        ("peak_memory_bytes", ctypes.c_uint64),
        ("copied_in_bytes", ctypes.c_uint64),
        ("copied_out_bytes", ctypes.c_uint64),
        ("busy_ns", ctypes.c_uint64),
        ("switches", ctypes.c_uint64),
        ("uuid", ctypes.c_uint8 * 16),
    ]


class _Turn(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_int32),
        ("reserved", ctypes.c_uint32),
        ("start_ns", ctypes.c_uint64),
        ("end_ns", ctypes.c_uint64),
    ]


class _Copy(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_int32),
        ("out", ctypes.c_uint32),
        ("bytes", ctypes.c_uint64),
        ("start_ns", ctypes.c_uint64),
        ("end_ns", ctypes.c_uint64),
    ]


@dataclass(frozen=True)
class Account:
    """What one process has had of a card; times are CLOCK_MONOTONIC. ``left_ns`` is 0 while its memory counts.

    ``used_bytes`` is the sum of the bytes of contexts, linear memory (cuMemAlloc and pools), handles of cuMemCreate
    (what several processes hold counts for one of them) and managed memory on the card. ``wakes`` counts how often
    work, or an event, came to the compute engine while that had nothing of the process: a real card stops its
    neighbours then.
    """

    pid: int
    alive: bool
    present: bool
    used_bytes: int
    peak_bytes: int
    context_bytes: int
    linear_bytes: int
    handle_bytes: int
    managed_bytes: int
    copied_in_bytes: int
    copied_out_bytes: int
    busy_ns: int
    launches: int
    timeslice_us: int
    joined_ns: int
    left_ns: int
    wakes: int


@dataclass(frozen=True)
class Card:
    """What a card has, and what its engines have done in all.

    ``peak_bytes`` is the most that all processes together ever used, ``peak_memory_bytes`` the same without contexts.
    """

    uuid: str
    total_bytes: int
    used_bytes: int
    peak_bytes: int
    memory_bytes: int
    peak_memory_bytes: int
    copied_in_bytes: int
    copied_out_bytes: int
    busy_ns: int
    switches: int


@dataclass(frozen=True)
class Turn:
    """A stretch of time in which one process had the compute engine; CLOCK_MONOTONIC."""

    pid: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class Copy:
    """A completed copy over the link: from host to device, or ``out``; CLOCK_MONOTONIC."""

    pid: int
    out: bool
    bytes: int
    start_ns: int
    end_ns: int


@functools.cache
def library() -> ctypes.CDLL:
    """Return the emulator's driver library, for its own interface."""
    return ctypes.CDLL(str(library_directory() / "libcuda.so.1"))


def check(error: int, card: int) -> None:
    """Raise OSError unless a function of that interface returned 0."""
    if error != 0:
        raise OSError(error, f"{os.strerror(error)}: no emulated card {card} in this folder")


def accounts(card: int = 0) -> list[Account]:
    """Return the accounts of a card by its index in the folder: the present ones first, then those that left last.

    Raises:
        OSError: there is no such card.
    """
    room = (_Account * _MOST_ACCOUNTS)()
    count = ctypes.c_uint32(_MOST_ACCOUNTS)
    check(library().nvshare_emulator_accounts(card, room, ctypes.byref(count)), card)
    return [
        Account(
            pid=entry.pid,
            alive=bool(entry.alive),
            present=bool(entry.present),
            used_bytes=entry.used_bytes,
            peak_bytes=entry.peak_bytes,
            context_bytes=entry.context_bytes,
            linear_bytes=entry.linear_bytes,
            handle_bytes=entry.handle_bytes,
            managed_bytes=entry.managed_bytes,
            copied_in_bytes=entry.copied_in_bytes,
            copied_out_bytes=entry.copied_out_bytes,
            busy_ns=entry.busy_ns,
            launches=entry.launches,
            timeslice_us=entry.timeslice_us,
            joined_ns=entry.joined_ns,
            left_ns=entry.left_ns,
            wakes=entry.wakes,
        )
        for entry in room[: count.value]
    ]


def totals(card: int = 0) -> Card:
    """Return the totals of a card by its index in the folder.

    Raises:
        OSError: there is no such card.
    """
    found = _Card()
    check(library().nvshare_emulator_card(card, ctypes.byref(found)), card)
    return Card(
        uuid=f"GPU-{uuid.UUID(bytes=bytes(found.uuid))}",
        total_bytes=found.total_bytes,
        used_bytes=found.used_bytes,
        peak_bytes=found.peak_bytes,
        memory_bytes=found.memory_bytes,
        peak_memory_bytes=found.peak_memory_bytes,
        copied_in_bytes=found.copied_in_bytes,
        copied_out_bytes=found.copied_out_bytes,
        busy_ns=found.busy_ns,
        switches=found.switches,
    )


def turns(card: int = 0) -> list[Turn]:
    """Return the latest turns on a card's compute engine, oldest first.

    Raises:
        OSError: there is no such card.
    """
    room = (_Turn * _MOST_TURNS)()
    count = ctypes.c_uint32(_MOST_TURNS)
    check(library().nvshare_emulator_turns(card, room, ctypes.byref(count)), card)
    return [Turn(pid=entry.pid, start_ns=entry.start_ns, end_ns=entry.end_ns) for entry in room[: count.value]]


def copies(card: int = 0) -> list[Copy]:
    """Return the latest copies over a card's link, in the order in which they began.

    Raises:
        OSError: there is no such card.
    """
    room = (_Copy * _MOST_COPIES)()
    count = ctypes.c_uint32(_MOST_COPIES)
    check(library().nvshare_emulator_copies(card, room, ctypes.byref(count)), card)
    found = [
        Copy(pid=entry.pid, out=bool(entry.out), bytes=entry.bytes, start_ns=entry.start_ns, end_ns=entry.end_ns)
        for entry in room[: count.value]
    ]
    return sorted(found, key=lambda copy: copy.start_ns)


def reset_peaks(card: int = 0) -> None:
    """Let a card's peaks begin anew at what is in use now.

    Raises:
        OSError: there is no such card.
    """
    check(library().nvshare_emulator_reset_peaks(card), card)
