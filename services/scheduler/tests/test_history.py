"""The log of an arbiter is bounded, whatever is told to it."""

import json
from dataclasses import asdict

from nvshare.scheduler import codec
from nvshare.scheduler.arbiter import Arbiter
from nvshare.scheduler.clients import Client
from nvshare.scheduler.history import RecordedArbiter, replay
from nvshare.scheduler.model import Allocation, Mode, Peer, RelayReported
from nvshare.scheduler.policy import GIB, SECOND_NS, Policy

NOW_NS = 1000 * SECOND_NS
SEGMENT_BYTES = 50_000


def relay_state(sequence: int, peers: int) -> RelayReported:
    """A state as it is parsed from a message: every object is new."""
    named = tuple(Peer("a", f"{pid}-0123456789abcdef", pid) for pid in range(1, peers + 1))
    return RelayReported(1, sequence, (Allocation("a"),), named)


def test_a_history_of_large_states_is_bounded_in_bytes_and_replays() -> None:
    arbiter = Arbiter.new(
        "GPU-1", generation=1, total_bytes=16 * GIB, mode=Mode.AUTO, quantum_ns=SECOND_NS, policy=Policy()
    )
    history = RecordedArbiter(arbiter, segments=3, segment_bytes=SEGMENT_BYTES)
    for sequence in range(1, 101):
        history.handle(relay_state(sequence, 256), NOW_NS + sequence * SECOND_NS)
    largest_bytes = max(len(entry) for segment in history._segments for entry in segment.entries)
    kept_bytes = sum(len(entry) for segment in history._segments for entry in segment.entries)
    assert 100 * largest_bytes > 3 * (SEGMENT_BYTES + largest_bytes), "so few states prove nothing"
    assert kept_bytes < 3 * (SEGMENT_BYTES + largest_bytes)
    lines = list(history.lines())
    entries = [line for line in lines if json.loads(line)["line"] == "entry"]
    assert replay(lines) == (len(entries), [])


def test_what_is_known_of_a_client_s_use_and_slots_is_written_and_read() -> None:
    client = Client("a/1", "a", "1", 1, 0, use=0.1, less_use=1 / 3, slots_part=0.3, slot_part_reported=0.7)
    read = codec.decode(Client, json.loads(json.dumps(codec.encode(client))))
    assert asdict(read) == asdict(client)
