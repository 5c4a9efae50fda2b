"""Who may connect on which socket: clients on an allocation's, users on the control socket."""

import asyncio
import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from nvshare.bus import subjects
from nvshare.bus.credentials import Signer
from nvshare.bus.frames import Frame, HMsg, HPub, Msg, Pub
from nvshare.relay.allocations import ANY_UID, Allocation
from nvshare.relay.limits import peer_refusal
from nvshare.relay.peers import PeerKey, Process
from nvshare.relay.processes import ProcessGoneError, identify, peer_credentials, peer_groups, peer_pidfd
from nvshare.relay.rate import TokenBucket
from nvshare.relay.registry import Registry
from nvshare.relay.session import RefusedError
from nvshare.v1.client_pb2 import Grant, Report
from nvshare.v1.control_pb2 import AllocateRequest

_UNSEEN = "its process has ended, or cannot be seen: the relay needs the host's pid namespace"
_LONGEST_PAUSE_SECONDS = 5.0
_NONCE = re.compile(r"[0-9a-f]{16}", re.ASCII)


class ClientGuest:
    """A process on an allocation's socket. `pace` is the allocation's, `allocation_of` finds one by its ID, and
    `on_closed` is called when the connection ends.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        allocation: Allocation,
        signer: Signer,
        registry: Registry,
        pace: TokenBucket,
        allocation_of: Callable[[str], Allocation | None],
        on_closed: Callable[["ClientGuest"], None],
    ) -> None:
        """Takes the peer's identity from the kernel. Raises RefusedError, or OSError when the relay is short of
        something.
        """
        with _socket_of(transport) as connection:
            credentials = peer_credentials(connection)
            if allocation.uid not in (ANY_UID, credentials.uid):
                raise RefusedError("this allocation belongs to another user")
            try:
                self._pidfd = peer_pidfd(connection, credentials.pid)
            except ProcessGoneError:
                raise RefusedError(_UNSEEN) from None
        try:
            self._process = identify(credentials.pid, self._pidfd)
        except ProcessGoneError:
            os.close(self._pidfd)
            raise RefusedError(_UNSEEN) from None
        except OSError:
            os.close(self._pidfd)
            raise
        self._transport = transport
        self.allocation = allocation
        self._signer = signer
        self._registry = registry
        self._pace = pace
        self._allocation_of = allocation_of
        self._on_closed = on_closed
        self._key: PeerKey | None = None
        self._gpu_of_report: dict[str, str] = {}
        self._gpu_of_grant: dict[str, str] = {}

    def info(self) -> dict[str, Any]:
        return {"allocation": self.allocation.id, "pid": self._process.pid, "node": self._signer.node}

    def join(self, options: dict[str, Any]) -> tuple[str, str]:
        nonce = options.get("name")
        if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
            raise RefusedError("the name in CONNECT is not a nonce of 16 lower-case hexadecimal digits")
        key = PeerKey(self.allocation.id, f"{self._process.pid}-{nonce}")
        peers = self._registry.peers
        if key not in peers:
            refusal = peer_refusal(self.allocation, self._process.pid, peers, self._allocation_of)
            if refusal:
                raise RefusedError(refusal)
        for gpu in self.allocation.gpus:
            self._gpu_of_report[subjects.report(gpu, key.allocation, key.client)] = gpu
            self._gpu_of_grant[subjects.grant(gpu, key.allocation, key.client)] = gpu
        self._key = key
        pidfd, self._pidfd = self._pidfd, -1
        self._registry.joined(key, self._process, pidfd, self._transport)
        return key.client, self._signer.client_jwt(key.allocation, key.client)

    def pace(self, frames: list[Frame]) -> float:
        return _paced(self._pace, len(frames))

    def from_peer(self, frame: Pub | HPub) -> None:
        gpu = self._gpu_of_report.get(frame.subject)
        if gpu is None or self._key is None:
            return  # the server says whether it may pass
        try:
            report = Report.FromString(frame.payload)
        except DecodeError:
            return  # the scheduler counts it
        self._registry.reported(self._key, gpu, report)

    def to_peer(self, frame: Frame) -> None:
        if not isinstance(frame, Msg | HMsg) or self._key is None:
            return
        gpu = self._gpu_of_grant.get(frame.subject)
        if gpu is None:
            return
        try:
            grant = Grant.FromString(frame.payload)
        except DecodeError:
            return  # the client counts it
        self._registry.granted(self._key, gpu, grant)

    def refused(self, reason: str) -> None:
        if self._key is not None:
            self._registry.peers.refused(self._key)

    def closed(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._key is not None:
            self._registry.disconnected(self._key, self._transport)
        self._on_closed(self)


@dataclass(frozen=True, slots=True)
class Admins:
    """Who is an admin of the node: root, the user that runs it, and the members of a group (None: of no group)."""

    node_uid: int
    group: int | None

    def include(self, uid: int, groups: frozenset[int]) -> bool:
        """Whether the user `uid`, with `groups`, is one."""
        return uid in (0, self.node_uid) or (self.group is not None and self.group in groups)


class UserGuest:
    """A user on the control socket. `on_allocate(uid, reply token, process)` is told which process asks for an
    allocation; `pace_of(uid)` is the user's.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        admins: Admins,
        signer: Signer,
        on_allocate: Callable[[int, str, Process], None],
        pace_of: Callable[[int], TokenBucket],
        on_closed: Callable[["UserGuest"], None],
    ) -> None:
        """Takes the peer's identity from the kernel. Raises OSError when the relay is short of something."""
        self._process: Process | None = None
        with _socket_of(transport) as connection:
            credentials = peer_credentials(connection)
            self.admin = admins.include(credentials.uid, peer_groups(connection) | {credentials.gid})
            try:
                pidfd = peer_pidfd(connection, credentials.pid)
                try:
                    self._process = identify(credentials.pid, pidfd)
                finally:
                    os.close(pidfd)
            except ProcessGoneError:
                pass  # a user is known by the uid; only the owner of an allocation stays unknown
        self.uid = credentials.uid
        self._signer = signer
        self._on_allocate = on_allocate
        self._pace = pace_of(self.uid)
        self._on_closed = on_closed
        self._allocate_subject = subjects.user(signer.node, self.uid, "allocate")

    def info(self) -> dict[str, Any]:
        return {"uid": self.uid, "admin": self.admin, "node": self._signer.node}

    def join(self, options: dict[str, Any]) -> tuple[str, str]:
        return f"user-{self.uid}", self._signer.user_jwt(self.uid, admin=self.admin)

    def pace(self, frames: list[Frame]) -> float:
        return _paced(self._pace, sum(isinstance(frame, Pub | HPub) for frame in frames))

    def from_peer(self, frame: Pub | HPub) -> None:
        if frame.subject != self._allocate_subject or self._process is None:
            return
        try:
            request = AllocateRequest.FromString(frame.payload)
        except DecodeError:
            return  # whoever serves the verb counts it
        self._on_allocate(self.uid, request.reply_token, self._process)

    def to_peer(self, frame: Frame) -> None:
        pass

    def refused(self, reason: str) -> None:
        pass

    def closed(self) -> None:
        self._on_closed(self)


def _paced(bucket: TokenBucket, count: int) -> float:
    """Seconds to wait after `count` of what `bucket` counts. Raises RefusedError when that is long."""
    wait_s = bucket.borrow(count, time.monotonic(), _LONGEST_PAUSE_SECONDS)
    if wait_s is None:
        raise RefusedError("too many messages a second")
    return wait_s


def _socket_of(transport: asyncio.Transport) -> socket.socket:
    """An own handle of the transport's unix socket, to be closed: the event loop's one does no getsockopt."""
    descriptor: int = transport.get_extra_info("socket").fileno()
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=os.dup(descriptor))
