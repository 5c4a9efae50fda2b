"""The arena's socket of one allocation, which the event loops' servers do not do: it keeps the bounds of packets."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import structlog

from nvshare.relay.listener import bind_in_place

_ACCEPT_AGAIN_SECONDS = 1.0

_log = structlog.get_logger()


class ArenaListener:
    """Listens on `path` until `close`. `on_connection` owns the connections that it does not refuse with OSError."""

    def __init__(
        self, path: Path, on_connection: Callable[[socket.socket], None], on_refused: Callable[[str], None]
    ) -> None:
        """Raises ListenError."""
        self._path = path
        self._on_connection = on_connection
        self._on_refused = on_refused
        self._listening = bind_in_place(path, socket.SOCK_SEQPACKET)
        self._again: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Ends the listening and removes the socket; connections that were made go on."""
        if self._again is not None:
            self._again.cancel()
        asyncio.get_running_loop().remove_reader(self._listening.fileno())
        self._listening.close()
        self._path.unlink(missing_ok=True)

    def _listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._listening.fileno(), self._ready)

    def _ready(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            _log.error("no connection to the arena can be taken now", error=error.strerror)
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listening.fileno())
            self._again = loop.call_later(_ACCEPT_AGAIN_SECONDS, self._listen)
            return
        connection.setblocking(False)
        try:
            self._on_connection(connection)
        except OSError as error:
            connection.close()
            self._on_refused(f"arena: {error.strerror}")
