"""Who may connect on which socket: clients on an allocation's, users on the control socket."""

import asyncio
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from nvshare.bus import subjects
from nvshare.bus.credentials import Signer
from nvshare.bus.frames import Frame, HMsg, HPub, Msg, Pub
from nvshare.relay.allocations import ANY_UID, Allocation
from nvshare.relay.peers import PeerKey, Process
from nvshare.relay.processes import ProcessGoneError, identify, peer_credentials, peer_groups, peer_pidfd
from nvshare.relay.registry import Registry
from nvshare.relay.session import RefusedError
from nvshare.v1.client_pb2 import Grant, Report
from nvshare.v1.control_pb2 import AllocateRequest

MAX_PEERS_PER_ALLOCATION = 256
"""Living processes of one allocation, connected or not; what bounds RelayState."""

_UNSEEN = "its process has ended, or cannot be seen: the relay needs the host's pid namespace"
_NONCE = re.compile(r"[0-9a-f]{16}", re.ASCII)


class ClientGuest:
    """A process on an allocation's socket. `on_closed` is called when its connection ends."""

    def __init__(
        self,
        transport: asyncio.Transport,
        allocation: Allocation,
        signer: Signer,
        registry: Registry,
        on_closed: Callable[[], None],
    ) -> None:
        """Takes the peer's identity from the kernel. Raises RefusedError."""
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
        self._transport = transport
        self._allocation = allocation
        self._signer = signer
        self._registry = registry
        self._on_closed = on_closed
        self._key: PeerKey | None = None
        self._gpu_of_report: dict[str, str] = {}
        self._gpu_of_grant: dict[str, str] = {}

    def info(self) -> dict[str, Any]:
        return {"allocation": self._allocation.id, "pid": self._process.pid, "node": self._signer.node}

    def join(self, options: dict[str, Any]) -> tuple[str, str]:
        nonce = options.get("name")
        if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
            raise RefusedError("the name in CONNECT is not a nonce of 16 lower-case hexadecimal digits")
        key = PeerKey(self._allocation.id, f"{self._process.pid}-{nonce}")
        peers = self._registry.peers
        if key not in peers and len(peers.of_allocation(key.allocation)) >= MAX_PEERS_PER_ALLOCATION:
            raise RefusedError("too many processes in this allocation")
        for gpu in self._allocation.gpus:
            self._gpu_of_report[subjects.report(gpu, key.allocation, key.client)] = gpu
            self._gpu_of_grant[subjects.grant(gpu, key.allocation, key.client)] = gpu
        self._key = key
        pidfd, self._pidfd = self._pidfd, -1
        self._registry.joined(key, self._process, pidfd, self._transport)
        return key.client, self._signer.client_jwt(key.allocation, key.client)

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
        self._on_closed()


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
    allocation.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        admins: Admins,
        signer: Signer,
        on_allocate: Callable[[int, str, Process], None],
        on_closed: Callable[["UserGuest"], None],
    ) -> None:
        """Takes the peer's identity from the kernel."""
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
        self._on_closed = on_closed
        self._allocate_subject = subjects.user(signer.node, self.uid, "allocate")

    def info(self) -> dict[str, Any]:
        return {"uid": self.uid, "admin": self.admin, "node": self._signer.node}

    def join(self, options: dict[str, Any]) -> tuple[str, str]:
        return f"user-{self.uid}", self._signer.user_jwt(self.uid, admin=self.admin)

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


def _socket_of(transport: asyncio.Transport) -> socket.socket:
    """An own handle of the transport's unix socket, to be closed: the event loop's one does no getsockopt."""
    descriptor: int = transport.get_extra_info("socket").fileno()
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=os.dup(descriptor))
