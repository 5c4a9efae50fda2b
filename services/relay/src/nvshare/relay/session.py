"""One connection through the relay: frames between a unix socket and a TCP connection of its own to nats-server.

The relay adds to the server's INFO who it takes the peer for, puts the peer's token into CONNECT, and copies the rest
frame by frame. Every frame of the peer is read and written anew, so the server sees only well-formed ones within the
limits. Reply addresses are taken off what a peer publishes: nobody reads them (docs/protocol.md), and the server does
not check them.

What the frames are about is not known here: a `Guest` says who the peer is and looks at what passes.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import structlog

from nvshare.bus.frames import (
    Connect,
    Err,
    Frame,
    FrameParser,
    HPub,
    Info,
    ProtocolError,
    Pub,
    Source,
    encode,
)
from nvshare.bus.nats_server import MAX_PAYLOAD_BYTES
from nvshare.relay.rate import TokenBucket

_HANDSHAKE_SECONDS = 5.0
_LINGER_SECONDS = 1.0
_FRAMES_PER_SECOND = 1000
_FRAME_BURST = 1000
_MAX_PEER_PAYLOAD_BYTES = 16 * 1024
_PASSED_OPTIONS = ("verbose", "pedantic", "echo", "headers", "no_responders", "lang", "version", "protocol")

_log = structlog.get_logger()


class RefusedError(Exception):
    """The peer may not join, or not go on; the message goes to it as `-ERR`."""


class Guest(Protocol):
    """Who a peer is, and what becomes of what it sends and gets."""

    def info(self) -> dict[str, Any]:
        """The member `nvshare` of INFO."""

    def join(self, options: dict[str, Any]) -> tuple[str, str]:
        """The peer sent CONNECT with `options`. Returns (name for the server, bearer token). Raises RefusedError."""

    def pace(self, frames: list[Frame]) -> float:
        """The peer has sent `frames`. Returns the seconds for which to read no more of it. Raises RefusedError."""

    def from_peer(self, frame: Pub | HPub) -> None:
        """The peer publishes; called before the server gets it."""

    def to_peer(self, frame: Frame) -> None:
        """The server sends; called before the peer gets it."""

    def refused(self, reason: str) -> None:
        """A message of the peer was refused, here or by the server."""

    def closed(self) -> None:
        """The connection has ended. Called once, whatever happened before."""


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where nats-server listens."""

    host: str
    port: int


