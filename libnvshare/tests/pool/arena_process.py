"""A node arena alone, without the rest of its relay: `arena_process.py FOLDER BYTES` listens at FOLDER/arena.sock.

Prints `ready`, and then its sums of reserved and made bytes whenever they change.
"""

import asyncio
import sys
from pathlib import Path

from nvshare.bus.runtime import configure_log
from nvshare.relay.allocations import ANY_UID, Allocation
from nvshare.relay.arena_server import ArenaServer

ALLOCATION = Allocation("a", ("GPU-00000000-0000-0000-0000-000000000001",), "a", ANY_UID, 0, 0, "test")


async def main() -> None:
    folder = Path(sys.argv[1])
    changed = asyncio.Event()
    server = ArenaServer(int(sys.argv[2]), folder / "arena.json", lambda _: ALLOCATION, changed.set, lambda _: None)
    server.load()
    listener = server.listen(folder / "arena.sock", ALLOCATION)
    making = asyncio.ensure_future(server.serve())
    print("ready", flush=True)
    while not making.done():
        print(server.account.reserved_bytes, server.account.made_bytes, flush=True)
        await changed.wait()
        changed.clear()
    listener.close()


configure_log("arena")  # on stderr
asyncio.run(main())
