"""The card's memory: how much of it can be promised, and who holds some without being charged for it.

Three things are on a card beside the resident bytes of living clients: what living clients need beside them
(contexts, modules), what processes hold that are no clients ("strangers"), and what dead clients have not given back
("ghosts": forked workers can keep a dead parent's memory). The driver's samples tell them apart. A ghost counts with
what its client was charged until a sample that began after the death shows less.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from nvshare.scheduler.clients import Client
from nvshare.scheduler.model import MemorySampled, Owner
from nvshare.scheduler.policy import Policy


@dataclass(slots=True)
class Ghost:
    """A dead client whose memory the driver has not shown free yet."""

    client: str  # its key; empty: it died before this life of the scheduler
    pid: int
    size_bytes: int  # that it was charged with
    overhead_bytes: int  # beside its resident bytes
    died_ns: int
    fell_ns: int = 0  # when its size fell last


@dataclass(slots=True)
class Stranger:
    """A living process that holds memory on the card and is no client."""

    pid: int
    size_bytes: int
    owner: Owner = field(default_factory=Owner)


@dataclass(slots=True)
class CardMemory:
    """The account of one card. `logical_capacity_bytes` 0: the whole card."""

    logical_capacity_bytes: int
    total_bytes: int
    used_bytes: int = 0
    baseline_bytes: int = 0  # used, and no process's: the driver's own
    ghosts: list[Ghost] = field(default_factory=list)
    strangers: list[Stranger] = field(default_factory=list)
    last_death_ns: int | None = None
    lists_our_pids: bool | None = None  # the driver's list of processes names our clients; None: not known yet
    sampled_ns: int = 0  # when the last sample began

    @property
    def ghost_bytes(self) -> int:
        return sum(ghost.size_bytes for ghost in self.ghosts)

    @property
    def stranger_bytes(self) -> int:
        return sum(stranger.size_bytes for stranger in self.strangers)

    def lone_capacity_bytes(self, policy: Policy, overhead_bytes: int) -> int:
        """The most that a client which is alone on the card, and needs `overhead_bytes` beside, may need, in whole
        steps."""
        physical = self.total_bytes - policy.reserve_bytes - self.baseline_bytes - overhead_bytes
        return self._within_logical(max(0, physical) // policy.step_bytes * policy.step_bytes)

    def capacity_bytes(self, policy: Policy, clients: Collection[Client]) -> int:
        """What clients and ghosts together may have on the card."""
        overhead = sum(client.overhead_bytes for client in clients) + sum(g.overhead_bytes for g in self.ghosts)
        physical = self.total_bytes - policy.reserve_bytes - self.baseline_bytes - self.stranger_bytes - overhead
        return self._within_logical(max(0, physical))

    def _within_logical(self, physical_bytes: int) -> int:
        return min(self.logical_capacity_bytes, physical_bytes) if self.logical_capacity_bytes else physical_bytes

    def died(self, client: Client, now_ns: int) -> None:
        """A client is dead: what it was charged is not free yet."""
        self.last_death_ns = now_ns
        if client.charge_bytes > 0:
            size_bytes, overhead_bytes = client.charge_bytes, client.overhead_bytes
            self.ghosts.append(Ghost(client.key, client.pid, size_bytes, overhead_bytes, now_ns, now_ns))

    def sampled(self, sample: MemorySampled, clients: Sequence[Client], policy: Policy) -> list[Ghost]:
        """Takes over a sample of the driver. Gives the ghosts that are gone now."""
        self.total_bytes = sample.total_bytes
        self.used_bytes = sample.used_bytes
        self.sampled_ns = sample.started_ns
        by_pid = {process.pid: process.used_bytes for process in sample.processes}
        self._compare_pids(by_pid, clients)
        if self.lists_our_pids is False:
            by_pid = {}
        living = {client.pid for client in clients}
        known = living | {ghost.pid for ghost in self.ghosts}
        others = [process for process in sample.processes if process.pid in by_pid and process.pid not in known]
        strangers = [process for process in others if process.alive]
        self.strangers = [Stranger(process.pid, process.used_bytes, process.owner) for process in strangers]
        dead = [process for process in others if not process.alive]
        began_ns = sample.started_ns
        self.ghosts += [Ghost("", process.pid, process.used_bytes, 0, began_ns, began_ns) for process in dead]
        haunted = {ghost.pid for ghost in self.ghosts} - living
        steady = not any(client.resident_moved for client in clients)
        for client in clients:
            client.shown(by_pid.get(client.pid, 0) if self.lists_our_pids else None)
            _learn_overhead(client, sample.used_bytes)
        attributed = sum(by_pid.values())
        charged = attributed
        if not self.lists_our_pids:
            attributed += sum(_most_resident_bytes(client) + client.overhead_bytes for client in clients)
            charged += sum(_most_charged_bytes(client) + client.overhead_bytes for client in clients)
        unattributed = max(0, sample.used_bytes - attributed)
        for client in clients:
            client.resident_moved = client.moved_ns > sample.started_ns  # this sample may not show it yet
            client.most_resident_bytes = client.most_charged_bytes = 0
        if not self.ghosts:
            if not self.lists_our_pids and not steady:
                # While memory moves, a report and a sample that cross would show it as the driver's own.
                unattributed = min(unattributed, max(self.baseline_bytes, sample.used_bytes - charged))
            self.baseline_bytes = unattributed
            return []
        left = max(0, unattributed - self.baseline_bytes)
        settled: list[Ghost] = []
        back = {client.key for client in clients if not client.spoken}  # the relay had lost them: not dead at all
        for ghost in self.ghosts:
            if began_ns <= ghost.died_ns or ghost.client in back:
                continue
            own = by_pid.get(ghost.pid, 0) if ghost.pid in haunted else 0
            # What is shown counts as resident: nobody knows how much of it is not.
            if own + left < ghost.size_bytes:
                ghost.size_bytes, ghost.fell_ns = own + left, began_ns
            left -= min(left, max(0, ghost.size_bytes - own))
            if own == 0 and began_ns - ghost.fell_ns >= policy.ghost_lasting_ns:
                settled.append(ghost)
        tolerance = policy.ghost_tolerance_bytes
        gone = [ghost for ghost in self.ghosts if ghost.size_bytes <= tolerance and ghost.died_ns < began_ns]
        # What is of no process and stays is nobody's to wait for: from now on the card is smaller by it.
        self.baseline_bytes += sum(ghost.size_bytes for ghost in settled if ghost not in gone)
        self.ghosts = [ghost for ghost in self.ghosts if ghost not in gone and ghost not in settled]
        return gone

    def listed_bytes(self, pid: int) -> int | None:
        """What the last sample showed of a process that is no client yet, or was one. None: the driver does not list
        our processes, as far as is known."""
        if not self.lists_our_pids:
            return None
        ghosts_bytes = sum(ghost.size_bytes for ghost in self.ghosts if ghost.pid == pid)
        return ghosts_bytes + sum(stranger.size_bytes for stranger in self.strangers if stranger.pid == pid)

    def freeing_bytes(self, now_ns: int, policy: Policy) -> int:
        """What dead clients have just left, and the driver is about to free."""
        return sum(ghost.size_bytes for ghost in self.ghosts if now_ns - ghost.fell_ns < policy.death_watch_ns)

    def frees_memory(self, now_ns: int, policy: Policy) -> bool:
        """Whether a dead client's memory is still coming free: it fell lately."""
        return any(now_ns - ghost.fell_ns < policy.ghost_falling_ns for ghost in self.ghosts)

    def _compare_pids(self, by_pid: dict[int, int], clients: Sequence[Client]) -> None:
        """Learns whether the driver counts in our pid namespace. Inside a container it may not: then clients that have
        memory are missing, and the pids that it lists say nothing. One client that was listed once settles it: later
        ones that are missing are dead, and the relay has not said so yet."""
        if any(client.pid in by_pid for client in clients):
            self.lists_our_pids = True
        elif self.lists_our_pids is None:
            holders = [client for client in clients if client.resident_bytes > 0 and not client.resident_moved]
            self.lists_our_pids = False if holders else None

    def sample_interval_ns(self, now_ns: int, policy: Policy) -> int:
        """How long the next sample may wait."""
        if self.ghosts and self.last_death_ns is not None and now_ns - self.last_death_ns < policy.death_watch_ns:
            return policy.sample_after_death_ns
        return policy.sample_with_ghosts_ns if self.ghosts else policy.sample_ns


