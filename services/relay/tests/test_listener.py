"""The sockets that the relay listens on."""

import asyncio
import os
import socket
import stat
from pathlib import Path

from nvshare.relay.listener import Listener


async def test_everybody_may_connect_whatever_the_umask_is(short_folder: Path) -> None:
    mask = os.umask(0o077)
    try:
        listener = await Listener.open(short_folder / "a.sock", asyncio.Protocol)
        assert os.umask(0o077) == 0o077  # as before
    finally:
        os.umask(mask)
    assert stat.S_IMODE((short_folder / "a.sock").stat().st_mode) == 0o666
    listener.close()


async def test_sockets_of_killed_relays_are_cleared_away(short_folder: Path) -> None:
    for name in (".4242.sock", "a.sock"):
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(str(short_folder / name))

    listener = await Listener.open(short_folder / "a.sock", asyncio.Protocol)

    assert [path.name for path in short_folder.iterdir()] == ["a.sock"]
    _, writer = await asyncio.open_unix_connection(str(short_folder / "a.sock"))
    writer.close()
    listener.close()
