"""A unix socket that the relay listens on."""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

_BACKLOG = 128


class ListenError(RuntimeError):
    """The socket cannot be made; the message is one line that says why."""


def bind_in_place(path: Path, kind: socket.SocketKind) -> socket.socket:
    """A socket that listens at `path` (mode 0666: who connects, the kernel says) and does not block, in the place of
    one that an earlier relay left, in one step. Raises ListenError.
    """
    beside = path.with_name(f".{os.getpid()}.sock")
    listening = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        for left_behind in path.parent.glob(".[0-9]*.sock"):  # by a relay that was killed right here
            left_behind.unlink(missing_ok=True)
        mask = os.umask(0o111)  # a chmod afterwards would follow whatever took the socket's place
        try:
            listening.bind(str(beside))
        finally:
            os.umask(mask)
        listening.listen(_BACKLOG)
        beside.rename(path)
    except OSError as error:  # Python's own "path too long" is an OSError too
        listening.close()
        raise ListenError(f"cannot listen on {path}: {error.strerror or error}") from None
    return listening


class Listener:
    """Listens on `path` until `close`."""

    def __init__(self, path: Path, server: asyncio.AbstractServer) -> None:
        self._path = path
        self._server = server

    @classmethod
    async def open(cls, path: Path, make_protocol: Callable[[], asyncio.Protocol]) -> "Listener":
        """Takes the place of a socket that an earlier relay left, in one step. Raises ListenError."""
        listening = bind_in_place(path, socket.SOCK_STREAM)
        try:
            server = await asyncio.get_running_loop().create_unix_server(make_protocol, sock=listening)
        except BaseException:  # cancelled, too
            listening.close()
            raise
        return cls(path, server)

    def close(self) -> None:
        """Ends the listening and removes the socket; connections that were made go on."""
        self._server.close()
        self._path.unlink(missing_ok=True)
