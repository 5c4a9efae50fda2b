"""The living peers, as they are: the table of them, their pidfds and connections, and the journal.

A process is alive until the kernel says otherwise through its pidfd. The end of a connection is only that: the process
lives on under its last grants. The other way round, a dead process is gone at once, even if a child that it forked
holds its socket.
"""

import asyncio
import os
from collections.abc import Callable

import structlog

from nvshare.relay.journal import (
    JournalFile,
    bytes_line,
    gone_line,
    joined_line,
    left_line,
    owner_line,
    removed_line,
    state_lines,
)
from nvshare.relay.peers import Peer, PeerKey, PeerTable, Process
from nvshare.relay.processes import ProcessGoneError, pidfd_of
from nvshare.relay.promises import GrantOrder
from nvshare.v1.client_pb2 import Grant, Report

_log = structlog.get_logger()


class Registry:
    """Knows and journals the peers; calls `on_change` when somebody joined, was disconnected, or died."""

    def __init__(self, journal: JournalFile, on_change: Callable[[], None]) -> None:
        self._journal = journal
        self._on_change = on_change
        self._pidfds: dict[PeerKey, int] = {}
        self._connections: dict[PeerKey, asyncio.Transport] = {}
        self.peers = PeerTable()
        self.owners: dict[str, Process] = {}

    def load(self) -> None:
        """Reads the journal: who of it still lives is a disconnected peer. Raises OSError; the journal is then as it
        was.
        """
        state = self._journal.load()
        if state.unreadable_lines:
            _log.warning("the journal has lines that cannot be read; skipped", lines=state.unreadable_lines)
        survivors: list[Peer] = []
        for peer in state.peers:
            try:
                self._pidfds[peer.key] = pidfd_of(peer.process)
            except ProcessGoneError:
                continue
            survivors.append(peer)
        self.peers = PeerTable(survivors)
        self.owners = state.owners
        self._journal.rewrite(state_lines(self.peers, self.owners))
        for key in [peer.key for peer in survivors]:
            self._watch(key)
        _log.info("read the journal", living_peers=len(survivors))

    def joined(self, key: PeerKey, process: Process, pidfd: int, connection: asyncio.Transport) -> None:
        """`process` connected as `key`. The registry owns `pidfd` from here on."""
        known = self.peers.get(key)
        for ended in self.peers.joined(key, process):
            _log.info("replaced by exec", allocation=ended.key.allocation, old=ended.key.client, new=key.client)
            self._forget(ended.key)
        if known is None:
            self._write(joined_line(key, process))
        earlier = self._connections.pop(key, None)
        if earlier is not None:
            earlier.abort()
        self._connections[key] = connection
        if key in self._pidfds:
            os.close(pidfd)
        else:
            self._pidfds[key] = pidfd
            self._watch(key)
        self._on_change()

    def disconnected(self, key: PeerKey, connection: asyncio.Transport) -> None:
        """`connection` of `key` ended; nothing happens if another one took its place."""
        if self._connections.get(key) is connection:
            del self._connections[key]
            if self.peers.disconnected(key):
                self._on_change()

    def granted(self, key: PeerKey, gpu: str, grant: Grant) -> None:
        """A grant is about to be forwarded to the client."""
        order = GrantOrder(grant.generation, grant.epoch)
        promise = self.peers.promise(key, gpu).granted(order, grant.resident_bytes + grant.headroom_bytes)
        if self.peers.set_promise(key, gpu, promise):
            self._write(bytes_line(key, gpu, promise))

    def reported(self, key: PeerKey, gpu: str, report: Report) -> None:
        """The client reports on one of its GPUs."""
        if report.leaving:
            if self.peers.set_promise(key, gpu, None):
                self._write(left_line(key, gpu))
            return
        in_force = GrantOrder(report.generation, report.epoch)
        promise = self.peers.promise(key, gpu).reported(in_force, report.resident_bytes)
        if self.peers.set_promise(key, gpu, promise):
            self._write(bytes_line(key, gpu, promise))

    def owned(self, allocation: str, owner: Process) -> None:
        """`owner` asked for `allocation`."""
        self.owners[allocation] = owner
        self._write(owner_line(allocation, owner))

    def removed(self, allocation: str) -> None:
        """The allocation is no more."""
        if self.owners.pop(allocation, None) is not None:
            self._write(removed_line(allocation))

    def close(self) -> None:
        """Ends the watching; the journal stays as it is."""
        for key in list(self._pidfds):
            self._unwatch(key)
        self._journal.close()

    def _watch(self, key: PeerKey) -> None:
        asyncio.get_running_loop().add_reader(self._pidfds[key], self._ended, key)

    def _unwatch(self, key: PeerKey) -> None:
        pidfd = self._pidfds.pop(key)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)

    def _ended(self, key: PeerKey) -> None:
        self.peers.died(key)
        _log.info("process ended", allocation=key.allocation, client=key.client)
        self._forget(key)
        self._on_change()

    def _forget(self, key: PeerKey) -> None:
        self._write(gone_line(key))
        self._unwatch(key)
        connection = self._connections.pop(key, None)
        if connection is not None:
            connection.abort()

    def _write(self, line: str) -> None:
        try:
            self._journal.append(line)
            if self._journal.is_long():
                self._journal.rewrite(state_lines(self.peers, self.owners))
        except OSError as error:
            # A full disk must not stop the bus; a restart then knows less, and NVML shows the rest.
            _log.error("the journal cannot be written", error=str(error))


def process_lives(process: Process) -> bool:
    """Whether this life of the process goes on; it does while nothing says that it ended."""
    try:
        os.close(pidfd_of(process))
    except ProcessGoneError:
        return False
    except OSError:
        return True
    return True
