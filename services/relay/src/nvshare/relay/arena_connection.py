"""One process on an allocation's arena socket: packets in, one request at a time, and answers out.

A client that does not read its answers, sends what is no request, or says nothing is disconnected.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable

from nvshare.relay.allocations import Allocation
from nvshare.relay.arena import TenantKey
from nvshare.relay.arena_messages import MESSAGE_BYTES, MessageError, Reply, Request, parse_request
from nvshare.relay.peers import Process
from nvshare.relay.rate import TokenBucket

_HELLO_SECONDS = 5.0
_REQUESTS_PER_SECOND = 200
_REQUEST_BURST = 400
_LONGEST_PAUSE_SECONDS = 5.0
_MAX_DESCRIPTORS = 4


class ArenaConnection:
    """`on_request(connection, request, descriptor)` answers through `answer`, at once or later after `hold`; the
    descriptor is closed when it returns, and it may raise MessageError. `on_closed` is called once, when the connection
    has ended, and `on_refused(reason)` before that when it was the relay that ended it.
    """

    def __init__(
        self,
        connection: socket.socket,
        allocation: Allocation,
        process: Process,
        pidfd: int,
        on_request: Callable[["ArenaConnection", Request, int | None], None],
        on_closed: Callable[["ArenaConnection"], None],
        on_refused: Callable[[str], None],
    ) -> None:
        """Owns `connection` and `pidfd`."""
        self.allocation = allocation
        self.process = process
        self.tenant: TenantKey | None = None
        self.handed_in: set[int] = set()  # segments, on this connection
        self.is_complete = False  # it has asked for something: it handed in all that it has
        self._connection = connection
        self._pidfd = pidfd
        self._on_request = on_request
        self._on_closed = on_closed
        self._on_refused = on_refused
        self._held = False
        self._pace = TokenBucket(_REQUESTS_PER_SECOND, _REQUEST_BURST, time.monotonic())
        loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._hello = loop.call_later(_HELLO_SECONDS, self._refuse, "no HELLO came in time")
        loop.add_reader(connection.fileno(), self._readable)

    @property
    def is_closed(self) -> bool:
        return self._connection.fileno() < 0

    def join(self, tenant: TenantKey) -> int:
        """It said who it is. Returns the descriptor of its process, which the caller owns from here on."""
        self.tenant = tenant
        self._hello.cancel()
        pidfd, self._pidfd = self._pidfd, -1
        return pidfd

    def hold(self) -> None:
        """The answer comes later: nothing is read until then."""
        self._held = True
        self._read_or_wait()

    def answer(self, reply: Reply, descriptor: int | None) -> bool:
        """Sends an answer. Returns whether it was sent; who does not take it is disconnected."""
        if self.is_closed:
            return False
        try:
            if descriptor is None:
                self._connection.send(reply.encode())
            else:
                socket.send_fds(self._connection, [reply.encode()], [descriptor])
        except OSError as error:
            self._refuse(f"it does not take its answer: {error.strerror}")
            return False
        self._held = False
        self._read_or_wait()
        return True

    def close(self) -> None:
        """Ends the connection."""
        if self.is_closed:
            return
        asyncio.get_running_loop().remove_reader(self._connection.fileno())
        self._connection.close()
        self._hello.cancel()
        if self._pause is not None:
            self._pause.cancel()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._on_closed(self)

    def _readable(self) -> None:
        try:
            packet, descriptors, flags, _ = socket.recv_fds(
                self._connection, MESSAGE_BYTES + 1, _MAX_DESCRIPTORS, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        try:
            if packet or descriptors:
                request = self._take(packet, len(descriptors), flags)
                self._on_request(self, request, descriptors[0] if descriptors else None)
            else:
                self.close()
        except MessageError as error:
            self._refuse(str(error))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _take(self, packet: bytes, descriptors: int, flags: int) -> Request:
        if descriptors > 1 or flags & socket.MSG_CTRUNC:
            raise MessageError("more than one descriptor came")
        wait_s = self._pace.borrow(1, time.monotonic(), _LONGEST_PAUSE_SECONDS)
        if wait_s is None:
            raise MessageError("too many requests a second")
        if wait_s > 0.0:
            self._pause = asyncio.get_running_loop().call_later(wait_s, self._go_on)
            self._read_or_wait()
        return parse_request(packet)

    def _go_on(self) -> None:
        self._pause = None
        self._read_or_wait()

    def _read_or_wait(self) -> None:
        if self.is_closed:
            return
        loop = asyncio.get_running_loop()
        if self._held or self._pause is not None:
            loop.remove_reader(self._connection.fileno())
        else:
            loop.add_reader(self._connection.fileno(), self._readable)

    def _refuse(self, reason: str) -> None:
        self._on_refused(f"arena: {reason}")
        self.close()
