"""Ways into a node over its unix sockets: `NodeClient` for users, `AllocationClient` for a client of an allocation.

Both speak the NATS client protocol to the relay, which knows from the kernel who they are (docs/protocol.md, "Joining
the bus through the relay"). `AllocationClient` is what libnvshare is to a program, for tools and tests in Python.
"""

import asyncio
import contextlib
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from google.protobuf.message import DecodeError, Message

from nvshare.bus import subjects
from nvshare.bus.frames import (
    Connect,
    Err,
    Frame,
    FrameParser,
    HMsg,
    Info,
    Msg,
    Ping,
    Pong,
    ProtocolError,
    Pub,
    Source,
    Sub,
    encode,
)
from nvshare.bus.nats_server import MAX_PAYLOAD_BYTES
from nvshare.bus.version import VERSION

_CONNECT_SECONDS = 5.0
_READ_BYTES = 64 * 1024

ReplyT = TypeVar("ReplyT", bound=Message)


class NodeError(RuntimeError):
    """The node cannot be asked, or did not answer; the message is one line for people."""


class _Socket:
    """One unix connection to the relay: frames in and out. A `PING` is answered by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = FrameParser(Source.SERVER, MAX_PAYLOAD_BYTES)
        self._frames: list[Frame] = []

    @classmethod
    async def open(cls, path: Path) -> Self:
        try:
            reader, writer = await asyncio.open_unix_connection(str(path))
        except FileNotFoundError:
            raise NodeError(f"no node here: {path} does not exist; start one with `nvshare up`") from None
        except ConnectionRefusedError:
            raise NodeError(f"no node answers at {path}: it has ended; start one with `nvshare up`") from None
        except PermissionError:
            raise NodeError(f"this user may not use {path}; ask who runs the node for access") from None
        except OSError as error:
            raise NodeError(f"cannot connect to {path}: {error.strerror or error}") from None
        return cls(reader, writer)

    def send(self, frame: Frame) -> None:
        self.send_raw(encode(frame))

    def send_raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def next_frame(self) -> Frame:
        """The next frame that is not a PING. Raises NodeError when the connection has ended or the peer breaks the
        protocol.
        """
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                if not isinstance(frame, Ping):
                    return frame
                self.send(Pong())
            try:
                data = await self._reader.read(_READ_BYTES)
                self._frames += self._parser.feed(data)
            except (OSError, ProtocolError) as error:
                raise NodeError(f"the connection to the node broke: {error}") from None
            if not data:
                raise NodeError("the node closed the connection")

    async def join(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Reads INFO, sends CONNECT with `options`, waits for the answer to a PING; the `nvshare` member of INFO."""
        info = await self.next_frame()
        if isinstance(info, Err):
            raise NodeError(f"the node refused the connection: {info.text}")
        member = info.options.get("nvshare") if isinstance(info, Info) else None
        if not isinstance(member, dict):
            raise NodeError("what answers here is not nvshare's relay")
        base = {"verbose": False, "pedantic": False, "headers": True, "no_responders": False, "lang": "python"}
        self.send(Connect({**base, "version": VERSION, "protocol": 1, **options}))
        self.send(Ping())
        while True:
            frame = await self.next_frame()
            match frame:
                case Pong():
                    return member
                case Err(text):
                    raise NodeError(f"the node refused the connection: {text}")

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class NodeClient:
    """A user's connection to a node. `node`, `uid` and `admin` are what the relay says of this user."""

    def __init__(self, connection: _Socket, node: str, uid: int, *, admin: bool) -> None:
        self._socket = connection
        self.node = node
        self.uid = uid
        self.admin = admin
        self._waiting: dict[
            str, tuple[str, asyncio.Future[bytes]]
        ] = {}  # reply subject: the request's subject, the answer
        self._broken: NodeError | None = None
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    def open(cls, path: Path) -> "_Opening":
        """`async with NodeClient.open(control_socket) as node`, or `node = await NodeClient.open(…)`. Raises
        NodeError.
        """
        return _Opening(path)

    async def request(
        self, verb: str, request: Message, reply_type: type[ReplyT], timeout_seconds: float = 5.0
    ) -> ReplyT:
        """Asks for `verb` and returns the answer. Raises NodeError (not allowed, no answer in time, connection lost).

        `request` needs no `reply_token`: each call has a new one.
        """
        if self._broken is not None:
            raise self._broken
        token = secrets.token_hex(16)
        sent = type(request)()
        sent.CopyFrom(request)
        sent.reply_token = token  # type: ignore[attr-defined]  # every request of control.proto has it
        subject = subjects.user(self.node, self.uid, verb)
        reply_subject = subjects.reply(self.node, self.uid, token)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[reply_subject] = (subject, answer)
        try:
            self._socket.send(Pub(subject, sent.SerializeToString()))
            async with asyncio.timeout(timeout_seconds):
                return reply_type.FromString(await answer)
        except TimeoutError:
            raise NodeError(
                f"the node did not answer `{verb}` within {timeout_seconds:g} s; its logs may say why"
            ) from None
        except DecodeError:
            raise NodeError(f"the node's answer to `{verb}` cannot be read: is it of another version?") from None
        finally:
            del self._waiting[reply_subject]

    async def close(self) -> None:
        """Ends the connection."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        await self._socket.close()

    @classmethod
    async def _open(cls, path: Path) -> "NodeClient":
        connection = await _Socket.open(path)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                member = await connection.join({"name": "nvshare"})
            client = cls(connection, str(member["node"]), int(member["uid"]), admin=bool(member["admin"]))
        except TimeoutError:
            await connection.close()
            raise NodeError(f"the node at {path} does not answer; is its NATS server running?") from None
        except (KeyError, ValueError, TypeError):
            await connection.close()
            raise NodeError(f"{path} is not a node's control socket") from None
        except NodeError:
            await connection.close()
            raise
        connection.send(Sub(subjects.reply_any(client.node, client.uid), "1"))
        client._reading = asyncio.get_running_loop().create_task(client._read())
        return client

    async def _read(self) -> None:
        try:
            while True:
                match await self._socket.next_frame():
                    case Msg(subject, _, payload) | HMsg(subject, _, _, payload):
                        if subject in self._waiting and not self._waiting[subject][1].done():
                            self._waiting[subject][1].set_result(payload)
                    case Err(text):
                        self._refuse(text)
        except NodeError as error:
            self._broken = error
            for _, answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(error)

    def _refuse(self, text: str) -> None:
        refused = re.search(r'permissions violation for publish to "([^"]+)"', text, re.IGNORECASE)
        for subject, answer in self._waiting.values():
            if refused is not None and subject.lower() == refused[1].lower() and not answer.done():
                verb = subject.rsplit(".", 1)[1]
                answer.set_exception(NodeError(f"`{verb}` needs root, the user that runs the node, or its admin group"))


class _Opening:
    """What `NodeClient.open` returns: awaitable, and an asynchronous context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._client: NodeClient | None = None

    def __await__(self) -> Any:
        return NodeClient._open(self._path).__await__()

    async def __aenter__(self) -> NodeClient:
        self._client = await NodeClient._open(self._path)
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()


