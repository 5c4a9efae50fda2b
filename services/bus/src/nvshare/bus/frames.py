"""The NATS client protocol without I/O: bytes in, frames out, for both directions.

Written for a peer that is not trusted: what is held is bounded (a control line, then a payload), every field is
checked, and bytes that are no frame raise ProtocolError and nothing else. `encode` writes a frame in its one canonical
form, so that a frame that was read here and is written again means the same to the server as it meant here. The
protocol: docs.nats.io, "NATS client protocol". Lines end with CR LF; verbs may have any case.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

CONTROL_LINE_BYTES = 4096
"""Longest line before a payload, as nats-server's default `max_control_line`."""

_SUBJECT = re.compile(rb"[!-~]{1,512}")  # printable, no white space; the server checks tokens and wildcards
_NUMBER = re.compile(rb"[0-9]{1,9}")
_ERROR_TEXT = re.compile(r"[ -~]{0,1024}")


class ProtocolError(Exception):
    """Bytes that are no frame. `frames` holds those that came whole before them in the same call."""

    def __init__(self, text: str, frames: "tuple[Frame, ...]" = ()) -> None:
        super().__init__(text)
        self.frames = frames


class PayloadTooLargeError(ProtocolError):
    """A frame whose payload is longer than the parser's limit."""


class Source(Enum):
    """Who writes the stream that is read: each side has its own verbs."""

    CLIENT = "client"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Info:
    """Server: what it is and allows."""

    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Connect:
    """Client: who it is and how it speaks."""

    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pub:
    """Client: a message; `reply` "" means none."""

    subject: str
    payload: bytes
    reply: str = ""


@dataclass(frozen=True, slots=True)
class HPub:
    """Client: a message with headers (the raw block, `NATS/1.0` line and final empty line included)."""

    subject: str
    headers: bytes
    payload: bytes
    reply: str = ""


@dataclass(frozen=True, slots=True)
class Sub:
    """Client: asks for messages on `subject`, under the number `sid` that it chose."""

    subject: str
    sid: str
    queue: str = ""


@dataclass(frozen=True, slots=True)
class Unsub:
    """Client: ends a subscription, after `max_messages` if not None."""

    sid: str
    max_messages: int | None = None


@dataclass(frozen=True, slots=True)
class Msg:
    """Server: a message for the subscription `sid`."""

    subject: str
    sid: str
    payload: bytes
    reply: str = ""


@dataclass(frozen=True, slots=True)
class HMsg:
    """Server: a message with headers."""

    subject: str
    sid: str
    headers: bytes
    payload: bytes
    reply: str = ""


@dataclass(frozen=True, slots=True)
class Ping:
    """Either side: are you there?"""


@dataclass(frozen=True, slots=True)
class Pong:
    """Either side: yes."""


@dataclass(frozen=True, slots=True)
class Ok:
    """Server: the last frame was accepted (in verbose mode only)."""


@dataclass(frozen=True, slots=True)
class Err:
    """Server: what went wrong; some errors end the connection."""

    text: str


Frame: TypeAlias = Info | Connect | Pub | HPub | Sub | Unsub | Msg | HMsg | Ping | Pong | Ok | Err


def encode(frame: Frame) -> bytes:
    """The bytes of one frame. Raises ProtocolError when a field may not stand in it."""
    match frame:
        case Info(options):
            return b"INFO %b\r\n" % _json(options)
        case Connect(options):
            return b"CONNECT %b\r\n" % _json(options)
        case Pub(subject, payload, reply):
            return b"PUB %b%d\r\n%b\r\n" % (_fields(subject, reply), len(payload), payload)
        case Msg(subject, sid, payload, reply):
            return b"MSG %b%d\r\n%b\r\n" % (_fields(subject, sid, reply), len(payload), payload)
        case HPub(subject, headers, payload, reply):
            lengths = b"%d %d" % (len(headers), len(headers) + len(payload))
            return b"HPUB %b%b\r\n%b%b\r\n" % (_fields(subject, reply), lengths, headers, payload)
        case HMsg(subject, sid, headers, payload, reply):
            lengths = b"%d %d" % (len(headers), len(headers) + len(payload))
            return b"HMSG %b%b\r\n%b%b\r\n" % (_fields(subject, sid, reply), lengths, headers, payload)
        case Sub(subject, sid, queue):
            return b"SUB %b%b\r\n" % (_fields(subject, queue), _field(sid))
        case Unsub(sid, max_messages):
            return b"UNSUB %b%b\r\n" % (_field(sid), b"" if max_messages is None else b" %d" % max_messages)
        case Ping():
            return b"PING\r\n"
        case Pong():
            return b"PONG\r\n"
        case Ok():
            return b"+OK\r\n"
        case Err(text):
            if not _ERROR_TEXT.fullmatch(text):
                raise ProtocolError("an error text must be one short line of ASCII")
            return b"-ERR '%b'\r\n" % text.replace("'", "").encode()


