"""Logs stay small, and their writers need not know."""

import asyncio
import time
from pathlib import Path

import pytest

from nvshare.cli.log_files import limit_log, limited_logs


def test_a_log_within_the_limit_stays_as_it_is(tmp_path: Path) -> None:
    log = tmp_path / "relay.log"
    log.write_bytes(b"x" * 100)
    limit_log(log, largest_bytes=100)
    assert log.stat().st_size == 100
    assert list(tmp_path.iterdir()) == [log]


def test_a_log_beyond_the_limit_moves_to_an_older_file_that_keeps_its_end(tmp_path: Path) -> None:
    log = tmp_path / "relay.log"
    with log.open("ab", buffering=0) as writer:
        for text in (b"first" * 100, b"second" * 100):
            writer.write(text)
            limit_log(log, largest_bytes=100)
        writer.write(b"third")
    assert log.read_bytes() == b"third"
    older = tmp_path / "relay.log.1"
    assert len(older.read_bytes()) == 100
    assert older.read_bytes().endswith(b"second")


async def test_logs_are_watched_also_when_one_of_them_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvshare.cli.log_files.CHECK_SECONDS", 0.01)
    monkeypatch.setattr("nvshare.cli.log_files.LARGEST_LOG_BYTES", 100)
    log = tmp_path / "relay.log"
    async with limited_logs([tmp_path / "none.log", log]):
        log.write_bytes(b"x" * 1000)
        deadline = time.monotonic() + 10
        while log.stat().st_size:
            assert time.monotonic() < deadline, "the log was not limited in time"
            await asyncio.sleep(0.01)
    assert (tmp_path / "relay.log.1").stat().st_size == 100
