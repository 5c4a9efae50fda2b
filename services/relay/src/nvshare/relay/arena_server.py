"""The node arena's shell: a socket in each allocation's folder, the processes on it, and the threads that make memory.

A client has one request at a time: the next is read when the last is answered. Segments are made one by one, the
allocations in turn, each in parts by several threads; no other request waits for that.
"""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from nvshare.relay.allocations import ANY_UID, Allocation
from nvshare.relay.arena import Arena, ArenaError, Segment, State, Tenant, TenantKey, Turns, most_bytes
from nvshare.relay.arena_connection import ArenaConnection
from nvshare.relay.arena_listener import ArenaListener
from nvshare.relay.arena_memory import Segment as Memory
from nvshare.relay.arena_memory import available_bytes, maps_arena
from nvshare.relay.arena_messages import VERSION, Kind, MessageError, Reply, Request
from nvshare.relay.arena_record import read_record, write_record
from nvshare.relay.limits import MAX_CONNECTIONS
from nvshare.relay.processes import ProcessGoneError, identify, peer_credentials, peer_pidfd, pidfd_of

_THREADS = 4
_PART_BYTES = 16 * 2**20
_GRACE_SECONDS = 30.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A segment that a client waits for."""

    connection: ArenaConnection
    segment: Segment
    numa_node: int


class ArenaServer:
    """The arena of one node, of `total_bytes`. `record` is the file with its reservations, `allocation_of` finds an
    allocation by its ID, `on_change` is called when the sums change, and `on_refused(reason)` hears of connections that
    were refused or ended.
    """

    def __init__(
        self,
        total_bytes: int,
        record: Path,
        allocation_of: Callable[[str], Allocation | None],
        on_change: Callable[[], None],
        on_refused: Callable[[str], None],
        grace_seconds: float = _GRACE_SECONDS,
    ) -> None:
        self.account = Arena(total_bytes)
        self._record = record
        self._allocation_of = allocation_of
        self._on_change = on_change
        self._on_refused = on_refused
        self._grace_seconds = grace_seconds
        self._memory: dict[int, Memory] = {}  # by segment
        self._pidfds: dict[TenantKey, int] = {}
        self._connections: dict[TenantKey, ArenaConnection] = {}
        self._lost_at_s: dict[TenantKey, float] = {}  # living tenants without a connection
        self._guests: set[ArenaConnection] = set()  # every connection, also before its HELLO
        self._turns: Turns[_Wanted] = Turns()
        self._wanted = asyncio.Event()
        self._wiping: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(_THREADS + 1, "arena")  # one wipes while the others make

    def load(self) -> None:
        """Reads the reservations of an earlier relay: who of them still lives has his."""
        try:
            records = read_record(self._record)
        except (OSError, ValueError) as error:
            _log.error("the arena's reservations cannot be read; its clients will tell", error=str(error))
            return
        for key, reserved_bytes in records:
            try:
                self._watch(key, pidfd_of(key.process))
            except (ProcessGoneError, OSError):
                continue
            self.account.restore(key, reserved_bytes)
            self._lost_at_s[key] = time.monotonic()

    async def serve(self) -> None:
        """Makes the segments that clients wait for."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            made_bytes, started_s = 0, time.monotonic()
            while self._turns:
                made_bytes += await self._make(self._turns.next())
            if made_bytes:
                seconds = time.monotonic() - started_s
                speed = round(made_bytes / max(seconds, 1e-6))
                total = self.account.made_bytes
                _log.info("made host memory", bytes=made_bytes, bytes_per_second=speed, made_bytes=total)

    def listen(self, path: Path, allocation: Allocation) -> ArenaListener:
        """Listens at `path` for the processes of an allocation. Raises ListenError."""
        return ArenaListener(path, lambda connection: self._accept(connection, self._now(allocation)), self._on_refused)

    async def sweep(self) -> None:
        """Ends tenants that live, have been without a connection for long, and have none of the memory mapped: they
        called exec, or do without us.
        """
        loop = asyncio.get_running_loop()
        now_s = time.monotonic()
        for key in [key for key, lost_s in self._lost_at_s.items() if now_s - lost_s >= self._grace_seconds]:
            self._lost_at_s[key] = now_s
            if await loop.run_in_executor(self._threads, maps_arena, key.process.pid) or key not in self._lost_at_s:
                continue
            tenant = self.account.find(key)
            if tenant is not None:
                _log.info("a process does not use the arena any more", allocation=key.allocation, pid=key.process.pid)
                self._end(tenant)

    @property
    def connection_count(self) -> int:
        """Connections that are open."""
        return len(self._guests)

    def disconnect(self, allocation_id: str) -> None:
        """Ends the connections of an allocation; its processes come again, if they still may."""
        for connection in [one for one in self._guests if one.allocation.id == allocation_id]:
            connection.close()

    def close(self) -> None:
        """Ends the serving. The memory stays with the clients, who hand it in to the next relay."""
        for connection in list(self._guests):
            connection.close()
        for key in list(self._pidfds):
            self._unwatch(key)
        self._threads.shutdown(wait=False, cancel_futures=True)
        for memory in self._memory.values():
            memory.close()
        self._memory.clear()

    # ---- Connections

    def _now(self, allocation: Allocation) -> Allocation:
        """The allocation as it is now: its limits and its user may have changed."""
        return self._allocation_of(allocation.id) or allocation

    def _accept(self, connection: socket.socket, allocation: Allocation) -> None:
        """A process connected. Raises OSError; closes nothing then."""
        if sum(one.allocation.id == allocation.id for one in self._guests) >= MAX_CONNECTIONS:
            raise OSError(errno.EMFILE, "too many connections to this allocation")
        credentials = peer_credentials(connection)
        if allocation.uid not in (ANY_UID, credentials.uid):
            raise OSError(errno.EPERM, "this allocation belongs to another user")
        try:
            pidfd = peer_pidfd(connection, credentials.pid)
        except ProcessGoneError as error:
            raise OSError(errno.ESRCH, str(error)) from None
        try:
            process = identify(credentials.pid, pidfd)
        except (ProcessGoneError, OSError) as error:
            os.close(pidfd)
            raise OSError(errno.ESRCH, str(error)) from None
        self._guests.add(
            ArenaConnection(connection, allocation, process, pidfd, self._request, self._closed, self._on_refused)
        )

    def _closed(self, connection: ArenaConnection) -> None:
        self._guests.discard(connection)
        key = connection.tenant
        if key is not None and self._connections.get(key) is connection:
            del self._connections[key]
            if self.account.find(key) is not None:
                self._lost_at_s[key] = time.monotonic()

    def _request(self, connection: ArenaConnection, request: Request, descriptor: int | None) -> None:
        """Answers a request, at once or when it is done. Raises MessageError."""
        error, segment = 0, 0
        try:
            if request.kind is Kind.HELLO:
                self._hello(connection, request)
            tenant = self._tenant(connection)
            match request.kind:
                case Kind.RESERVE:
                    self._complete(connection, tenant)
                    before = tenant.reserved_bytes
                    most = self._most_bytes(connection)
                    if self.account.reserve(tenant, request.value, most, available_bytes()) != before:
                        self._changed()
                case Kind.SEGMENT:
                    self._want(connection, tenant, request)
                    return
                case Kind.GIVE:
                    self._wipe(self.account.give(tenant, request.segment))
                case Kind.ADOPT:
                    if descriptor is None:
                        raise MessageError("no descriptor came with what needs one")
                    segment = self._adopt(tenant, request, descriptor)
                    connection.handed_in.add(segment)
        except ArenaError as refusal:
            error = refusal.number
            _log.debug("refused", allocation=connection.allocation.id, reason=str(refusal))
        self._answer(connection, request.kind, error, segment)

    def _hello(self, connection: ArenaConnection, request: Request) -> None:
        if connection.tenant is not None:
            raise MessageError("HELLO came twice")
        if request.value != VERSION:
            raise MessageError(f"its version of the arena's protocol is {request.value}, not {VERSION}")
        key = TenantKey(connection.allocation.id, connection.process, request.segment)
        for earlier in self.account.of_process(key.process):
            if earlier.key != key:  # exec: what was mapped is not any more
                self._end(earlier)
        self.account.join(key)
        replaced = self._connections.pop(key, None)
        self._connections[key] = connection
        self._lost_at_s.pop(key, None)
        pidfd = connection.join(key)
        if replaced is not None:
            replaced.close()
        if key in self._pidfds:
            os.close(pidfd)
        else:
            self._watch(key, pidfd)

    def _complete(self, connection: ArenaConnection, tenant: Tenant) -> None:
        """It has handed in all that it has: what else was made for it, it gave back or never got while it was cut
        off.
        """
        if not connection.is_complete:
            connection.is_complete = True
            lost = [one for one in tenant.segments.values() if one.state is State.MADE]
            for segment in lost:
                if segment.id not in connection.handed_in:
                    self._wipe(self.account.give(tenant, segment.id))

    def _tenant(self, connection: ArenaConnection) -> Tenant:
        if connection.tenant is None:
            raise MessageError("HELLO did not come first")
        tenant = self.account.find(connection.tenant)
        if tenant is None:
            raise MessageError("its process has ended")
        return tenant

    def _most_bytes(self, connection: ArenaConnection) -> int:
        allocation = self._now(connection.allocation)
        return most_bytes(allocation.memory_limit_bytes, len(allocation.gpus))

    def _answer(
        self, connection: ArenaConnection, kind: Kind, error: int = 0, segment: int = 0, descriptor: int | None = None
    ) -> bool:
        """Returns whether it was sent."""
        tenant = None if connection.tenant is None else self.account.find(connection.tenant)
        if tenant is None:
            connection.close()
            return False
        free_bytes = self.account.room_of(tenant, self._most_bytes(connection), available_bytes())
        return connection.answer(Reply(kind, error, tenant.reserved_bytes, free_bytes, segment), descriptor)

    # ---- Memory

    def _want(self, connection: ArenaConnection, tenant: Tenant, request: Request) -> None:
        self._complete(connection, tenant)
        segment = self.account.begin(tenant, request.value)
        connection.hold()
        self._turns.add(tenant.key.allocation, _Wanted(connection, segment, request.numa_node))
        self._wanted.set()

    async def _make(self, wanted: _Wanted) -> int:
        """Makes one segment and hands it over. Returns its bytes, 0 where that failed."""
        segment, connection = wanted.segment, wanted.connection
        try:
            if connection.is_closed or segment.state is not State.MAKING:
                raise OSError(errno.ECANCELED, "nobody waits for it any more")
            memory = await self._fault_in(segment.bytes, wanted.numa_node)
        except OSError as error:
            self.account.wiped(segment)
            if error.errno != errno.ECANCELED:
                _log.warning("the host gives the arena no memory", bytes=segment.bytes, error=error.strerror)
            self._answer(connection, Kind.SEGMENT, error.errno or errno.ENOMEM)
            self._changed()
            return 0
        self._memory[segment.id] = memory
        handed_over = self.account.made(segment, memory.file) and self._answer(
            connection, Kind.SEGMENT, segment=segment.id, descriptor=memory.descriptor
        )
        if not handed_over:
            segment.state = State.WIPING
            self._wipe(segment)
        self._changed()
        return segment.bytes

    async def _fault_in(self, size_bytes: int, numa_node: int) -> Memory:
        """A segment with all its pages. Raises OSError."""
        if available_bytes() < size_bytes:
            raise OSError(errno.ENOMEM, "its memory is used by others")
        memory = Memory(size_bytes)
        loop = asyncio.get_running_loop()
        parts = [
            loop.run_in_executor(self._threads, memory.fault_in, offset, _PART_BYTES, numa_node)
            for offset in range(0, size_bytes, _PART_BYTES)
        ]
        try:
            results = await asyncio.gather(*parts, return_exceptions=True)
            for failure in results:
                if isinstance(failure, BaseException):
                    raise failure
        except BaseException:
            memory.wipe()
            raise
        return memory

    def _adopt(self, tenant: Tenant, request: Request, descriptor: int) -> int:
        try:
            memory = Memory.adopt(os.dup(descriptor), request.value)
        except OSError as error:
            raise ArenaError(error.errno or errno.EBADF, str(error.strerror)) from None
        try:
            segment, is_new = self.account.adopt(tenant, memory.bytes, memory.file)
        except ArenaError:
            memory.close()
            raise
        if is_new:
            self._memory[segment.id] = memory
            self._changed()
        else:
            memory.close()
        return segment.id

    def _wipe(self, segment: Segment) -> None:
        """Frees a segment's pages, in the background."""
        memory = self._memory.pop(segment.id)

        async def wipe() -> None:
            try:
                await asyncio.get_running_loop().run_in_executor(self._threads, memory.wipe)
            except OSError as error:
                _log.error("a segment cannot be wiped", bytes=segment.bytes, error=error.strerror)
                return  # it stays charged
            self.account.wiped(segment)
            self._changed()

        task = asyncio.get_running_loop().create_task(wipe())
        self._wiping.add(task)
        task.add_done_callback(self._wiping.discard)

    # ---- Lives

    def _watch(self, key: TenantKey, pidfd: int) -> None:
        self._pidfds[key] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._died, key)

    def _unwatch(self, key: TenantKey) -> None:
        pidfd = self._pidfds.pop(key)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)

    def _died(self, key: TenantKey) -> None:
        tenant = self.account.find(key)
        if tenant is None:
            self._unwatch(key)
        else:
            self._end(tenant)

    def _end(self, tenant: Tenant) -> None:
        """The tenant is no more: its memory is wiped and free, whoever kept a descriptor."""
        key = tenant.key
        if key in self._pidfds:
            self._unwatch(key)
        self._lost_at_s.pop(key, None)
        for segment in self.account.end(tenant):
            self._wipe(segment)
        connection = self._connections.pop(key, None)
        if connection is not None:
            connection.close()
        self._changed()

    def _changed(self) -> None:
        try:
            write_record(self._record, self.account)
        except OSError as error:
            _log.error("the arena's reservations cannot be written", error=str(error))
        self._on_change()
