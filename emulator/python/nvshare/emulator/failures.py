"""Lets emulated cards fail and recover, as NVML shows it to programs and services.

The folder is the one of ``NVSHARE_EMULATOR_DIR`` in this process's environment at the first call. Programs that use a
card go on whatever happens to it here: it is NVML's view that fails.
"""

import ctypes

from nvshare.emulator.account import check, library, totals

FALLEN_OFF_THE_BUS = 79
"""The Xid error of a GPU that can no longer be reached."""

APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""Xid errors that a program causes: the card itself needs no repair."""

_NO_ACTION = 0
_GPU_RESET = 1


def fail(card: int, xid: int, *, lost: bool | None = None) -> None:
    """Put an Xid error into a card, by its index in the folder.

    ``lost``: NVML no longer reaches it; left out, that is so for Xid 79. Unless a program causes such an error, NVML
    says from now on that the card must be reset.

    Raises:
        OSError: there is no such card.
    """
    gone = xid == FALLEN_OFF_THE_BUS if lost is None else lost
    recovery = _NO_ACTION if xid in APPLICATION_XIDS else _GPU_RESET
    check(library().nvshare_emulator_fail(card, ctypes.c_uint32(xid), ctypes.c_uint32(recovery), int(gone)), card)


def recover(card: int) -> None:
    """Let a card be well again.

    Raises:
        OSError: there is no such card.
    """
    check(library().nvshare_emulator_recover(card), card)


def find_card(name: str) -> int:
    """Return the index of a card that is named by index or UUID.

    Raises:
        LookupError: the folder has no such card.
    """
    uuids: list[str] = []
    while True:
        try:
            uuids.append(totals(len(uuids)).uuid)
        except OSError:
            break
    for index, uuid in enumerate(uuids):
        if name in (str(index), uuid):
            return index
    raise LookupError(f"no emulated card {name!r} in this folder: it has {', '.join(uuids) or 'none'}")
