"""A discrete-event simulation of one GPU: arbiter, bus, relay, driver and programs, on a virtual clock.

Whole scenarios run in milliseconds, the same way each time for the same seed. The simulated card keeps its own account
of who holds what and who computes when, and raises ViolationError as soon as it is over its capacity: the arbiter is
judged by what happens, not by what it believes.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from nvshare.scheduler.arbiter import Arbiter
from nvshare.scheduler.clients import key_of
from nvshare.scheduler.history import RecordedArbiter
from nvshare.scheduler.model import (
    Allocation,
    ClientReported,
    Event,
    Grant,
    MemorySampled,
    Mode,
    ModeChanged,
    Peer,
    ProcessMemory,
    PublishEvent,
    RelayReported,
    SendGrant,
    Ticked,
)
from nvshare.scheduler.policy import MILLISECOND_NS, SECOND_NS, Policy
from nvshare.scheduler.simulated_memory import Link, Swapping
from nvshare.scheduler.simulated_program import Program, Step


class ViolationError(AssertionError):
    """The simulated world saw something that must never happen."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What the bus does to messages: the shares of them that are lost and doubled, and how late they come."""

    loss: float = 0.0
    duplication: float = 0.0
    least_delay_ns: int = 100_000
    most_delay_ns: int = 300_000


@dataclass(slots=True)
class Card:
    """The simulated card's own account."""

    capacity_bytes: int
    total_bytes: int
    held: dict[int, int] = field(default_factory=dict)  # by pid, dead ones included
    most_bytes: int = 0
    most_beyond_bytes: int = 0  # that programs took while nobody managed them

    @property
    def used_bytes(self) -> int:
        return sum(self.held.values())

    def take(self, pid: int, size_bytes: int, managed: bool) -> None:
        """A process allocates, or with a negative size frees. Raises ViolationError.

        What was taken beyond the capacity while sharing was off stays promised until it has left: a program that frees
        some of it may take that again.
        """
        self.held[pid] = self.held.get(pid, 0) + size_bytes
        if self.held[pid] < 0:
            raise ViolationError(f"process {pid} frees more than it has: {self.held}")
        used = self.used_bytes
        self.most_bytes = max(self.most_bytes, used)
        if not managed:
            self.most_beyond_bytes = max(self.most_beyond_bytes, used - self.capacity_bytes)
        elif size_bytes > 0 and used > self.capacity_bytes + self.most_beyond_bytes:
            raise ViolationError(f"{used} bytes in use of {self.capacity_bytes}: {self.held}")

    def free(self, pid: int) -> None:
        """The driver frees what a dead process had."""
        self.held.pop(pid, None)


@dataclass(slots=True)
class JournalEntry:
    """What the simulated relay has journaled about one client, as the real one does."""

    resident_bytes: int = 0
    grants: list[tuple[int, int, int]] = field(default_factory=list)  # generation, epoch, ceiling

    @property
    def promised_bytes(self) -> int:
        return max((ceiling for _, _, ceiling in self.grants), default=0)


