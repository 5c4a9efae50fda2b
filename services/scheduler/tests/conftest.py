"""A desk to test an arbiter from: it plays the relay, the driver and well-behaved clients, one step at a time."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from nvshare.scheduler.arbiter import Arbiter
from nvshare.scheduler.model import (
    Allocation,
    Answer,
    ClientReported,
    ClientState,
    Command,
    Grant,
    Link,
    MemorySampled,
    Mode,
    ModeChanged,
    Peer,
    ProcessMemory,
    PublishEvent,
    QuantumChanged,
    RelayReported,
    Report,
    SendGrant,
)
from nvshare.scheduler.policy import GIB, MILLISECOND_NS, SECOND_NS, Policy

GPU = "GPU-00000000-0000-0000-0000-000000000001"


@dataclass
class Program:
    """One client as the desk plays it: its last report, and the newest grant that was sent to it."""

    name: str
    peer: Peer
    report: Report
    grant: Grant | None = None
    sent: list[Grant] = field(default_factory=list)


class Desk:
    """Drives one arbiter. Time stands still until `pass_time`."""

    def __init__(self, mode: Mode, capacity_bytes: int, generation: int, policy: Policy, now_ns: int) -> None:
        self.policy = policy
        self.now_ns = now_ns
        self.arbiter = Arbiter.new(
            GPU,
            generation=generation,
            total_bytes=4 * capacity_bytes,
            mode=mode,
            quantum_ns=2 * SECOND_NS,
            policy=policy,
            logical_capacity_bytes=capacity_bytes,
        )
        self.programs: dict[str, Program] = {}
        self.allocations: dict[str, Allocation] = {}
        self.relay_sequence = 0
        self.events: list[PublishEvent] = []
        self.answers: list[Answer] = []

    def relay(self) -> None:
        """The relay says who lives."""
        self.relay_sequence += 1
        peers = tuple(program.peer for program in self.programs.values())
        state = RelayReported(1, self.relay_sequence, tuple(self.allocations.values()), peers)
        self.take(self.arbiter.handle(state, self.now_ns))
        if self.arbiter.state.blind:
            self.sample(0)

    def start(self, name: str, allocation: str = "", limit_bytes: int = 0, **peer: Any) -> Program:
        """A program starts and connects; it has not reported."""
        allocation = allocation or f"allocation-{name}"
        self.allocations.setdefault(allocation, Allocation(allocation, memory_limit_bytes=limit_bytes))
        pid = 1000 + len(self.programs)
        program = Program(name, Peer(allocation, f"{pid}-{name}", pid, **peer), Report(0, protocol=1, build="unknown"))
        self.programs[name] = program
        self.relay()
        return program

    def join(self, name: str, allocation: str = "", limit_bytes: int = 0, **report: Any) -> Program:
        """A program starts, connects, and reports."""
        program = self.start(name, allocation, limit_bytes)
        self.report(name, **report)
        return program

    def report(self, name: str, **changes: Any) -> None:
        """The program reports its state with these changes. It has not applied a grant unless `follow` said so, but has
        the pinned host memory that it should."""
        program = self.programs[name]
        if program.grant is not None:
            changes = {"pool_bytes": program.grant.pool_bytes, **changes}
        sequence = program.report.sequence + 1
        program.report = replace(program.report, sequence=sequence, monotonic_ns=self.now_ns, **changes)
        event = ClientReported(program.peer.allocation, program.peer.client, program.report)
        self.take(self.arbiter.handle(event, self.now_ns))

    def follow(self, name: str, **changes: Any) -> None:
        """The program applies the newest grant and reports it, with the state that follows from it."""
        grant = self.programs[name].grant
        assert grant is not None, f"{name} has no grant"
        state = ClientState.RUNNING if grant.may_launch else ClientState.WAITING
        changes = {"generation": grant.generation, "epoch": grant.epoch, "state": state, **changes}
        self.report(name, **changes)

    def allocate(self, name: str, footprint_bytes: int) -> bool:
        """The program grows to `footprint_bytes`, asking when its grant does not allow it. Whether it got there."""
        self.follow(name)
        if footprint_bytes > self.grant(name).ceiling_bytes:
            self.follow(name, wanted_bytes=footprint_bytes, allocation_waits=True)
            for other in self.programs:
                if self.programs[other].report.sequence > 0:
                    self.follow(other)
        if footprint_bytes > self.grant(name).ceiling_bytes:
            return False
        self.follow(name, footprint_bytes=footprint_bytes, wanted_bytes=0, allocation_waits=False)
        return True

    def kill(self, name: str) -> None:
        """The program dies, and the relay says so."""
        del self.programs[name]
        self.relay()

    def connect(self, name: str, link: Link) -> None:
        """The program's connection comes or goes."""
        self.programs[name].peer = replace(self.programs[name].peer, link=link)
        self.relay()

    def sample(self, used_bytes: int, by_pid: dict[int, int] | None = None, started_ns: int | None = None) -> None:
        """The driver shows the card's memory."""
        processes = tuple(ProcessMemory(pid, size) for pid, size in (by_pid or {}).items())
        began_ns = self.now_ns if started_ns is None else started_ns
        total_bytes = self.arbiter.state.card.total_bytes
        self.take(self.arbiter.handle(MemorySampled(began_ns, total_bytes, used_bytes, processes), self.now_ns))

    def mode(self, mode: Mode) -> str:
        """A user asks for a mode. Gives the refusal."""
        self.take(self.arbiter.handle(ModeChanged("request", mode), self.now_ns))
        return self.answers[-1].error

    def quantum(self, quantum_ns: int) -> str:
        """A user asks for a quantum. Gives the refusal."""
        self.take(self.arbiter.handle(QuantumChanged("request", quantum_ns), self.now_ns))
        return self.answers[-1].error

    def pass_time(self, duration_ns: int, heartbeats: bool = True) -> None:
        """Time passes, with the arbiter's deadlines and each program's report every half second."""
        end_ns = self.now_ns + duration_ns
        beat_ns = self.now_ns + SECOND_NS // 2
        while self.now_ns < end_ns:
            deadline_ns = self.arbiter.next_deadline_ns()
            if deadline_ns is not None and deadline_ns <= min(end_ns, beat_ns):
                assert deadline_ns > self.now_ns or deadline_ns == self.now_ns, "a deadline in the past"
                self.now_ns = max(self.now_ns, deadline_ns)
                before = deadline_ns
                self.take(self.arbiter.tick(self.now_ns))
                after = self.arbiter.next_deadline_ns()
                assert after is None or after > before, "the arbiter asks for the same deadline again"
                continue
            self.now_ns = min(end_ns, beat_ns)
            if self.now_ns == beat_ns:
                beat_ns += SECOND_NS // 2
                for name in list(self.programs) if heartbeats else []:
                    if self.programs[name].report.sequence > 0:
                        self.report(name)

    def grant(self, name: str) -> Grant:
        """The newest grant that was sent to the program."""
        grant = self.programs[name].grant
        assert grant is not None, f"{name} has no grant"
        return grant

    def kinds(self) -> list[str]:
        """The kinds of the events so far."""
        return [event.kind for event in self.events]

    def text(self, kind: str) -> str:
        """The text of the newest event of this kind."""
        return [event.text for event in self.events if event.kind == kind][-1]

    def take(self, commands: list[Command]) -> None:
        """Delivers commands, and checks what must hold after every step."""
        by_client = {program.peer.client: program for program in self.programs.values()}
        for command in commands:
            match command:
                case SendGrant():
                    program = by_client[command.client]
                    if program.grant is not None and program.grant.generation == command.grant.generation:
                        order = (program.grant.epoch, program.grant.sequence)
                        assert (command.grant.epoch, command.grant.sequence) > order
                    program.grant = command.grant
                    program.sent.append(command.grant)
                case PublishEvent():
                    self.events.append(command)
                case Answer():
                    self.answers.append(command)


class MakeDesk:
    """Makes desks: `make_desk(Mode.SERIAL, capacity_bytes=16 * GIB)`."""

    def __call__(
        self,
        mode: Mode = Mode.CONCURRENT,
        capacity_bytes: int = 16 * GIB,
        generation: int = 1,
        policy: Policy | None = None,
        now_ns: int = 1000 * SECOND_NS,
    ) -> Desk:
        return Desk(mode, capacity_bytes, generation, policy or Policy(), now_ns)


@pytest.fixture
def make_desk() -> MakeDesk:
    """Gives `make_desk(mode, capacity_bytes, …)`."""
    return MakeDesk()


__all__ = ["GIB", "GPU", "MILLISECOND_NS", "Desk", "MakeDesk"]
