"""The log of an arbiter is bounded, whatever is told to it."""

import json

from nvshare.scheduler.arbiter import Arbiter
from nvshare.scheduler.history import RecordedArbiter, replay
from nvshare.scheduler.model import Allocation, Mode, Peer, RelayReported
from nvshare.scheduler.policy import GIB, SECOND_NS, Policy

NOW_NS = 1000 * SECOND_NS


def recorded(segment_bytes: int) -> RecordedArbiter:
    arbiter = Arbiter.new(
        "GPU-1", generation=1, total_bytes=16 * GIB, mode=Mode.AUTO, quantum_ns=SECOND_NS, policy=Policy()
    )
    return RecordedArbiter(arbiter, segments=3, segment_bytes=segment_bytes)


def relay_state(sequence: int, peers: int) -> RelayReported:
    """A state as it is parsed from a message: every object is new."""
    named = tuple(Peer("a", f"{pid}-0123456789abcdef", pid) for pid in range(1, peers + 1))
    return RelayReported(1, sequence, (Allocation("a"),), named)


def test_a_history_of_large_states_is_bounded_in_bytes_and_replays() -> None:
    history = recorded(segment_bytes=200_000)
    for sequence in range(1, 101):
        history.handle(relay_state(sequence, 256), NOW_NS + sequence * SECOND_NS)
    lines = list(history.lines())
    entries = [line for line in lines if json.loads(line)["line"] == "entry"]
    assert sum(map(len, entries)) < 3 * 200_000 + len(entries[-1])
    assert replay(lines) == (len(entries), [])


def test_a_peer_that_is_as_before_is_kept_once() -> None:
    history = recorded(segment_bytes=1 << 30)
    for sequence in range(1, 4):
        history.handle(relay_state(sequence, 200 + sequence), NOW_NS + sequence * SECOND_NS)
    states = [entry.event for segment in history._segments for entry in segment.entries]
    kept = {id(peer) for state in states if isinstance(state, RelayReported) for peer in state.peers}
    assert len(kept) == 203