class Simulation:
    """One GPU from the start of its scheduler. All times are of the virtual clock."""

    def __init__(
        self,
        mode: Mode,
        capacity_bytes: int,
        seed: int = 0,
        faults: Faults | None = None,
        quantum_ns: int = SECOND_NS,
        policy: Policy | None = None,
        link_bytes_per_second: int = 50_000_000_000,
        gpu: str = "GPU-simulated",
    ) -> None:
        self.now_ns = 100 * SECOND_NS
        self.gpu = gpu
        self.mode = mode
        self.card = Card(capacity_bytes, 4 * capacity_bytes)
        self.link = Link(link_bytes_per_second)
        self.quotas_bytes: dict[str, int] = {}
        self.groups: dict[str, str] = {}
        self.programs: list[Program] = []
        self.events: list[PublishEvent] = []
        self.recorded: RecordedArbiter | None = None
        self.exclusive = False  # a second program that computes at the same time is a violation
        self._random = Random(seed)
        self._faults = faults or Faults()
        self._quantum_ns = quantum_ns
        self._policy = policy or Policy()
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._journal: dict[str, JournalEntry] = {}
        self._relay_sequence = 0
        self._generation = 0
        self._tick_ns: int | None = None
        self._watches = 0
        self._last_sent: dict[str, tuple[int, int, int]] = {}
        self.start_scheduler()
        self._relay_beats()

    @property
    def arbiter(self) -> Arbiter:
        """The living scheduler's arbiter."""
        if self.recorded is None:
            raise RuntimeError("the scheduler is dead")
        return self.recorded.arbiter

    def at(self, delay_ns: int, action: Callable[[], None]) -> None:
        """Does `action` after `delay_ns`."""
        heapq.heappush(self._queue, (self.now_ns + delay_ns, next(self._order), action))

    def run(self, duration_ns: int) -> None:
        """Lets time pass."""
        end_ns = self.now_ns + duration_ns
        while self._queue and self._queue[0][0] <= end_ns:
            self.now_ns, _, action = heapq.heappop(self._queue)
            action()
        self.now_ns = end_ns

    def start_program(
        self,
        steps: Sequence[Step],
        allocation: str = "",
        start_ns: int = 0,
        keeps_memory_ns: int = MILLISECOND_NS,
        swapping: Swapping | None = None,
    ) -> Program:
        """A program starts after `start_ns`. When it is dead, its memory stays on the card for `keeps_memory_ns`."""
        pid = 1000 + len(self.programs)
        name = allocation or f"allocation-{pid}"
        program = Program(self, name, pid, steps, keeps_memory_ns, swapping or Swapping(swaps=False))
        self.programs.append(program)
        self.at(start_ns, program.start)
        return program

    def start_scheduler(self) -> None:
        """The scheduler starts, knowing nothing but its generation."""
        self._generation += 1
        arbiter = Arbiter.new(
            self.gpu,
            generation=self._generation,
            total_bytes=self.card.total_bytes,
            mode=self.mode,
            quantum_ns=self._quantum_ns,
            policy=self._policy,
            logical_capacity_bytes=self.card.capacity_bytes,
        )
        self.recorded = RecordedArbiter(arbiter, segment_entries=500, segments=1000)
        self._tick_ns = None
        self._watch_memory()

    def kill_scheduler(self) -> None:
        """The scheduler dies; messages to it are lost."""
        self.recorded = None

    def change_mode(self, mode: Mode) -> None:
        """A user asks for another mode."""
        self._tell(ModeChanged("", mode))
        self.mode = self.arbiter.state.mode

    def change_quota(self, allocation: str, memory_limit_bytes: int) -> None:
        """A user sets another memory quota; 0: none."""
        self.quotas_bytes[allocation] = memory_limit_bytes
        self.relay_changed()

    def launched(self, program: Program) -> None:
        """A program launches work. Raises ViolationError when it must be alone and is not."""
        others = [other.pid for other in self.programs if other.computes and other is not program]
        if self.exclusive and others:
            raise ViolationError(f"{program.pid} computes beside {others}")

    def died(self, program: Program) -> None:
        """A program's process is gone: the relay says so, the driver frees its memory when it likes."""
        self.at(program.keeps_memory_ns, lambda: self.card.free(program.pid))
        self.relay_changed()

    def reported(self, program: Program, event: ClientReported) -> None:
        """A report passes the relay, which reads it, and goes on over the bus."""
        entry = self._journal.setdefault(program.key, JournalEntry())
        entry.resident_bytes = event.report.resident_bytes
        in_force = (event.report.generation, event.report.epoch)
        entry.grants = [grant for grant in entry.grants if grant[:2] >= in_force]
        self._carry(lambda: self._tell(event))

    def relay_changed(self) -> None:
        """The relay publishes what it knows."""
        self._relay_sequence += 1
        living = [program for program in self.programs if program.alive]
        allocations = {
            name: Allocation(name, memory_limit_bytes=self.quotas_bytes.get(name, 0), group=self.groups.get(name, ""))
            for name in {program.allocation: None for program in living}
        }
        state = RelayReported(1, self._relay_sequence, tuple(allocations.values()), tuple(map(self._peer, living)))
        self._carry(lambda: self._tell(state))

    def _peer(self, program: Program) -> Peer:
        entry = self._journal.get(program.key)
        return Peer(
            program.allocation,
            program.client,
            program.pid,
            program.link,
            entry is not None,
            entry.resident_bytes if entry else 0,
            entry.promised_bytes if entry else 0,
        )

    def _relay_beats(self) -> None:
        self.relay_changed()
        self.at(SECOND_NS, self._relay_beats)

    def _carry(self, deliver: Callable[[], None]) -> None:
        """Brings a message over the bus, or not, or twice, and not always in order."""
        faults = self._faults
        copies = 0 if self._random.random() < faults.loss else 1 + (self._random.random() < faults.duplication)
        for _ in range(copies):
            self.at(self._random.randint(faults.least_delay_ns, faults.most_delay_ns), deliver)

    def _tell(self, event: Event) -> None:
        """The arbiter hears of an event; its commands are carried out."""
        if self.recorded is None:
            return
        for command in self.recorded.handle(event, self.now_ns):
            match command:
                case SendGrant():
                    self._send_grant(command)
                case PublishEvent():
                    self.events.append(command)
        self._check()
        if isinstance(event, RelayReported) and self._sample_interval_ns() < self._policy.sample_ns:
            self._watch_memory()
        deadline_ns = self.arbiter.next_deadline_ns()
        if deadline_ns is not None and (self._tick_ns is None or deadline_ns < self._tick_ns):
            self._tick_ns = deadline_ns
            self.at(max(0, deadline_ns - self.now_ns), self._tick)

    def _tick(self) -> None:
        self._tick_ns = None
        if self.recorded is not None:
            self._tell(Ticked())

    def _send_grant(self, command: SendGrant) -> None:
        key, grant = key_of(command.allocation, command.client), command.grant
        order = (grant.generation, grant.epoch, grant.sequence)
        if order <= self._last_sent.get(key, (0, 0, 0)):
            raise ViolationError(f"grant {order} to {key} after {self._last_sent[key]}")
        self._last_sent[key] = order
        self._carry(lambda: self._forward(key, grant))

    def _forward(self, key: str, grant: Grant) -> None:
        """A grant passes the relay, which journals it first."""
        program = next(program for program in self.programs if program.key == key)
        if not program.alive:
            return
        entry = self._journal.setdefault(key, JournalEntry())
        entry.grants.append((grant.generation, grant.epoch, grant.ceiling_bytes))
        self.at(self._faults.least_delay_ns, lambda: program.receive(grant))

    def _watch_memory(self) -> None:
        """The living scheduler reads the card's memory now, and again and again from now on."""
        self._watches += 1
        watch = self._watches

        def again() -> None:
            if self.recorded is not None and watch == self._watches:
                self._watch_memory()

        self._sample()
        self.at(self._sample_interval_ns(), again)

    def _sample_interval_ns(self) -> int:
        return self.arbiter.sample_interval_ns(self.now_ns)

    def _sample(self) -> None:
        """The scheduler reads the card's memory; the answer takes half a millisecond."""
        living = {program.pid for program in self.programs if program.alive}
        held = self.card.held.items()
        processes = tuple(ProcessMemory(pid, size, pid in living) for pid, size in held if size)
        sample = MemorySampled(self.now_ns, self.card.total_bytes, self.card.used_bytes, processes)
        self.at(MILLISECOND_NS // 2, lambda: self._tell(sample))

    def _check(self) -> None:
        """What must hold after each event: the arbiter counts with all that the card has by its own account, and no
        counter of it is below zero (E3)."""
        state = self.arbiter.state
        if self.card.used_bytes > state.promised_bytes and not state.blind:
            raise ViolationError(f"{state.promised_bytes} bytes are promised, and the card has {self.card.held}")
        counters = [state.promised_bytes, state.capacity_bytes(self._policy), state.card.baseline_bytes]
        counters += [client.charge_bytes for client in state.clients.values()]
        counters += [ghost.size_bytes for ghost in state.card.ghosts]
        if min(counters) < 0:
            raise ViolationError(f"a counter is below zero: {counters}")