class AllocationClient:
    """A client on an allocation's socket. Its name in subjects is `client`, `<pid>-<nonce>`."""

    def __init__(self, connection: _Socket, allocation: str, client: str, node: str) -> None:
        self._socket = connection
        self.allocation = allocation
        self.client = client
        self.node = node
        self._subscriptions = 0

    @classmethod
    async def open(cls, path: Path, nonce: str | None = None) -> "AllocationClient":
        """Joins with `nonce` (16 lower-case hexadecimal digits; None: a new one). Raises NodeError."""
        nonce = secrets.token_hex(8) if nonce is None else nonce
        connection = await _Socket.open(path)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                member = await connection.join({"name": nonce})
            return cls(connection, str(member["allocation"]), f"{int(member['pid'])}-{nonce}", str(member["node"]))
        except TimeoutError:
            await connection.close()
            raise NodeError(f"the relay at {path} does not answer") from None
        except (KeyError, ValueError, TypeError):
            await connection.close()
            raise NodeError(f"{path} is not an allocation's socket") from None
        except NodeError:
            await connection.close()
            raise

    def report_subject(self, gpu: str) -> str:
        """Subject of this client's reports on one GPU."""
        return subjects.report(gpu, self.allocation, self.client)

    def grant_subject(self, gpu: str) -> str:
        """Subject of this client's grants on one GPU."""
        return subjects.grant(gpu, self.allocation, self.client)

    def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Sends one message."""
        self._socket.send(Pub(subject, payload, reply))

    def subscribe(self, subject: str) -> None:
        """Asks for the messages on `subject`."""
        self._subscriptions += 1
        self._socket.send(Sub(subject, str(self._subscriptions)))

    def send_raw(self, data: bytes) -> None:
        """Sends bytes as they are: for tests of what a hostile peer may do."""
        self._socket.send_raw(data)

    async def next_frame(self, timeout_seconds: float = 2.0) -> Frame:
        """The next frame but PING. Raises NodeError when the connection ends, or nothing comes in time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._socket.next_frame()
        except TimeoutError:
            raise NodeError(f"nothing came within {timeout_seconds:g} s") from None

    async def next_message(self, timeout_seconds: float = 2.0) -> Msg | HMsg:
        """The next message, other frames skipped. Raises NodeError as `next_frame`."""
        while True:
            frame = await self.next_frame(timeout_seconds)
            if isinstance(frame, Msg | HMsg):
                return frame

    async def flush(self) -> list[Frame]:
        """Sends PING and returns what came before its PONG (messages and errors)."""
        self._socket.send(Ping())
        frames: list[Frame] = []
        while not isinstance(frame := await self.next_frame(), Pong):
            if not isinstance(frame, Info):  # the server sends it again when it knows the account
                frames.append(frame)
        return frames

    async def is_closed(self, timeout_seconds: float = 2.0) -> bool:
        """Whether the relay ends the connection within the time; what comes before is skipped."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while True:
                    await self._socket.next_frame()
        except NodeError:
            return True
        except TimeoutError:
            return False

    async def close(self) -> None:
        """Ends the connection."""
        await self._socket.close()
