"""Who the relay knows: the living processes that joined, under which name, and what each has on which GPU.

Pure: the shell tells it what happened and asks it what to publish. One process is one peer. A process that joins again
under a new nonce was replaced by exec: the old peer, and what it had, is gone with the old program.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from nvshare.relay.promises import Promise
from nvshare.v1 import node_pb2


@dataclass(frozen=True, slots=True)
class PeerKey:
    """Name of a peer in subjects."""

    allocation: str
    client: str


@dataclass(frozen=True, slots=True)
class Process:
    """One life of one process, as the kernel names it; the start time tells it from a later one with the same pid."""

    pid: int
    start_time_ticks: int


@dataclass(frozen=True, slots=True)
class Peer:
    """One process that joined and is not known to be dead. `promises` is by GPU."""

    key: PeerKey
    process: Process
    connected: bool
    promises: dict[str, Promise] = field(default_factory=dict)
    refused_messages: int = 0

    def to_message(self) -> node_pb2.Peer:
        """As it stands in RelayState."""
        return node_pb2.Peer(
            allocation=self.key.allocation,
            client=self.key.client,
            pid=self.process.pid,
            start_time_ticks=self.process.start_time_ticks,
            link=node_pb2.LINK_CONNECTED if self.connected else node_pb2.LINK_DISCONNECTED,
            journal=[
                node_pb2.JournalBytes(gpu=gpu, resident_bytes=one.resident_bytes, promised_bytes=one.promised_bytes)
                for gpu, one in self.promises.items()
            ],
            refused_messages=self.refused_messages,
        )


class PeerTable:
    """The living peers. Iterates over them in the order in which they joined."""

    def __init__(self, peers: Iterable[Peer] = ()) -> None:
        self._peers = {peer.key: peer for peer in peers}

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    def __contains__(self, key: PeerKey) -> bool:
        return key in self._peers

    def get(self, key: PeerKey) -> Peer | None:
        """The peer of that name; None: not here, or dead."""
        return self._peers.get(key)

    def of_allocation(self, allocation: str) -> list[Peer]:
        """The living peers of one allocation."""
        return [peer for peer in self if peer.key.allocation == allocation]

    def joined(self, key: PeerKey, process: Process) -> list[Peer]:
        """`process` connected as `key`. Returns the peers that this ends: earlier programs or lives of the same pid."""
        ended = [
            peer for peer in self if peer.process.pid == process.pid and (peer.key, peer.process) != (key, process)
        ]
        for peer in ended:
            del self._peers[peer.key]
        known = self._peers.get(key)
        self._peers[key] = Peer(key, process, connected=True) if known is None else replace(known, connected=True)
        return ended

    def disconnected(self, key: PeerKey) -> bool:
        """The connection of a living process ended. Returns whether that is news."""
        peer = self._peers.get(key)
        if peer is None or not peer.connected:
            return False
        self._peers[key] = replace(peer, connected=False)
        return True

    def died(self, key: PeerKey) -> Peer | None:
        """The process is dead: its peer, which is no longer here; None: it was gone already."""
        return self._peers.pop(key, None)

    def refused(self, key: PeerKey, count: int = 1) -> None:
        """Messages of the peer were refused."""
        peer = self._peers.get(key)
        if peer is not None:
            self._peers[key] = replace(peer, refused_messages=peer.refused_messages + count)

    def promise(self, key: PeerKey, gpu: str) -> Promise:
        """What the peer has on `gpu`; an empty promise when nothing is known."""
        peer = self._peers.get(key)
        return Promise() if peer is None else peer.promises.get(gpu, Promise())

    def set_promise(self, key: PeerKey, gpu: str, promise: Promise | None) -> bool:
        """Notes what the peer has on `gpu`; None: nothing, it left that GPU. Returns whether that is news."""
        peer = self._peers.get(key)
        if peer is None or peer.promises.get(gpu) == promise:
            return False
        promises = {name: one for name, one in peer.promises.items() if name != gpu}
        if promise is not None:
            promises[gpu] = promise
        self._peers[key] = replace(peer, promises=promises)
        return True
