"""The coordinator of gangs: which clients that must run together may run now. Pure: claims and a time in, rulings out.

A gang's clients lie on several GPUs, each with an arbiter that knows only its own. Two gangs over the same two GPUs
would each be given one of them, and wait for each other for ever. So a gang has its places on all of its GPUs or on
none: the arbiters bring its clients in only when they are told, and the coordinator tells all of them in one go.

- A gang that wants to run waits in one queue with the clients that are in no gang, by the time since when they wait.
  It comes in when it fits on every one of its GPUs beside those whose quantum still runs. Until then its room is
  reserved: nobody who came later takes it. So the first of all that wait comes in within a quantum.
- Once all of it is there its quantum begins. When that is over, or the gang wants nothing, it leaves for those that
  wait and need its room; not before.
- It leaves in two steps. First all of its clients launch nothing more and keep their memory. Only when all are quiet
  do they give their places up. One rank may have launched its part of a collective that another was stopped before:
  then neither ends. If some are quiet and others are not after a while, all may launch for a moment, and are stopped
  again. What does not come to rest in 5 s keeps its places for another quantum, and an event says so.
- A gang whose room does not become free (who has it does not leave) gives up what it got, and tries again later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from nvshare.scheduler.model import GangRuling, PublishEvent, Ruling
from nvshare.scheduler.places import Claim, GpuClaims, Places, Wants, fits_alone
from nvshare.scheduler.policy import MILLISECOND_NS, SECOND_NS


@dataclass(frozen=True, slots=True)
class GangPolicy:
    """The numbers that the coordinator decides by."""

    drain_limit_ns: int = 5 * SECOND_NS
    """A gang that is not quiet after so long keeps its places for another quantum."""

    patience_ns: int = 100 * MILLISECOND_NS
    """For so long nobody minds that some of a gang are quiet and others are not; twice as long after each try."""

    breath_ns: int = 20 * MILLISECOND_NS
    """For so long it may launch again, so that those that were stopped too early catch up."""

    assembly_limit_ns: int = 5 * SECOND_NS
    """A gang that comes in and gets nothing more for so long gives up what it got."""


class Phase(Enum):
    """Where a gang stands."""

    OUT = "out"
    IN = "in"  # has its places, or comes into them
    PAUSED = "paused"  # is to leave: keeps its places, launches nothing
    BREATHING = "breathing"  # is to leave, and may launch for a moment, so that it comes to rest


@dataclass(slots=True)
class Turn:
    """What the coordinator remembers of a gang."""

    phase: Phase
    since_ns: int  # of the phase
    waiting_ns: int | None = None  # OUT: since when it wants to run. Else: its place in the queue when it came in
    whole_ns: int | None = None  # IN: since when all of it is there
    resident_bytes: int = 0  # IN: at the last look
    progress_ns: int = 0  # IN: when that changed last
    revoked_ns: int = 0  # when it was told to leave
    tries: int = 0  # to come to rest
    not_before_ns: int = 0  # OUT: when it may come in again


@dataclass(frozen=True, slots=True)
class Rulings:
    """What the coordinator says."""

    members: Mapping[str, tuple[GangRuling, ...]]  # by GPU; who is not named is in no gang
    events: tuple[tuple[str, PublishEvent], ...] = ()  # with the GPU that each is about
    wake_ns: int | None = None  # when to ask again although nothing happened


@dataclass(slots=True)
class _Gang:
    """A gang as it is now."""

    name: str
    wants: Wants
    serial: frozenset[str]  # its GPUs that run one client at a time
    quantum_ns: int
    turn: Turn

    @property
    def claims(self) -> list[Claim]:
        return [claim for claims in self.wants.values() for claim in claims]

    @property
    def demand(self) -> bool:
        return any(claim.demand for claim in self.claims)

    @property
    def whole(self) -> bool:
        return all(
            (any if gpu in self.serial else all)(claim.placed and claim.arrived for claim in claims)
            for gpu, claims in self.wants.items()
        )

    @property
    def quiet(self) -> bool:
        return all(claim.quiet for claim in self.claims)

    @property
    def leaving(self) -> bool:
        return self.turn.phase in (Phase.PAUSED, Phase.BREATHING)

    def turn_ends_ns(self, policy: GangPolicy) -> int:
        """When its quantum is over. One that is not whole yet has not begun."""
        began_ns = self.turn.whole_ns
        return (self.turn.progress_ns + policy.assembly_limit_ns if began_ns is None else began_ns) + self.quantum_ns


@dataclass(slots=True)
class Coordinator:
    """One for a node. Keeps what it must remember from one ruling to the next."""

    policy: GangPolicy = field(default_factory=GangPolicy)
    turns: dict[str, Turn] = field(default_factory=dict)
    too_large: set[str] = field(default_factory=set)  # gangs of which that was said

    def rule(self, gpus: Sequence[GpuClaims], now_ns: int) -> Rulings:
        """Decides anew from all claims. `now_ns` never falls."""
        gpus = sorted(gpus, key=lambda gpu: gpu.gpu)  # one order of the GPUs, the same for every gang
        events: list[tuple[str, PublishEvent]] = []
        gangs = self._gangs(gpus, now_ns, events)
        for gang in gangs:
            self._look(gang, now_ns, events)
        self._let_leave(gpus, gangs, now_ns)
        waiting = self._let_come(gpus, gangs, now_ns)
        members = {gpu.gpu: tuple(_members(gpu.gpu, gangs, waiting)) for gpu in gpus}
        return Rulings(members, tuple(events), self._wake_ns(gpus, gangs, waiting, now_ns))

    def _gangs(self, gpus: Sequence[GpuClaims], now_ns: int, events: list[tuple[str, PublishEvent]]) -> list[_Gang]:
        """The gangs that span several GPUs and can be on all of them at once."""
        wants: dict[str, dict[str, list[Claim]]] = {}
        for gpu in gpus:
            for claim in gpu.claims:
                if claim.gang:
                    wants.setdefault(claim.gang, {}).setdefault(gpu.gpu, []).append(claim)
        by_name = {gpu.gpu: gpu for gpu in gpus}
        found = []
        for name, own in sorted(wants.items()):
            if len(own) < 2:
                continue
            if not fits_alone(gpus, own):
                if name not in self.too_large:
                    self.too_large.add(name)
                    text = f"the programs of {name} depend on each other and do not fit together: each is on its own"
                    events += _everywhere(own, "gang-too-large", name, text)
                continue
            self.too_large.discard(name)
            serial = frozenset(gpu for gpu in own if by_name[gpu].serial)
            quantum_ns = max(by_name[gpu].quantum_ns for gpu in own)
            gang = _Gang(name, own, serial, quantum_ns, Turn(Phase.OUT, now_ns))
            gang.turn = self.turns.get(name) or _first_turn(gang, now_ns)
            found.append(gang)
        self.turns = {gang.name: gang.turn for gang in found}
        self.too_large &= set(wants)
        return found

    def _look(self, gang: _Gang, now_ns: int, events: list[tuple[str, PublishEvent]]) -> None:
        """What has happened to a gang by itself."""
        turn = gang.turn
        match turn.phase:
            case Phase.OUT:
                if not gang.demand:
                    turn.waiting_ns = None
                elif turn.waiting_ns is None:
                    turn.waiting_ns = now_ns
            case Phase.IN:
                self._look_at_assembly(gang, now_ns, events)
            case Phase.PAUSED:
                if gang.quiet:
                    _go_out(gang, now_ns)
                elif now_ns >= turn.revoked_ns + self.policy.drain_limit_ns:
                    seconds = self.policy.drain_limit_ns // SECOND_NS
                    text = f"the programs of {gang.name} do not come to rest within {seconds} s: they go on"
                    events += _everywhere(gang.wants, "gang-kept", gang.name, text)
                    gang.turn = self.turns[gang.name] = Turn(Phase.IN, now_ns, turn.waiting_ns, now_ns, 0, now_ns)
                elif now_ns >= self._patience_ends_ns(turn) and any(claim.quiet for claim in gang.claims):
                    turn.phase, turn.since_ns = Phase.BREATHING, now_ns
            case Phase.BREATHING:
                if now_ns >= turn.since_ns + self.policy.breath_ns:
                    turn.phase, turn.since_ns = Phase.PAUSED, now_ns
                    turn.tries += 1

    def _look_at_assembly(self, gang: _Gang, now_ns: int, events: list[tuple[str, PublishEvent]]) -> None:
        turn = gang.turn
        resident_bytes = sum(claim.resident_bytes for claim in gang.claims)
        if resident_bytes != turn.resident_bytes:
            turn.resident_bytes, turn.progress_ns = resident_bytes, now_ns
        if gang.whole:
            if turn.whole_ns is None:
                turn.whole_ns = now_ns
                waited_ms = (now_ns - turn.since_ns) / MILLISECOND_NS
                text = f"the programs of {gang.name} are together on their GPUs after {waited_ms:.0f} ms"
                events += _everywhere(gang.wants, "gang-in", gang.name, text)
        elif gang.demand and turn.whole_ns is None and now_ns >= turn.progress_ns + self.policy.assembly_limit_ns:
            seconds = self.policy.assembly_limit_ns // SECOND_NS
            text = f"the programs of {gang.name} get no room on all of their GPUs within {seconds} s: others go first"
            events += _everywhere(gang.wants, "gang-gave-up", gang.name, text)
            self._pause(gang, now_ns)
            turn.not_before_ns = now_ns + gang.quantum_ns

    def _let_leave(self, gpus: Sequence[GpuClaims], gangs: Sequence[_Gang], now_ns: int) -> None:
        """Stops those whose turn is over, or who want nothing, where somebody who waits can come in for it."""
        places, reserved = Places(gpus, ghosts=False), Places(gpus, ghosts=False)
        for name, wants in self._firm(gpus, gangs, now_ns):
            places.take(name, wants)
            reserved.take(name, wants)
        ended = []
        inside = [gang for gang in gangs if gang.turn.phase != Phase.OUT]
        for gang in sorted(inside, key=lambda gang: (not gang.leaving, gang.turn.since_ns, gang.name)):
            runs = gang.demand and now_ns < gang.turn_ends_ns(self.policy)
            if gang.leaving or (runs and places.fits(gang.name, gang.wants)):
                places.take(gang.name, gang.wants)
                reserved.take(gang.name, gang.wants)
            else:
                ended.append(gang)
        for _, name, wants, _ in _queue(gpus, gangs, now_ns):
            if reserved.fits(name, wants):
                places.take(name, wants)
            reserved.take(name, wants)
        for gang in sorted(ended, key=lambda gang: (not gang.demand, gang.turn_ends_ns(self.policy), gang.name)):
            if places.fits(gang.name, gang.wants):
                places.take(gang.name, gang.wants)
            else:
                self._pause(gang, now_ns)

    def _let_come(self, gpus: Sequence[GpuClaims], gangs: Sequence[_Gang], now_ns: int) -> set[str]:
        """Lets those in that fit, in the order of the queue. Gives the gangs that wait on, with their room reserved."""
        places = Places(gpus)
        for name, wants in self._firm(gpus, gangs, now_ns):
            places.take(name, wants)
        for gang in gangs:
            if gang.turn.phase != Phase.OUT:
                places.take(gang.name, gang.wants)
        waiting = set()
        for _, name, wants, coming in _queue(gpus, gangs, now_ns):
            if coming is not None and places.fits(name, wants):
                turn = coming.turn
                turn.phase, turn.since_ns, turn.progress_ns, turn.whole_ns = Phase.IN, now_ns, now_ns, None
                turn.resident_bytes = sum(claim.resident_bytes for claim in coming.claims)
            elif coming is not None:
                waiting.add(name)
            places.take(name, wants)
        return waiting

    def _firm(self, gpus: Sequence[GpuClaims], gangs: Sequence[_Gang], now_ns: int) -> list[tuple[str, Wants]]:
        """The clients in no gang whose quantum still runs."""
        return [
            (claim.key, {gpu.gpu: [claim]})
            for gpu in gpus
            for claim in _singles(gpu, gangs)
            if claim.placed and claim.demand and now_ns < claim.ends_ns
        ]

    def _pause(self, gang: _Gang, now_ns: int) -> None:
        turn = gang.turn
        turn.phase, turn.since_ns, turn.revoked_ns, turn.tries = Phase.PAUSED, now_ns, now_ns, 0
        if gang.quiet and not any(claim.placed for claim in gang.claims):
            _go_out(gang, now_ns)

    def _patience_ends_ns(self, turn: Turn) -> int:
        return turn.since_ns + (self.policy.patience_ns << turn.tries)

    def _wake_ns(self, gpus: Sequence[GpuClaims], gangs: Sequence[_Gang], waiting: set[str], now_ns: int) -> int | None:
        """The next time at which something here can change by itself."""
        times = []
        for gang in gangs:
            turn = gang.turn
            match turn.phase:
                case Phase.IN:
                    times.append(gang.turn_ends_ns(self.policy))
                    if turn.whole_ns is None:
                        times.append(turn.progress_ns + self.policy.assembly_limit_ns)
                case Phase.PAUSED:
                    times += [self._patience_ends_ns(turn), turn.revoked_ns + self.policy.drain_limit_ns]
                case Phase.BREATHING:
                    times.append(turn.since_ns + self.policy.breath_ns)
                case Phase.OUT:
                    times.append(turn.not_before_ns)
        for gang in gangs:
            times += [claim.demand_ends_ns for claim in gang.claims]
        if waiting:
            for gpu in gpus:
                times += [claim.ends_ns for claim in _singles(gpu, gangs) if claim.placed]
        return min((time_ns for time_ns in times if time_ns > now_ns), default=None)


def _first_turn(gang: _Gang, now_ns: int) -> Turn:
    """Of a gang that was none until now: programs begin alone and join, or the scheduler was restarted. One that has
    all its places keeps them for a quantum; of another one what has begun must end first."""
    if gang.whole:
        return Turn(Phase.IN, now_ns, now_ns, whole_ns=now_ns, progress_ns=now_ns)
    waits_ns = [claim.waiting_ns for claim in gang.claims if claim.waiting_ns is not None]
    phase = Phase.OUT if gang.quiet else Phase.PAUSED
    return Turn(phase, now_ns, min(waits_ns, default=None), revoked_ns=now_ns)


def _go_out(gang: _Gang, now_ns: int) -> None:
    turn = gang.turn
    if not gang.demand:
        turn.waiting_ns = None
    elif turn.whole_ns is not None or turn.waiting_ns is None:
        turn.waiting_ns = now_ns  # it had its turn, and goes to the end of the queue
    turn.phase, turn.since_ns, turn.whole_ns = Phase.OUT, now_ns, None


def _singles(gpu: GpuClaims, gangs: Sequence[_Gang]) -> list[Claim]:
    """The clients that are in no gang that is coordinated."""
    names = {gang.name for gang in gangs}
    return [claim for claim in gpu.claims if claim.gang not in names]


def _queue(
    gpus: Sequence[GpuClaims], gangs: Sequence[_Gang], now_ns: int
) -> list[tuple[int, str, Wants, _Gang | None]]:
    """All that wait and whose time can come, in their order: since when, a name, what it wants, and the gang if it is
    one."""
    possible = Places(gpus, ghosts=False)
    queue: list[tuple[int, str, Wants, _Gang | None]] = []
    for gpu in gpus:
        for claim in _singles(gpu, gangs):
            wants = {gpu.gpu: [claim]}
            if claim.waiting_ns is not None and not claim.placed and possible.fits(claim.key, wants):
                queue.append((claim.waiting_ns, claim.key, wants, None))
    for gang in gangs:
        turn = gang.turn
        waits = turn.phase == Phase.OUT and turn.waiting_ns is not None and now_ns >= turn.not_before_ns
        if waits and turn.waiting_ns is not None and possible.fits(gang.name, gang.wants):
            queue.append((turn.waiting_ns, gang.name, gang.wants, gang))
    return sorted(queue, key=lambda entry: entry[:2])


def _members(gpu: str, gangs: Sequence[_Gang], waiting: set[str]) -> list[GangRuling]:
    """What each client on this GPU that is in a gang is told."""
    ruled = []
    for gang in gangs:
        match gang.turn.phase:
            case Phase.IN | Phase.BREATHING:
                ruling = Ruling.IN
            case Phase.PAUSED:
                ruling = Ruling.PAUSED
            case Phase.OUT:
                ruling = Ruling.NEXT if gang.name in waiting else Ruling.OUT
        since_ns = gang.turn.waiting_ns if gang.turn.waiting_ns is not None else gang.turn.since_ns
        ruled += [GangRuling(claim.key, gang.name, ruling, since_ns) for claim in gang.wants.get(gpu, ())]
    return ruled


def _everywhere(wants: Wants, kind: str, gang: str, text: str) -> list[tuple[str, PublishEvent]]:
    return [(gpu, PublishEvent(kind, text, gang)) for gpu in wants]
