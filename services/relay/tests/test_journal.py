"""The journal: what was written is known again, and damage costs only what it hit."""

import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvshare.relay.journal import (
    JournalFile,
    JournalState,
    bytes_line,
    gone_line,
    joined_line,
    left_line,
    owner_line,
    removed_line,
    state_lines,
)
from nvshare.relay.peers import Peer, PeerKey, Process
from nvshare.relay.promises import GrantOrder, Promise

KEY = PeerKey("a", "10-0123456789abcdef")
PROCESS = Process(10, 12345)
PROMISE = Promise(48, ((GrantOrder(5, 1), 96), (GrantOrder(5, 2), 16)))


def read(*lines: str) -> JournalState:
    state = JournalState()
    for line in lines:
        state.read(line)
    return state


def test_a_peer_is_known_again_with_its_bytes_and_is_disconnected() -> None:
    state = read(joined_line(KEY, PROCESS), bytes_line(KEY, "GPU-1", PROMISE))
    assert list(state.peers) == [Peer(KEY, PROCESS, connected=False, promises={"GPU-1": PROMISE})]


def test_who_is_gone_is_not_known() -> None:
    assert list(read(joined_line(KEY, PROCESS), gone_line(KEY)).peers) == []


def test_a_gpu_that_was_left_holds_nothing() -> None:
    state = read(joined_line(KEY, PROCESS), bytes_line(KEY, "GPU-1", PROMISE), left_line(KEY, "GPU-1"))
    assert [peer.promises for peer in state.peers] == [{}]


def test_exec_leaves_one_peer_of_a_process() -> None:
    successor = PeerKey("a", "10-fedcba9876543210")
    assert [peer.key for peer in read(joined_line(KEY, PROCESS), joined_line(successor, PROCESS)).peers] == [successor]


def test_the_owner_of_an_allocation_is_known_until_it_is_removed() -> None:
    assert read(owner_line("run-1", PROCESS)).owners == {"run-1": PROCESS}
    assert read(owner_line("run-1", PROCESS), removed_line("run-1")).owners == {}


def test_the_shortest_journal_tells_the_same() -> None:
    state = read(owner_line("run-1", PROCESS), joined_line(KEY, PROCESS), bytes_line(KEY, "GPU-1", PROMISE))
    again = read(*state_lines(state.peers, state.owners))
    assert (list(again.peers), again.owners) == (list(state.peers), state.owners)


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "7", '{"op": "joined"}', '{"op": "dance", "allocation": "a"}', bytes_line(KEY, "GPU-1", PROMISE)],
)
def test_a_line_that_makes_no_sense_is_counted_and_changes_nothing(line: str) -> None:
    state = read(line)
    assert state.unreadable_lines == 1
    assert list(state.peers) == []


@given(st.text(max_size=100))
def test_any_text_is_read_or_counted(text: str) -> None:
    read(joined_line(KEY, PROCESS), text)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    journal = JournalFile(tmp_path / "relay" / "journal.jsonl")
    assert list(journal.load().peers) == []
    journal.rewrite([])
    journal.append(joined_line(KEY, PROCESS))
    journal.append(bytes_line(KEY, "GPU-1", PROMISE))
    journal.close()

    assert [peer.promises for peer in JournalFile(tmp_path / "relay" / "journal.jsonl").load().peers] == [
        {"GPU-1": PROMISE}
    ]


def test_a_rewritten_file_is_appended_to_and_short_again(tmp_path: Path) -> None:
    journal = JournalFile(tmp_path / "journal.jsonl")
    journal.rewrite([joined_line(KEY, PROCESS)])
    while not journal.is_long():
        journal.append(bytes_line(KEY, "GPU-1", PROMISE))
    state = journal.load()
    journal.rewrite(state_lines(state.peers, state.owners))
    assert not journal.is_long()
    journal.append(gone_line(KEY))
    journal.close()

    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 3
    assert list(journal.load().peers) == []


def test_a_line_that_the_disk_took_in_part_costs_only_itself(tmp_path: Path) -> None:
    journal = JournalFile(tmp_path / "journal.jsonl")
    journal.rewrite([joined_line(KEY, PROCESS)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "journal.jsonl").stat().st_size + 20, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            journal.append(bytes_line(KEY, "GPU-1", PROMISE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.append(bytes_line(KEY, "GPU-2", PROMISE))
    journal.close()

    state = journal.load()
    assert [peer.promises for peer in state.peers] == [{"GPU-2": PROMISE}]
    assert state.unreadable_lines == 1


def test_a_failed_rewrite_leaves_the_journal_as_it_was_and_no_descriptor_behind(tmp_path: Path) -> None:
    path = tmp_path / "relay" / "journal.jsonl"
    journal = JournalFile(path)
    journal.rewrite([])
    while not journal.is_long():
        journal.append(joined_line(KEY, PROCESS))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no paths, a count
    path.rename(tmp_path / "moved")
    (path / "in-the-way").mkdir(parents=True)

    with pytest.raises(OSError, match="directory"):
        journal.rewrite([])

    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert [one.name for one in path.parent.iterdir()] == ["journal.jsonl"]
    assert not journal.is_long()  # not again at once
    journal.append(gone_line(KEY))
    assert (tmp_path / "moved").read_text().endswith(gone_line(KEY))
    journal.close()