class FrameParser:
    """Reads one stream. After a ProtocolError it raises the same for whatever comes."""

    def __init__(self, source: Source, max_payload_bytes: int) -> None:
        self._verbs = _CLIENT_VERBS if source is Source.CLIENT else _SERVER_VERBS
        self._max_payload_bytes = max_payload_bytes
        self._buffer = bytearray()
        self._pending: _Pending | None = None  # a control line that waits for its payload
        self._error: ProtocolError | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, in order. Raises ProtocolError (with the frames before it) on anything
        else.
        """
        if self._error is not None:
            raise type(self._error)(str(self._error))
        frames: list[Frame] = []
        self._buffer += data
        position = 0
        try:
            while True:
                frame, after = self._next(position)
                if frame is not None:
                    frames.append(frame)
                if after == position:
                    break
                position = after
        except ProtocolError as error:
            self._error = error
            self._buffer.clear()
            error.frames = tuple(frames)
            raise
        del self._buffer[:position]
        return frames

    def _next(self, position: int) -> "tuple[Frame | None, int]":
        """One step from `position`: a frame if one is whole, and where the rest begins (`position`: more bytes are
        needed).
        """
        if self._pending is None:
            end = self._buffer.find(b"\r\n", position, position + CONTROL_LINE_BYTES + 2)
            if end < 0:
                if len(self._buffer) - position > CONTROL_LINE_BYTES + 1:
                    raise ProtocolError("maximum control line exceeded")
                return None, position
            outcome = self._control_line(bytes(self._buffer[position:end]))
            if not isinstance(outcome, _Pending):
                return outcome, end + 2
            self._pending = outcome
            position = end + 2
            if len(self._buffer) - position < outcome.total_bytes + 2:
                return None, position
        pending = self._pending
        end = position + pending.total_bytes
        if len(self._buffer) < end + 2:
            return None, position
        if self._buffer[end : end + 2] != b"\r\n":
            raise ProtocolError("a payload does not end where its length says")
        self._pending = None
        return pending.complete(bytes(self._buffer[position:end])), end + 2

    def _control_line(self, line: bytes) -> "Frame | _Pending":
        if not line:
            raise ProtocolError("an empty line is no frame")
        verb, _, rest = line.partition(b" ")
        if b"\t" in verb:
            verb, _, rest = line.partition(b"\t")
        read = self._verbs.get(verb.upper())
        if read is None:
            raise ProtocolError("unknown protocol operation")
        outcome = read(rest)
        if isinstance(outcome, _Pending) and outcome.total_bytes > self._max_payload_bytes:
            raise PayloadTooLargeError("maximum payload violation")
        return outcome


@dataclass(frozen=True, slots=True)
class _Pending:
    """A control line whose payload is still to come."""

    total_bytes: int
    complete: Callable[[bytes], Frame]


def _read_pub(rest: bytes) -> _Pending:
    (subject,), reply, (total,) = _message_line(rest, names=1, lengths=1)
    return _Pending(total, lambda body: Pub(subject, body, reply))


def _read_hpub(rest: bytes) -> _Pending:
    (subject,), reply, (cut, total) = _message_line(rest, names=1, lengths=2)
    return _Pending(total, lambda body: HPub(subject, body[:cut], body[cut:], reply))


def _read_msg(rest: bytes) -> _Pending:
    (subject, sid), reply, (total,) = _message_line(rest, names=2, lengths=1)
    return _Pending(total, lambda body: Msg(subject, sid, body, reply))


def _read_hmsg(rest: bytes) -> _Pending:
    (subject, sid), reply, (cut, total) = _message_line(rest, names=2, lengths=2)
    return _Pending(total, lambda body: HMsg(subject, sid, body[:cut], body[cut:], reply))


def _message_line(rest: bytes, names: int, lengths: int) -> tuple[list[str], str, list[int]]:
    """The fields of a line that announces a message: names, perhaps a reply subject, one length or two in order."""
    fields = rest.split()
    if len(fields) - names - lengths not in (0, 1):
        raise ProtocolError("a message's line has too few or too many fields")
    numbers = [_number(field) for field in fields[-lengths:]]
    if numbers != sorted(numbers):
        raise ProtocolError("headers are longer than the message")
    reply = "".join(_subject(field) for field in fields[names:-lengths])
    return [_subject(field) for field in fields[:names]], reply, numbers


def _read_sub(rest: bytes) -> Frame:
    match rest.split():
        case [subject, sid]:
            return Sub(_subject(subject), _subject(sid))
        case [subject, queue, sid]:
            return Sub(_subject(subject), _subject(sid), _subject(queue))
    raise ProtocolError("SUB needs a subject, perhaps a queue group, and a sid")


def _read_unsub(rest: bytes) -> Frame:
    match rest.split():
        case [sid]:
            return Unsub(_subject(sid))
        case [sid, max_messages]:
            return Unsub(_subject(sid), _number(max_messages))
    raise ProtocolError("UNSUB needs a sid, and perhaps a number of messages")


def _read_info(rest: bytes) -> Frame:
    return Info(_object(rest))


def _read_connect(rest: bytes) -> Frame:
    return Connect(_object(rest))


def _read_error(rest: bytes) -> Frame:
    text = rest.strip().decode("ascii", "replace").strip("'")
    return Err("".join(character for character in text if " " <= character <= "~"))


def _bare(frame: Frame) -> Callable[[bytes], Frame]:
    def read(rest: bytes) -> Frame:
        if rest.strip():
            raise ProtocolError("a frame without fields has some")
        return frame

    return read


_Reader: TypeAlias = Callable[[bytes], Frame | _Pending]
_CLIENT_VERBS: dict[bytes, _Reader] = {
    b"CONNECT": _read_connect,
    b"PUB": _read_pub,
    b"HPUB": _read_hpub,
    b"SUB": _read_sub,
    b"UNSUB": _read_unsub,
    b"PING": _bare(Ping()),
    b"PONG": _bare(Pong()),
}
_SERVER_VERBS: dict[bytes, _Reader] = {
    b"INFO": _read_info,
    b"MSG": _read_msg,
    b"HMSG": _read_hmsg,
    b"PING": _bare(Ping()),
    b"PONG": _bare(Pong()),
    b"+OK": _bare(Ok()),
    b"-ERR": _read_error,
}


def _subject(field: bytes) -> str:
    if not _SUBJECT.fullmatch(field):
        raise ProtocolError("a field is too long or not printable")
    return field.decode("ascii")


def _number(field: bytes) -> int:
    if not _NUMBER.fullmatch(field):
        raise ProtocolError("a length is no number")
    return int(field)


def _object(text: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolError("the options are not JSON") from None
    if not isinstance(document, dict):
        raise ProtocolError("the options are not a JSON object")
    return document


def _json(options: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(options), separators=(",", ":")).encode()


def _field(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")  # of what is not ASCII, every byte is refused
    if not _SUBJECT.fullmatch(raw):
        raise ProtocolError("a field is empty, too long or not printable")
    return raw


def _fields(*texts: str) -> bytes:
    """The fields that are not empty, each followed by a space; the first is always there."""
    return b"".join(_field(text) + b" " for index, text in enumerate(texts) if text or index == 0)
