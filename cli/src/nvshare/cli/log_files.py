"""Keeps the log files of a node small: a node runs for months, and for root its folder lies in memory."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

LARGEST_LOG_BYTES = 8 * 2**20
CHECK_SECONDS = 1.0


def limit_log(log: Path, largest_bytes: int) -> None:
    """Move a log that has grown beyond `largest_bytes` to `<name>.1`, of which the last `largest_bytes` stay.

    The text is copied and the file emptied: its writers hold it open for appending, and go on at its new end. A line
    that is written between the two steps is lost. Raises OSError.
    """
    with log.open("r+b") as stream:
        size_bytes = os.fstat(stream.fileno()).st_size
        if size_bytes <= largest_bytes:
            return
        stream.seek(size_bytes - largest_bytes)
        log.with_name(f"{log.name}.1").write_bytes(stream.read(largest_bytes))
        stream.truncate(0)


@contextlib.asynccontextmanager
async def limited_logs(logs: Sequence[Path]) -> AsyncIterator[None]:
    """Keep these logs, which need not exist yet, within `LARGEST_LOG_BYTES` as long as the context lasts."""
    keeper = asyncio.create_task(_limit_for_ever(logs), name="limit logs")
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def _limit_for_ever(logs: Sequence[Path]) -> None:
    while True:
        for log in logs:
            # A log that is not there yet, or a full disk: the next round tries again.
            with contextlib.suppress(OSError):
                await asyncio.to_thread(limit_log, log, LARGEST_LOG_BYTES)
        await asyncio.sleep(CHECK_SECONDS)
