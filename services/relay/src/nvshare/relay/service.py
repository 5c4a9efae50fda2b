"""The relay: sockets of the allocations and of the users on one side, the node's NATS server on the other.

It starts to listen for clients before the bus is there, and for users only when it can answer them.
"""

import asyncio
import time
from collections.abc import Callable
from weakref import WeakSet

import structlog

from nvshare.bus import subjects
from nvshare.bus.connection import Bus
from nvshare.bus.credentials import Signer
from nvshare.bus.node_directory import NodeDirectory
from nvshare.bus.version import BUILD, VERSION
from nvshare.relay.allocations import Allocation
from nvshare.relay.arena_server import ArenaServer
from nvshare.relay.folders import AllocationFolders
from nvshare.relay.guests import Admins, ClientGuest, UserGuest
from nvshare.relay.journal import JournalFile
from nvshare.relay.limits import MAX_CONNECTIONS
from nvshare.relay.listener import Listener
from nvshare.relay.rate import TokenBucket
from nvshare.relay.registry import Registry
from nvshare.relay.requests import Requests
from nvshare.relay.session import Guest, RefusedError, ServerAddress, Session
from nvshare.v1.node_pb2 import RelayState

_CLIENT_FRAMES_PER_SECOND = 2000  # of one allocation
_CLIENT_FRAME_BURST = 4096  # MAX_CONNECTIONS times the 64 reports that a client may send at once
_REQUESTS_PER_SECOND = 20  # of one user
_REQUEST_BURST = 64
_HEARTBEAT_SECONDS = 1.0
_TOUCH_SECONDS = 0.05
_COALESCE_SECONDS = 0.001  # changes that come together are told together
_MAX_LOGGED_REFUSALS = 64

_log = structlog.get_logger()


