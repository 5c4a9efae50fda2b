"""A bounded log of everything that an arbiter was told and what it commanded, from which its decisions can be replayed.

The log is a row of segments, each with the arbiter's state at its start, so that the oldest can be dropped and the rest
still be replayed. All of it is kept pickled, which takes a quarter of the memory of the objects. Written down it is
JSON lines: a `start` line with the state, then one `entry` line for each event. A replay on another machine gives the
same commands, or it has found a decision that depends on something else.
"""

from __future__ import annotations

import json
import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from nvshare.scheduler import codec
from nvshare.scheduler.arbiter import Arbiter
from nvshare.scheduler.model import Command, Event
from nvshare.scheduler.policy import Policy
from nvshare.scheduler.state import ArbiterState


@dataclass(frozen=True, slots=True)
class Entry:
    """One event, and the commands that followed. The n-th command of entry 17 is called 17.n."""

    id: int
    now_ns: int
    event: Event
    commands: tuple[Command, ...]


@dataclass(slots=True)
class Segment:
    """A part of the log, with the arbiter's state before its first entry. Both are pickled."""

    state: bytes
    entries: list[bytes] = field(default_factory=list)
    size_bytes: int = 0  # of its entries


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
        """A segment ends after `segment_entries`, or when they take `segment_bytes`."""
        self.arbiter = arbiter
        self._segment_entries = segment_entries
        self._segment_bytes = segment_bytes
        self._segments: deque[Segment] = deque(maxlen=segments)
        self._next_id = 1

    def handle(self, event: Event, now_ns: int) -> list[Command]:
        """As Arbiter.handle, and remembers it."""
        if not self._segments or self._is_full(self._segments[-1]):
            self._segments.append(Segment(pickle.dumps(self.arbiter.state)))
        commands = self.arbiter.handle(event, now_ns)
        entry = pickle.dumps(Entry(self._next_id, now_ns, event, tuple(commands)))
        self._segments[-1].entries.append(entry)
        self._segments[-1].size_bytes += len(entry)
        self._next_id += 1
        return commands

    def _is_full(self, segment: Segment) -> bool:
        return len(segment.entries) >= self._segment_entries or segment.size_bytes >= self._segment_bytes

    def lines(self) -> Iterator[str]:
        """The log as JSON lines. What is handled after the call does not show."""
        segments = [Segment(segment.state, list(segment.entries)) for segment in self._segments]
        return _written(segments, self.arbiter.policy)


def _written(segments: list[Segment], policy: Policy) -> Iterator[str]:
    for segment in segments:
        state: ArbiterState = pickle.loads(segment.state)
        yield json.dumps({"line": "start", "policy": codec.encode(policy), "state": codec.encode(state)})
        for pickled in segment.entries:
            entry: Entry = pickle.loads(pickled)
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
