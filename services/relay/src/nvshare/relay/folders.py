"""The allocations of the node as folders, and the sockets in them.

`scan` brings the open sockets in line with the folders that are there, whoever made them. Folders of `nvshare run` are
made and removed here as well. An allocation whose folder went while processes of it live is *ending*: nobody can join
it, and it is listed until the last of them is dead, because they run on.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from nvshare.bus.node_directory import NodeDirectory, write_atomically
from nvshare.relay.allocations import Allocation, AllocationError, parse_allocation
from nvshare.relay.arena_listener import ArenaListener
from nvshare.relay.arena_server import ArenaServer
from nvshare.relay.listener import Listener, ListenError

_log = structlog.get_logger()

Version = tuple[int, int]
"""Of an allocation.json: its time of change in nanoseconds, which may be that of the one before, and its inode."""


@dataclass(frozen=True, slots=True)
class _Open:
    allocation: Allocation
    listener: Listener
    arena: ArenaListener | None
    version: Version

    def close(self) -> None:
        self.listener.close()
        if self.arena is not None:
            self.arena.close()


class AllocationFolders:
    """The allocations that are open; iterates over them.

    `make_protocol(allocation)` makes the protocol of one connection; `in_use(id)` says whether processes of an
    allocation live; `on_change` is called when the allocations change, and `on_moved(id)` when one got other GPUs or
    another user: who is connected must come again. With an `arena`, each has a socket for that as well.
    """

    def __init__(
        self,
        directory: NodeDirectory,
        make_protocol: Callable[[Allocation], asyncio.Protocol],
        in_use: Callable[[str], bool],
        on_change: Callable[[], None],
        on_moved: Callable[[str], None],
        arena: ArenaServer | None = None,
    ) -> None:
        self._directory = directory
        self._make_protocol = make_protocol
        self._in_use = in_use
        self._on_change = on_change
        self._on_moved = on_moved
        self._arena = arena
        self._ending: dict[str, Allocation] = {}
        self._open: dict[str, _Open] = {}
        self._bad: dict[str, Version] = {}  # what was logged: folder and version
        self._scanning = asyncio.Lock()
        self._scanned_ns = 0

    def __iter__(self) -> Iterator[Allocation]:
        return iter([one.allocation for one in self._open.values()])

    def listed(self) -> list[Allocation]:
        """The open allocations, and those that are ending."""
        return [*self, *self._ending.values()]

    def find(self, allocation_id: str) -> Allocation | None:
        """The allocation of that ID, open or ending."""
        return self.get(allocation_id) or self._ending.get(allocation_id)

    def get(self, allocation_id: str) -> Allocation | None:
        """The open allocation of that ID."""
        one = self._open.get(allocation_id)
        return None if one is None else one.allocation

    def was_touched(self) -> bool:
        """Whether somebody has made or removed a folder, or said that a description changed, since the last scan."""
        return self._touched_ns() != self._scanned_ns

    async def scan(self) -> None:
        """Opens what is new, closes what is gone, and reads again what has changed."""
        async with self._scanning:
            self._scanned_ns = self._touched_ns()
            found = self._versions()
            for name in [name for name in self._open if name not in found]:
                self._close(name)
            for name, version in found.items():
                if self._bad.get(name) == version:
                    continue
                if name not in self._open:
                    await self._try_open(name, version)
                elif self._open[name].version != version:
                    self._read_again(name, version)
            self._bad = {name: version for name, version in self._bad.items() if found.get(name) == version}
            for name in [name for name in self._ending if not self._in_use(name)]:
                del self._ending[name]
                self._on_change()

    async def create(self, allocation: Allocation) -> Path:
        """Makes the folder of a new allocation and opens it; the path of its socket. Raises AllocationError."""
        folder = self._directory.allocation(allocation.id)
        try:
            folder.mkdir(mode=0o755)
            folder.chmod(0o755)  # whatever the umask is
            write_atomically(self._directory.allocation_description(allocation.id), allocation.to_json())
        except OSError as error:
            raise AllocationError(f"the node cannot make {folder}: {error.strerror}") from None
        await self.scan()
        if allocation.id not in self._open:
            self.remove(allocation.id)
            raise AllocationError(f"the node cannot listen in {folder}; is its path too long?")
        return self._directory.allocation_socket(allocation.id)

    async def change(self, allocation: Allocation) -> None:
        """Writes another description of an open allocation. Raises AllocationError."""
        path = self._directory.allocation_description(allocation.id)
        try:
            write_atomically(path, allocation.to_json())
        except OSError as error:
            raise AllocationError(f"the node cannot write {path}: {error.strerror}") from None
        await self.scan()

    def remove(self, allocation_id: str) -> None:
        """Closes an allocation and removes its folder."""
        if allocation_id in self._open:
            self._close(allocation_id)
        try:
            shutil.rmtree(self._directory.allocation(allocation_id))
        except OSError as error:
            _log.error("a folder cannot be removed", folder=allocation_id, error=error.strerror)

    def close(self) -> None:
        """Ends the listening everywhere; the folders stay."""
        for one in self._open.values():
            one.close()
        self._open.clear()

    def _touched_ns(self) -> int:
        try:
            return self._directory.allocations.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _versions(self) -> dict[str, Version]:
        """The folders that have a description, and its version."""
        versions: dict[str, Version] = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self._directory.allocations) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    with contextlib.suppress(OSError):
                        status = self._directory.allocation_description(entry.name).stat()
                        versions[entry.name] = (status.st_mtime_ns, status.st_ino)
        return versions

    async def _try_open(self, name: str, version: Version) -> None:
        try:
            text = self._directory.allocation_description(name).read_text()
            allocation = parse_allocation(text, name)
            arena = self._listen_for_arena(allocation)  # first: who has joined finds it
            try:
                listener = await Listener.open(
                    self._directory.allocation_socket(name), lambda: self._make_protocol(self.get(name) or allocation)
                )
            except ListenError:
                if arena is not None:
                    arena.close()
                raise
        except (AllocationError, ListenError, OSError, UnicodeDecodeError) as error:
            self._bad[name] = version
            _log.warning("an allocation is not usable", folder=name, error=str(error))
            return
        self._ending.pop(name, None)
        self._open[name] = _Open(allocation, listener, arena, version)
        self._on_change()

    def _listen_for_arena(self, allocation: Allocation) -> ArenaListener | None:
        path = self._directory.allocation_arena_socket(allocation.id)
        if self._arena is not None:
            return self._arena.listen(path, allocation)
        path.unlink(missing_ok=True)  # of an earlier relay: a client would wait for it
        return None

    def _read_again(self, name: str, version: Version) -> None:
        """The description of an open allocation has changed. The socket stays, and a bad description changes nothing:
        an allocation that is in use must not be missing from the state for a moment.
        """
        before = self._open[name]
        try:
            allocation = parse_allocation(self._directory.allocation_description(name).read_text(), name)
        except (AllocationError, OSError, UnicodeDecodeError) as error:
            self._bad[name] = version
            _log.warning(
                "an allocation stays as it was: its new description is not usable", folder=name, error=str(error)
            )
            return
        self._open[name] = _Open(allocation, before.listener, before.arena, version)
        self._on_change()
        if (allocation.gpus, allocation.uid) != (before.allocation.gpus, before.allocation.uid):
            self._on_moved(name)

    def _close(self, name: str) -> None:
        closed = self._open.pop(name)
        closed.close()
        if self._in_use(name):
            self._ending[name] = closed.allocation
            _log.warning("an allocation was removed while processes of it live", allocation=name)
        self._on_change()
