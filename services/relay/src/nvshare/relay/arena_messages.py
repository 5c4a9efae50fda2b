"""What a client and the relay say on an allocation's arena socket (docs/protocol.md, "The node arena"). Pure.

Every message is one packet of 32 bytes, little-endian; a request for a segment is answered with its descriptor beside
it.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

VERSION = 1
"""Of this protocol."""

MESSAGE_BYTES = 32

_REQUEST = struct.Struct("<IiQQQ")
_REPLY = struct.Struct("<IIQQQ")


class Kind(IntEnum):
    """What a request asks for."""

    HELLO = 1  # value: VERSION, segment: nonce of the program
    RESERVE = 2  # value: bytes that it wishes to have in all
    SEGMENT = 3  # value: bytes, numa_node: near which, or -1
    GIVE = 4  # segment: which
    ADOPT = 5  # value: bytes; the segment's descriptor comes with it


class MessageError(ValueError):
    """No request of this protocol."""


@dataclass(frozen=True, slots=True)
class Request:
    """From a client."""

    kind: Kind
    value: int = 0
    segment: int = 0
    numa_node: int = -1

    def encode(self) -> bytes:
        """As a packet."""
        return _REQUEST.pack(self.kind, self.numa_node, self.value, self.segment, 0)


@dataclass(frozen=True, slots=True)
class Reply:
    """To a client: `error` is an errno value or 0, `reserved_bytes` what is kept for it, and `free_bytes` what it could
    have beside that now.
    """

    kind: Kind
    error: int
    reserved_bytes: int
    free_bytes: int
    segment: int = 0

    def encode(self) -> bytes:
        """As a packet."""
        return _REPLY.pack(self.kind, self.error, self.reserved_bytes, self.free_bytes, self.segment)


def parse_request(packet: bytes) -> Request:
    """Raises MessageError."""
    if len(packet) != MESSAGE_BYTES:
        raise MessageError("a packet has not 32 bytes")
    kind, numa_node, value, segment, _ = _REQUEST.unpack(packet)
    try:
        return Request(Kind(kind), value, segment, numa_node)
    except ValueError:
        raise MessageError("a packet asks for what this relay does not know") from None


def parse_reply(packet: bytes) -> Reply:
    """Raises MessageError."""
    if len(packet) != MESSAGE_BYTES:
        raise MessageError("a packet has not 32 bytes")
    kind, error, reserved_bytes, free_bytes, segment = _REPLY.unpack(packet)
    try:
        return Reply(Kind(kind), error, reserved_bytes, free_bytes, segment)
    except ValueError:
        raise MessageError("a packet answers what was not asked") from None
