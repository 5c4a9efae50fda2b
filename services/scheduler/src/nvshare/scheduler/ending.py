"""The scheduler's end: its last plan stays in force until another one runs, so it should let somebody run."""

import asyncio
import time
from collections.abc import Collection

from nvshare.scheduler.arbiter import Arbiter

_LONGEST_SECONDS = 2.0  # hand-overs take milliseconds, unless memory has to move
_POLL_SECONDS = 0.001


async def finish_hand_overs(arbiters: Collection[Arbiter]) -> None:
    """Waits until no GPU is on its way from one client to another, for a while at most."""
    deadline = time.monotonic() + _LONGEST_SECONDS
    while any(arbiter.hands_over() for arbiter in arbiters):
        if time.monotonic() >= deadline:
            return
        await asyncio.sleep(_POLL_SECONDS)
