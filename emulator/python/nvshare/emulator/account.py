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


class _Account(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_int32),
        ("alive", ctypes.c_uint32),
        ("present", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("used_bytes", ctypes.c_uint64),
        ("peak_bytes", ctypes.c_uint64),
        ("busy_ns", ctypes.c_uint64),
        ("launches", ctypes.c_uint64),
        ("timeslice_us", ctypes.c_uint64),
        ("joined_ns", ctypes.c_uint64),
        ("left_ns", ctypes.c_uint64),
    ]


class _Card(ctypes.Structure):
    _fields_ = [
        ("total_bytes", ctypes.c_uint64),
        ("used_bytes", ctypes.c_uint64),
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


@dataclass(frozen=True)
class Account:
    """What one process has had of a card; times are CLOCK_MONOTONIC. ``left_ns`` is 0 while its memory counts."""

    pid: int
    alive: bool
    present: bool
    used_bytes: int
    peak_bytes: int
    busy_ns: int
    launches: int
    timeslice_us: int
    joined_ns: int
    left_ns: int


@dataclass(frozen=True)
class Card:
    """What a card has, and what its compute engine has done in all."""

    uuid: str
    total_bytes: int
    used_bytes: int
    busy_ns: int
    switches: int


@dataclass(frozen=True)
class Turn:
    """A stretch of time in which one process had the compute engine; CLOCK_MONOTONIC."""

    pid: int
    start_ns: int
    end_ns: int


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(library_directory() / "libcuda.so.1"))


def _check(error: int, card: int) -> None:
    if error != 0:
        raise OSError(error, f"{os.strerror(error)}: no emulated card {card} in this folder")


def accounts(card: int = 0) -> list[Account]:
    """Return the accounts of a card by its index in the folder: the present ones first, then those that left last.

    Raises:
        OSError: there is no such card.
    """
    room = (_Account * _MOST_ACCOUNTS)()
    count = ctypes.c_uint32(_MOST_ACCOUNTS)
    _check(_library().nvshare_emulator_accounts(card, room, ctypes.byref(count)), card)
    return [
        Account(
            pid=entry.pid,
            alive=bool(entry.alive),
            present=bool(entry.present),
            used_bytes=entry.used_bytes,
            peak_bytes=entry.peak_bytes,
            busy_ns=entry.busy_ns,
            launches=entry.launches,
            timeslice_us=entry.timeslice_us,
            joined_ns=entry.joined_ns,
            left_ns=entry.left_ns,
        )
        for entry in room[: count.value]
    ]


def totals(card: int = 0) -> Card:
    """Return the totals of a card by its index in the folder.

    Raises:
        OSError: there is no such card.
    """
    found = _Card()
    _check(_library().nvshare_emulator_card(card, ctypes.byref(found)), card)
    return Card(
        uuid=f"GPU-{uuid.UUID(bytes=bytes(found.uuid))}",
        total_bytes=found.total_bytes,
        used_bytes=found.used_bytes,
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
    _check(_library().nvshare_emulator_turns(card, room, ctypes.byref(count)), card)
    return [Turn(pid=entry.pid, start_ns=entry.start_ns, end_ns=entry.end_ns) for entry in room[: count.value]]
