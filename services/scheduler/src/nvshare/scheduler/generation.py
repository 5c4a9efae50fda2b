"""The scheduler's generation: a number for each of its lives, greater than all before, kept in a file."""

from __future__ import annotations

from pathlib import Path

from nvshare.bus.node_directory import write_atomically

_FILE_NAME = "generation"


def next_generation(folder: Path, unix_seconds: int) -> int:
    """The generation of the life that starts now; it is on disk when this returns.

    It is at least the time, so that a lost file does not make a scheduler whose grants every client drops as old.
    Raises OSError when the folder cannot be written.
    """
    path = folder / _FILE_NAME
    try:
        last = int(path.read_text())
    except (FileNotFoundError, ValueError):
        last = 0
    generation = max(last + 1, unix_seconds)
    write_atomically(path, f"{generation}\n")
    return generation