class Relay:
    """The relay of one node. It looks for new folders of allocations every `scan_seconds`. `arena_bytes`: of host
    memory that it makes for clients; 0: it has no arena.
    """

    def __init__(
        self,
        directory: NodeDirectory,
        server: ServerAddress,
        signer: Signer,
        admins: Admins,
        scan_seconds: float = 0.5,
        arena_bytes: int = 0,
    ) -> None:
        self._directory = directory
        self._server = server
        self._signer = signer
        self._admins = admins
        self._scan_seconds = scan_seconds
        self._changed = asyncio.Event()
        self._registry = Registry(JournalFile(directory.relay_journal), self._changed.set)
        self._arena = None
        if arena_bytes:
            self._arena = ArenaServer(
                arena_bytes, directory.relay_arena, self._allocation, self._changed.set, self._refused
            )
        self._folders = AllocationFolders(
            directory, self._client_session, self._is_in_use, self._changed.set, self._disconnect, self._arena
        )
        self._requests = Requests(self._folders, self._registry, self._is_admin)
        self._clients: dict[ClientGuest, asyncio.Transport] = {}
        self._users: set[UserGuest] = set()
        self._client_pace: dict[str, TokenBucket] = {}  # by allocation
        self._user_pace: dict[int, TokenBucket] = {}  # by uid
        self._sessions: WeakSet[Session] = WeakSet()
        self._logged_refusals: set[str] = set()
        self._generation = time.monotonic_ns()  # grows with each life of the relay on one host
        self._sequence = 0
        self._refused_connections = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set."""
        self._registry.load()
        if self._arena is not None:
            self._arena.load()
            _log.info("has an arena of host memory", bytes=self._arena.account.total_bytes)
        self._directory.allocations.mkdir(parents=True, exist_ok=True)
        self._directory.allocations.chmod(0o755)  # whatever the umask is: users must reach their sockets
        await self._folders.scan()
        serving = asyncio.ensure_future(self._serve())
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        serving.cancel()
        self._folders.close()
        for session in list(self._sessions):
            session.close("the relay ends")
        if self._arena is not None:
            self._arena.close()
        self._registry.close()
        try:
            await serving
        except asyncio.CancelledError:
            _log.info("ended")

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_after_folders())
            tasks.create_task(self._talk())
            if self._arena is not None:
                tasks.create_task(self._arena.serve())

    async def _look_after_folders(self) -> None:
        while True:
            await self._wait_for_touch()
            await self._folders.scan()
            if self._arena is not None:
                await self._arena.sweep()
            self._requests.sweep(time.monotonic())
            self._forget_paces(time.monotonic())

    async def _wait_for_touch(self) -> None:
        """Until it is time for another scan, which is as soon as somebody says that there is something new."""
        pause_s = min(self._scan_seconds, _TOUCH_SECONDS)
        for _ in range(round(self._scan_seconds / pause_s)):
            await asyncio.sleep(pause_s)
            if self._folders.was_touched():
                return

    def _forget_paces(self, now_s: float) -> None:
        """Forgets what was counted for allocations that are no more and for users who left."""
        listed = {allocation.id for allocation in self._folders.listed()}
        here = {user.uid for user in self._users}
        self._client_pace = {name: pace for name, pace in self._client_pace.items() if name in listed}
        self._user_pace = {uid: pace for uid, pace in self._user_pace.items() if uid in here or not pace.is_full(now_s)}

    async def _talk(self) -> None:
        """Joins the bus, lets users in, and tells what it knows."""
        bus = await Bus.connect(
            url=f"nats://{self._server.host}:{self._server.port}",
            jwt=self._signer.service_jwt("relay"),
            name="relay",
            on_reconnect=self._changed.set,
        )
        try:
            await self._requests.serve(bus, self._signer.node, lambda: self._publish_change(bus))
            await bus.flush()
            control = await Listener.open(self._directory.control_socket, self._user_session)
            try:
                _log.info("ready", node=self._signer.node, control_socket=self._directory.control_socket)
                await self._publish_states(bus)
            finally:
                control.close()
        finally:
            await bus.close()

    async def _publish_states(self, bus: Bus) -> None:
        """Publishes on each change and once a second."""
        while True:
            await self._publish_state(bus)
            try:
                async with asyncio.timeout(_HEARTBEAT_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(_COALESCE_SECONDS)

    async def _publish_change(self, bus: Bus) -> None:
        """Publishes if anything has changed since the last time."""
        if self._changed.is_set():
            await self._publish_state(bus)

    async def _publish_state(self, bus: Bus) -> None:
        self._changed.clear()
        self._sequence += 1
        arena = None if self._arena is None else self._arena.account
        state = RelayState(
            node=self._signer.node,
            generation=self._generation,
            sequence=self._sequence,
            allocations=[allocation.to_message() for allocation in self._folders.listed()],
            peers=[peer.to_message() for peer in self._registry.peers],
            version=VERSION,
            build=BUILD,
            refused_connections=self._refused_connections,
            arena_bytes=0 if arena is None else arena.total_bytes,
            arena_reserved_bytes=0 if arena is None else arena.reserved_bytes,
            arena_made_bytes=0 if arena is None else arena.made_bytes,
        )
        await bus.publish(subjects.relay(self._signer.node), state)

    def _client_session(self, allocation: Allocation) -> Session:
        def accept(transport: asyncio.Transport) -> Guest:
            if sum(guest.allocation.id == allocation.id for guest in self._clients) >= MAX_CONNECTIONS:
                raise RefusedError("too many connections to this allocation")
            pace = self._client_pace.get(allocation.id)
            if pace is None:
                pace = TokenBucket(_CLIENT_FRAMES_PER_SECOND, _CLIENT_FRAME_BURST, time.monotonic())
                self._client_pace[allocation.id] = pace
            guest = ClientGuest(
                transport, allocation, self._signer, self._registry, pace, self._folders.find, self._client_left
            )
            self._clients[guest] = transport
            return guest

        return self._session(accept)

    def _client_left(self, guest: ClientGuest) -> None:
        self._clients.pop(guest, None)

    def _disconnect(self, allocation_id: str) -> None:
        """Ends the connections of an allocation; its clients come again, if they still may."""
        for guest, transport in list(self._clients.items()):
            if guest.allocation.id == allocation_id:
                transport.abort()
        if self._arena is not None:
            self._arena.disconnect(allocation_id)

    def _allocation(self, allocation_id: str) -> Allocation | None:
        return self._folders.find(allocation_id)

    def _is_in_use(self, allocation_id: str) -> bool:
        return bool(self._registry.peers.of_allocation(allocation_id))

    def _user_session(self) -> Session:
        def accept(transport: asyncio.Transport) -> Guest:
            requests = self._requests
            guest = UserGuest(
                transport, self._admins, self._signer, requests.asked_by, self._pace_of_user, self._users.discard
            )
            if sum(user.uid == guest.uid for user in self._users) >= MAX_CONNECTIONS:
                raise RefusedError("too many connections of this user")
            self._users.add(guest)
            return guest

        return self._session(accept)

    def _pace_of_user(self, uid: int) -> TokenBucket:
        if uid not in self._user_pace:
            self._user_pace[uid] = TokenBucket(_REQUESTS_PER_SECOND, _REQUEST_BURST, time.monotonic())
        return self._user_pace[uid]

    def _session(self, accept: Callable[[asyncio.Transport], Guest]) -> Session:
        session = Session(self._server, accept, self._refused)
        self._sessions.add(session)
        return session

    def _refused(self, reason: str) -> None:
        self._refused_connections += 1
        if reason not in self._logged_refusals and len(self._logged_refusals) < _MAX_LOGGED_REFUSALS:
            self._logged_refusals.add(reason)
            _log.warning("connection refused", reason=reason, hint="counted, not logged again")

    def _is_admin(self, uid: int) -> bool:
        return any(user.uid == uid and user.admin for user in self._users)
