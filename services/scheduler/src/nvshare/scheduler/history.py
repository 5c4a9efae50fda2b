"""A bounded log of everything that an arbiter was told and what it commanded, from which its decisions can be replayed.

The log is a row of segments, each with the arbiter's state at its start, so that the oldest can be dropped and the rest
still be replayed. Written down it is JSON lines: a `start` line with the state, then one `entry` line for each event.
A replay on another machine gives the same commands, or it has found a decision that depends on something else.
"""

from __future__ import annotations

import json
import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from nvshare.scheduler import codec
from nvshare.scheduler.arbiter import Arbiter
from nvshare.scheduler.model import Allocation, Command, Event, MemorySampled, Peer, RelayReported
from nvshare.scheduler.policy import Policy
from nvshare.scheduler.state import ArbiterState

Part = TypeVar("Part", Peer, Allocation)

_ENTRY_BYTES = 800
_PART_BYTES = 256  # of a command, a peer, an allocation or a process


@dataclass(frozen=True, slots=True)
class Entry:
    """One event, and the commands that followed. The n-th command of entry 17 is called 17.n."""

    id: int
    now_ns: int
    event: Event
    commands: tuple[Command, ...]


@dataclass(slots=True)
class Segment:
    """A part of the log, with the arbiter's state before its first entry."""

    state: bytes  # pickled: taking it must be cheap, writing it as JSON is for the dump
    entries: list[Entry] = field(default_factory=list)
    size_bytes: int = 0  # about what its lines will have


@dataclass(frozen=True, slots=True)
class Difference:
    """An entry whose replay gave other commands."""

    gpu: str
    entry: int
    recorded: tuple[Command, ...]
    replayed: tuple[Command, ...]


class RecordedArbiter:
    """An arbiter with its history."""

    def __init__(
        self, arbiter: Arbiter, segment_entries: int = 2000, segments: int = 5, segment_bytes: int = 4 << 20
    ) -> None:
        """A segment ends after `segment_entries`, or when its lines would have about `segment_bytes`."""
        self.arbiter = arbiter
        self._segment_entries = segment_entries
        self._segment_bytes = segment_bytes
        self._segments: deque[Segment] = deque(maxlen=segments)
        self._next_id = 1
        self._relay: RelayReported | None = None

    def handle(self, event: Event, now_ns: int) -> list[Command]:
        """As Arbiter.handle, and remembers it."""
        if isinstance(event, RelayReported):
            event = self._relay = _sharing_parts(event, self._relay)
        if not self._segments or self._is_full(self._segments[-1]):
            self._segments.append(Segment(pickle.dumps(self.arbiter.state)))
        commands = self.arbiter.handle(event, now_ns)
        entry = Entry(self._next_id, now_ns, event, tuple(commands))
        self._segments[-1].entries.append(entry)
        self._segments[-1].size_bytes += _line_bytes(entry)
        self._next_id += 1
        return commands

    def _is_full(self, segment: Segment) -> bool:
        return len(segment.entries) >= self._segment_entries or segment.size_bytes >= self._segment_bytes

    def lines(self) -> Iterator[str]:
        """The log as JSON lines. What is handled after the call does not show."""
        segments = [Segment(segment.state, list(segment.entries)) for segment in self._segments]
        return _written(segments, self.arbiter.policy)


def _sharing_parts(event: RelayReported, last: RelayReported | None) -> RelayReported:
    """The relay repeats everything once a second: what is as before is the same object, and takes its memory once."""
    if last is None:
        return event
    peers, allocations = _reused(event.peers, last.peers), _reused(event.allocations, last.allocations)
    return replace(event, peers=peers, allocations=allocations)


def _reused(parts: tuple[Part, ...], last: tuple[Part, ...]) -> tuple[Part, ...]:
    if parts == last:
        return last
    known = {part: part for part in last}
    return tuple(known.get(part, part) for part in parts)


def _line_bytes(entry: Entry) -> int:
    """About what the entry's line will have: measuring it exactly would cost more than the decision."""
    parts = len(entry.commands)
    match entry.event:
        case RelayReported():
            parts += len(entry.event.peers) + len(entry.event.allocations)
        case MemorySampled():
            parts += len(entry.event.processes)
    return _ENTRY_BYTES + parts * _PART_BYTES


def _written(segments: list[Segment], policy: Policy) -> Iterator[str]:
    for segment in segments:
        state: ArbiterState = pickle.loads(segment.state)
        yield json.dumps({"line": "start", "policy": codec.encode(policy), "state": codec.encode(state)})
        for entry in segment.entries:
            yield json.dumps(
                {
                    "line": "entry",
                    "id": entry.id,
                    "now_ns": entry.now_ns,
                    "event": codec.encode_tagged(entry.event),
                    "commands": [codec.encode_tagged(command) for command in entry.commands],
                }
            )


def replay(lines: Iterable[str]) -> tuple[int, list[Difference]]:
    """Replays a written log. Gives the number of entries, and those that came out different.

    Raises ValueError for a line that is not of a log.
    """
    arbiter: Arbiter | None = None
    entries = 0
    differences = []
    for line in lines:
        document = json.loads(line)
        if not isinstance(document, dict):
            raise ValueError(f"not a line of a history: {line[:80]!r}")
        if document.get("line") == "start":
            state = codec.decode(ArbiterState, document.get("state"))
            arbiter = Arbiter(state, codec.decode(Policy, document.get("policy")))
            continue
        if document.get("line") != "entry" or arbiter is None:
            raise ValueError(f"not a line of a history: {line[:80]!r}")
        entry = _read_entry(document)
        entries += 1
        replayed = tuple(arbiter.handle(entry.event, entry.now_ns))
        if replayed != entry.commands:
            differences.append(Difference(arbiter.state.gpu, entry.id, entry.commands, replayed))
    return entries, differences


def _read_entry(document: dict[str, object]) -> Entry:
    match document:
        case {"id": int(number), "now_ns": int(now_ns), "event": dict(event), "commands": list(commands)}:
            given = tuple(codec.decode_tagged(Command, command) for command in commands)
            return Entry(number, now_ns, codec.decode_tagged(Event, event), given)
    raise ValueError("an entry of a history needs id, now_ns, event and commands")
