"""Modes and quanta that users have set, kept over restarts of the scheduler."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from nvshare.bus.node_directory import write_atomically
from nvshare.scheduler import codec
from nvshare.scheduler.model import Mode
from nvshare.scheduler.policy import SECOND_NS

_FILE_NAME = "modes.json"


@dataclass(frozen=True, slots=True)
class Sharing:
    """How one GPU is shared."""

    mode: Mode
    quantum_ns: int  # 0: automatic
    max_wait_ns: int = 30 * SECOND_NS


@dataclass(frozen=True, slots=True)
class Saved:
    """What a user set for one GPU, and the node's default at that time: a changed default wins over it."""

    chosen: Sharing
    default: Sharing


def load_sharing(folder: Path, gpu: str, default: Sharing) -> Sharing:
    """What was set for `gpu` while the default was `default`; else the default."""
    saved = _read(folder).get(gpu)
    return saved.chosen if saved is not None and saved.default == default else default


def save_sharing(folder: Path, gpu: str, chosen: Sharing, default: Sharing) -> None:
    """Keeps what a user set. Raises OSError."""
    everything = _read(folder)
    everything[gpu] = Saved(chosen, default)
    text = json.dumps({uuid: codec.encode(saved) for uuid, saved in everything.items()}, indent=2)
    write_atomically(folder / _FILE_NAME, text + "\n")


def _read(folder: Path) -> dict[str, Saved]:
    """What is in the file; nothing when it is not there or damaged: the defaults are safe."""
    try:
        document = json.loads((folder / _FILE_NAME).read_text())
        return {uuid: codec.decode(Saved, saved) for uuid, saved in document.items()}
    except (OSError, ValueError, AttributeError):
        return {}