class Session(asyncio.Protocol):
    """The peer's side of the connection; it opens the server's side.

    `accept` makes the guest, or raises RefusedError. `on_refused(reason)` hears of peers that were not let in.
    """

    def __init__(
        self,
        server: ServerAddress,
        accept: Callable[[asyncio.Transport], Guest],
        on_refused: Callable[[str], None],
    ) -> None:
        self._server = server
        self._accept = accept
        self._on_refused = on_refused
        self._guest: Guest | None = None
        self._peer: asyncio.Transport | None = None
        self._upstream: _Upstream | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._handshake: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None  # runs while the peer is ahead of its pace
        self._upstream_full = False
        self._parser = FrameParser(Source.CLIENT, _MAX_PEER_PAYLOAD_BYTES)
        self._rate = TokenBucket(_FRAMES_PER_SECOND, _FRAME_BURST, time.monotonic())
        self._informed = False
        self._joined = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._peer = cast(asyncio.Transport, transport)
        try:
            self._guest = self._accept(self._peer)
        except RefusedError as error:
            self._refuse(str(error))
            return
        except OSError as error:
            self._refuse(f"the relay cannot take another connection now: {error.strerror}")
            return
        loop = asyncio.get_running_loop()
        self._handshake = loop.call_later(_HANDSHAKE_SECONDS, self._refuse, "no CONNECT came in time")
        self._connecting = loop.create_task(self._connect_upstream())

    def data_received(self, data: bytes) -> None:
        if self._peer is None or self._peer.is_closing():
            return
        broken: str | None = None
        try:
            frames = self._parser.feed(data)
        except ProtocolError as error:
            frames, broken = list(error.frames), str(error)
        try:
            if not self._rate.take(len(frames), time.monotonic()):
                raise RefusedError("too many messages a second")
            self._hold(self._guest.pace(frames) if self._guest is not None else 0.0)
            self._forward(frames)
            if broken is not None:
                raise RefusedError(broken)
        except RefusedError as error:
            self._refuse(str(error))

    def connection_lost(self, error: Exception | None) -> None:
        self._end()

    def pause_writing(self) -> None:
        """The peer reads too slowly: the server keeps what comes, and cuts the connection off when it is too much."""
        if self._upstream is not None:
            self._upstream.pause_reading()

    def resume_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.resume_reading()

    def close(self, reason: str) -> None:
        """Ends the connection from the relay's side, telling the peer why."""
        if self._peer is not None and not self._peer.is_closing():
            self._peer.write(encode(Err(reason)))
            self._peer.close()
            # A peer that does not read would keep the connection open for as long as it likes.
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._peer.abort)
        self._end()

    def server_frames(self, frames: list[Frame]) -> None:
        """Frames came from the server."""
        if self._peer is None or self._guest is None or self._peer.is_closing():
            return
        chunks: list[bytes] = []
        for frame in frames:
            if isinstance(frame, Err) and frame.text.lower().startswith("permissions violation"):
                self._guest.refused(frame.text)
            self._guest.to_peer(frame)
            if isinstance(frame, Info):
                frame = Info({**frame.options, "nvshare": self._guest.info()})
                self._informed = True
            chunks.append(encode(frame))
        self._peer.write(b"".join(chunks))

    def server_lost(self) -> None:
        """The server is away. The peer is told by the end of its connection: it comes again, for ever."""
        self.close("the NATS server of the node is away")

    def pause_reading(self) -> None:
        """The server reads too slowly."""
        self._upstream_full = True
        self._read_or_wait()

    def resume_reading(self) -> None:
        self._upstream_full = False
        self._read_or_wait()

    def _hold(self, seconds: float) -> None:
        """Reads no more of the peer for `seconds`: it is slowed down, and nothing of it is lost."""
        if seconds > 0.0:
            if self._pause is not None:
                self._pause.cancel()
            self._pause = asyncio.get_running_loop().call_later(seconds, self._go_on)
            self._read_or_wait()

    def _go_on(self) -> None:
        self._pause = None
        self._read_or_wait()

    def _read_or_wait(self) -> None:
        if self._peer is None or self._peer.is_closing():
            return
        if self._upstream_full or self._pause is not None:
            self._peer.pause_reading()
        else:
            self._peer.resume_reading()

    async def _connect_upstream(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            # TCP_NODELAY is asyncio's and uvloop's default for TCP.
            _, self._upstream = await loop.create_connection(
                lambda: _Upstream(self), self._server.host, self._server.port
            )
        except OSError:
            self.server_lost()

    def _forward(self, frames: list[Frame]) -> None:
        if not frames:
            return
        if self._guest is None or self._upstream is None or not self._informed:
            raise RefusedError("wait for INFO before you send")
        chunks: list[bytes] = []
        for frame in frames:
            if isinstance(frame, Connect):
                chunks.append(encode(self._connect(self._guest, frame)))
                continue
            if not self._joined:
                raise RefusedError("send CONNECT first")
            if isinstance(frame, Pub | HPub):
                frame = replace(frame, reply="")
                self._guest.from_peer(frame)
            chunks.append(encode(frame))
        self._upstream.write(b"".join(chunks))

    def _connect(self, guest: Guest, frame: Connect) -> Connect:
        if self._joined:
            raise RefusedError("CONNECT came twice")
        name, jwt = guest.join(dict(frame.options))
        self._joined = True
        if self._handshake is not None:
            self._handshake.cancel()
        # Only harmless options pass: a peer brings no credentials, account or name of its own.
        passed = {option: frame.options[option] for option in _PASSED_OPTIONS if option in frame.options}
        return Connect({**passed, "name": name, "jwt": jwt})

    def _refuse(self, reason: str) -> None:
        if not self._joined:
            self._on_refused(reason)
        elif self._guest is not None:
            self._guest.refused(reason)
        self.close(reason)

    def _end(self) -> None:
        if self._handshake is not None:
            self._handshake.cancel()
        if self._pause is not None:
            self._pause.cancel()
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()
        if self._upstream is not None:
            self._upstream.close()
        guest, self._guest = self._guest, None
        if guest is not None:
            guest.closed()


class _Upstream(asyncio.Protocol):
    """The server's side of one Session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._transport: asyncio.Transport | None = None
        self._parser = FrameParser(Source.SERVER, MAX_PAYLOAD_BYTES)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._parser.feed(data)
        except ProtocolError as error:
            _log.error("nats-server sent what is no frame", error=str(error))
            self._session.server_frames(list(error.frames))
            self._session.server_lost()
            return
        self._session.server_frames(frames)

    def connection_lost(self, error: Exception | None) -> None:
        self._session.server_lost()

    def pause_writing(self) -> None:
        self._session.pause_reading()

    def resume_writing(self) -> None:
        self._session.resume_reading()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
