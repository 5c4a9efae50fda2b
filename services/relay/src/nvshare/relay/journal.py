"""The relay's journal: which processes joined and what each has on which GPU, so that a new relay knows it at once.

One JSON object a line, appended before the message that it tells of is forwarded, in these shapes:

    {"op": "joined", "allocation": a, "client": c, "pid": p, "start_time_ticks": t}
    {"op": "bytes", "allocation": a, "client": c, "gpu": g, "resident_bytes": n, "grants": [[generation, epoch, bytes]]}
    {"op": "left", "allocation": a, "client": c, "gpu": g}
    {"op": "gone", "allocation": a, "client": c}
    {"op": "owner", "allocation": a, "pid": p, "start_time_ticks": t}
    {"op": "removed", "allocation": a}

Nothing is synced to the disk: the journal outlives the relay's death, and what it tells of does not outlive the
machine's. A line that cannot be read (the last one may be torn) is skipped and counted. The file is rewritten when
most of it is history.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nvshare.relay.peers import Peer, PeerKey, PeerTable, Process
from nvshare.relay.promises import GrantOrder, Promise

_COMPACT_AFTER_LINES = 4096


@dataclass(slots=True)
class JournalState:
    """What the lines read so far add up to. `owners`: the process that asked for each allocation."""

    peers: PeerTable = field(default_factory=PeerTable)
    owners: dict[str, Process] = field(default_factory=dict)
    unreadable_lines: int = 0

    def read(self, line: str) -> None:
        """Adds one line; one that makes no sense is counted and changes nothing."""
        try:
            self._apply(json.loads(line))
        except (ValueError, LookupError, TypeError, RecursionError):
            self.unreadable_lines += 1

    def _apply(self, entry: dict[str, Any]) -> None:
        allocation = str(entry["allocation"])
        match entry["op"]:
            case "owner":
                self.owners[allocation] = _process(entry)
            case "removed":
                self.owners.pop(allocation, None)
            case "joined":
                key = PeerKey(allocation, str(entry["client"]))
                self.peers.joined(key, _process(entry))
                self.peers.disconnected(key)
            case "gone":
                self.peers.died(self._known(entry))
            case "left":
                self.peers.set_promise(self._known(entry), str(entry["gpu"]), None)
            case "bytes":
                grants = tuple((GrantOrder(int(g), int(e)), int(allowed)) for g, e, allowed in entry["grants"])
                promise = Promise(int(entry["resident_bytes"]), grants)
                self.peers.set_promise(self._known(entry), str(entry["gpu"]), promise)
            case unknown:
                raise ValueError(f"unknown operation {unknown!r}")

    def _known(self, entry: dict[str, Any]) -> PeerKey:
        key = PeerKey(str(entry["allocation"]), str(entry["client"]))
        if key not in self.peers:
            raise LookupError(f"{key} never joined")
        return key


def joined_line(key: PeerKey, process: Process) -> str:
    """`process` joined as `key`."""
    return _line("joined", key, pid=process.pid, start_time_ticks=process.start_time_ticks)


def bytes_line(key: PeerKey, gpu: str, promise: Promise) -> str:
    """What the peer has, and may have, on `gpu`."""
    grants = [[order.generation, order.epoch, allowed_bytes] for order, allowed_bytes in promise.grants]
    return _line("bytes", key, gpu=gpu, resident_bytes=promise.resident_bytes, grants=grants)


def left_line(key: PeerKey, gpu: str) -> str:
    """The peer gave `gpu` up."""
    return _line("left", key, gpu=gpu)


def gone_line(key: PeerKey) -> str:
    """The peer is dead, or was replaced."""
    return _line("gone", key)


def owner_line(allocation: str, process: Process) -> str:
    """`process` asked for `allocation`."""
    entry = {"op": "owner", "allocation": allocation, "pid": process.pid, "start_time_ticks": process.start_time_ticks}
    return json.dumps(entry) + "\n"


def removed_line(allocation: str) -> str:
    """The allocation is no more."""
    return json.dumps({"op": "removed", "allocation": allocation}) + "\n"


def state_lines(peers: Iterable[Peer], owners: dict[str, Process]) -> list[str]:
    """The shortest journal that tells of this state."""
    lines = [owner_line(allocation, process) for allocation, process in owners.items()]
    for peer in peers:
        lines.append(joined_line(peer.key, peer.process))
        lines += [bytes_line(peer.key, gpu, promise) for gpu, promise in peer.promises.items()]
    return lines


class JournalFile:
    """The journal on disk. A line that failed costs that line only: the next one begins on a line of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._lines = 0
        self._rewrite_at_lines = _COMPACT_AFTER_LINES
        self._torn = False  # the file may end within a line

    def load(self) -> JournalState:
        """What the file tells; an absent file tells nothing. Raises OSError."""
        state = JournalState()
        if self._path.exists():
            for line in self._path.read_text(errors="replace").splitlines():
                if line:
                    state.read(line)
        return state

    def rewrite(self, lines: list[str]) -> None:
        """Replaces the file by `lines` in one step and appends to it from then on.

        Raises OSError; the file is then as it was, and it is not time for another attempt until it has grown.
        """
        self._rewrite_at_lines = self._lines + _COMPACT_AFTER_LINES
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(descriptor, "".join(lines).encode())
            beside.replace(self._path)
        except OSError:
            os.close(descriptor)
            beside.unlink(missing_ok=True)
            raise
        self.close()
        self._descriptor = descriptor
        self._lines = len(lines)
        self._rewrite_at_lines = self._lines + _COMPACT_AFTER_LINES
        self._torn = False

    def append(self, line: str) -> None:
        """Adds one line. Raises OSError."""
        torn, self._torn = self._torn, True
        self._lines += 1
        _write_all(self._descriptor, (f"\n{line}" if torn else line).encode())
        self._torn = False

    def is_long(self) -> bool:
        """Whether it is time for `rewrite`."""
        return self._lines > self._rewrite_at_lines

    def close(self) -> None:
        """Ends the use of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _write_all(descriptor: int, data: bytes) -> None:
    """write(2) until everything is written: it may take a part only, when the disk is nearly full."""
    while data:
        data = data[os.write(descriptor, data) :]


def _process(entry: dict[str, Any]) -> Process:
    return Process(int(entry["pid"]), int(entry["start_time_ticks"]))


def _line(operation: str, key: PeerKey, **members: object) -> str:
    return json.dumps({"op": operation, "allocation": key.allocation, "client": key.client, **members}) + "\n"