def _learn_overhead(client: Client, used_bytes: int) -> None:
    """Learns what the client needs beside its resident bytes: what it tells, or what the driver shows while these have
    not changed since the last sample (a report and a sample that cross would show what moves as overhead). Whatever it
    says, all that the driver shows of it is accounted for, and no more than that is believed."""
    told_bytes = client.report.external_bytes if client.report else 0
    listed_bytes = client.listed_bytes
    if listed_bytes is None:
        client.overhead_bytes = min(told_bytes, used_bytes)
        return
    uncharged_bytes = max(0, listed_bytes - _most_charged_bytes(client))
    if told_bytes:
        client.overhead_bytes = min(listed_bytes, max(told_bytes, uncharged_bytes))
    elif not client.resident_moved:
        client.overhead_bytes = max(0, listed_bytes - client.resident_bytes)
    else:
        client.overhead_bytes = max(client.overhead_bytes, uncharged_bytes)


def _most_resident_bytes(client: Client) -> int:
    """The most that it has said to have on the card since the last sample."""
    return max(client.most_resident_bytes, client.resident_bytes)


def _most_charged_bytes(client: Client) -> int:
    """The most that it was charged with since the last sample: what left meanwhile may still show in a sample."""
    return max(client.most_charged_bytes, client.charge_bytes)
