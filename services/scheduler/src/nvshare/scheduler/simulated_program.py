"""A program under libnvshare, as the simulator plays it: it follows its grants and reports as the library does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nvshare.scheduler.clients import key_of
from nvshare.scheduler.model import ClientReported, ClientState, Grant, Limit, Link, Mode, Report
from nvshare.scheduler.policy import MILLISECOND_NS, SECOND_NS
from nvshare.scheduler.simulated_memory import REPORT_BYTES, SimulatedMemory, Swapping

if TYPE_CHECKING:
    from nvshare.scheduler.simulator import Simulation

BURST_NS = 4 * MILLISECOND_NS
"""Work in flight: once launched, it ends by itself after so long."""


@dataclass(frozen=True, slots=True)
class Allocate:
    """Take `size_bytes` more; without permission wait for it, beyond the limit do without."""

    size_bytes: int


@dataclass(frozen=True, slots=True)
class Free:
    """Give up to `size_bytes` back."""

    size_bytes: int


@dataclass(frozen=True, slots=True)
class Compute:
    """Keep the GPU busy for `duration_ns` of its time."""

    duration_ns: int


@dataclass(frozen=True, slots=True)
class Sleep:
    """Want nothing for `duration_ns`."""

    duration_ns: int


Step = Allocate | Free | Compute | Sleep


class Program:
    """One process. `done`: it went through all its steps, and ended."""

    def __init__(
        self,
        world: Simulation,
        allocation: str,
        pid: int,
        steps: Sequence[Step],
        keeps_memory_ns: int,
        swapping: Swapping,
    ) -> None:
        self.allocation = allocation
        self.pid = pid
        self.client = f"{pid}-{pid:016x}"
        self.key = key_of(allocation, self.client)
        self.keeps_memory_ns = keeps_memory_ns
        self.alive = False
        self.done = False
        self.link = Link.CONNECTED
        self.gang = False  # its work spans GPUs
        self.memory = SimulatedMemory(pid, world.card, world.link, swapping)
        self.refusals: list[Limit] = []
        self.longest_turn_wait_ns = 0
        self.longest_allocation_wait_ns = 0
        self.computed_ns = 0
        self.finished_ns = 0
        self.grant: Grant | None = None
        self.computes = False  # work is in flight
        self._world = world
        self._steps = list(steps)
        self._wanted_bytes = 0
        self._wanted_since_ns = 0
        self._demand_since_ns: int | None = None
        self._rest_ns: int | None = None  # of the step at hand; None: it has not begun
        self._stopped = False
        self._postponed: list[Callable[[], None]] = []
        self._sequence = 0
        self._launches = 0
        self._advancing = False

    @property
    def may_launch(self) -> bool:
        return self.grant is not None and self.grant.may_launch

    @property
    def footprint_bytes(self) -> int:
        return self.memory.footprint_bytes

    def start(self) -> None:
        """The process starts and connects."""
        self.alive = True
        self._world.relay_changed()
        self._beat()
        self._advance()

    def kill(self) -> None:
        """The process dies, at any time."""
        if self.alive:
            self.alive = False
            self.computes = False
            self._world.died(self)

    def stop(self, duration_ns: int) -> None:
        """SIGSTOP, and SIGCONT after `duration_ns`. Work in flight ends all the same; nobody notices."""
        self._stopped = True
        self._world.at(duration_ns, self._continue)

    def disconnect(self, duration_ns: int) -> None:
        """The connection to the relay breaks, and is back after `duration_ns`."""
        self.link = Link.DISCONNECTED
        self._world.relay_changed()
        self._world.at(duration_ns, self._reconnect)

    def receive(self, grant: Grant) -> None:
        """A grant arrives; it is applied if it is newer than the last one."""
        if self._stopped:
            self._postponed.append(lambda: self.receive(grant))
            return
        if not self.alive or self.link != Link.CONNECTED:
            return
        order = (grant.generation, grant.epoch, grant.sequence)
        if self.grant is None or order > (self.grant.generation, self.grant.epoch, self.grant.sequence):
            self.grant = grant
            self.memory.target_bytes = grant.ceiling_bytes
            self.memory.pool_wish_bytes = grant.pool_bytes
            self.memory.prepare(self._later, self._move)
            self._report()
            self._move()
            self._advance()

    def _move(self) -> None:
        """Goes on moving memory to where the grant wants it: out only when nothing is in flight. One that ends moves
        nothing any more."""
        if self.done or (self.memory.must_leave and self.computes):
            return
        before = self.memory.failures
        self.memory.step(self._world.now_ns, self._later, self._moved)
        if self.memory.failures > before:
            self._later(SECOND_NS // 2, self._move)

    def _moved(self) -> None:
        self._move()
        if not self.memory.moving or self.memory.unreported_bytes >= REPORT_BYTES:
            self.memory.unreported_bytes = 0
            self._report()
        self._advance()

    def _continue(self) -> None:
        self._stopped = False
        postponed, self._postponed = self._postponed, []
        for action in postponed:
            action()

    def _reconnect(self) -> None:
        self.link = Link.CONNECTED
        if self.alive:
            self._world.relay_changed()
            self._report()

    def _later(self, delay_ns: int, action: Callable[[], None]) -> None:
        """Does `action` in this process: not while it is stopped, and not when it is dead."""

        def act() -> None:
            if self._stopped:
                self._postponed.append(act)
            elif self.alive:
                action()

        self._world.at(delay_ns, act)

    def _beat(self) -> None:
        self._report()
        self._later(SECOND_NS, self._beat)

    def _report(self, leaving: bool = False) -> None:
        if self.link != Link.CONNECTED or self._stopped:
            return
        self._sequence += 1
        memory = self.memory
        state = ClientState.RUNNING if self.may_launch else ClientState.WAITING
        if self.computes and not self.may_launch:
            state = ClientState.DRAINING
        report = Report(
            sequence=self._sequence,
            generation=self.grant.generation if self.grant else 0,
            epoch=self.grant.epoch if self.grant else 0,
            state=state,
            demand=self._demand_since_ns is not None or self.computes,
            footprint_bytes=self.footprint_bytes,
            resident_bytes=memory.present_bytes,
            needed_bytes=memory.needed_bytes,
            wanted_bytes=self._wanted_bytes,
            wanted_needed_bytes=memory.needed_for(self._wanted_bytes),
            pinned_bytes=memory.pinned_bytes,
            host_room_bytes=memory.swapping.host_room_bytes,
            pool_bytes=memory.pool_ready_bytes,
            swapped_out_bytes=memory.swapped_out_bytes,
            swapped_in_bytes=memory.swapped_in_bytes,
            swap_out_us=memory.swap_out_ns // 1000,
            swap_in_us=memory.swap_in_ns // 1000,
            swap_failures=memory.failures,
            swaps=memory.swapping.swaps,
            gang=self.gang,
            allocation_waits=self._wanted_bytes > 0,
            launches=self._launches,
            monotonic_ns=self._world.now_ns,
            build="unknown",
            protocol=1,
            leaving=leaving,
        )
        self._world.reported(self, ClientReported(self.allocation, self.client, report))

    def _advance(self) -> None:
        """Goes on with the steps until one must wait."""
        if self._advancing or self._stopped or not self.alive:
            return
        self._advancing = True
        try:
            while self._steps and self._step(self._steps[0]):
                del self._steps[0]
            if not self._steps and not self.done:
                self.done = True
                self.finished_ns = self._world.now_ns
                self._report(leaving=True)
                self._later(MILLISECOND_NS, self.kill)
        finally:
            self._advancing = False

    def _step(self, step: Step) -> bool:
        """Does a step, or as much of it as is possible now. Whether it is done."""
        match step:
            case Allocate(size_bytes):
                return self._allocate(size_bytes)
            case Free(size_bytes):
                if self.memory.moving:
                    return False
                self._change_footprint(-min(size_bytes, self.footprint_bytes))
                return True
            case Compute(duration_ns):
                return self._compute(duration_ns)
            case Sleep(duration_ns):
                return self._sleep(duration_ns)

    def _allocate(self, size_bytes: int) -> bool:
        target_bytes = self.footprint_bytes + size_bytes
        grant = self.grant
        fits = grant is not None and self.memory.needed_for(target_bytes) <= grant.ceiling_bytes
        beyond = grant is not None and grant.limit_bytes and target_bytes > grant.limit_bytes
        if fits and not beyond and self.memory.all_present:
            self._note_allocation_wait()
            self._change_footprint(size_bytes)
            return True
        if grant is not None and beyond:
            self.refusals.append(grant.limited_by)
            self._note_allocation_wait()
            self._report()
            return True
        if self._wanted_bytes != target_bytes:
            self._wanted_bytes, self._wanted_since_ns = target_bytes, self._world.now_ns
            self._report()
        return False

    def _note_allocation_wait(self) -> None:
        if self._wanted_bytes:
            waited_ns = self._world.now_ns - self._wanted_since_ns
            self.longest_allocation_wait_ns = max(self.longest_allocation_wait_ns, waited_ns)
        self._wanted_bytes = 0

    def _change_footprint(self, size_bytes: int) -> None:
        managed = self.grant is not None and self.grant.mode != Mode.OFF
        self.memory.resize(self.footprint_bytes + size_bytes, managed)
        self._report()

    def _sleep(self, duration_ns: int) -> bool:
        if self._rest_ns is None:
            self._rest_ns = duration_ns
            self._later(duration_ns, self._wake)
        if self._rest_ns > 0:
            return False
        self._rest_ns = None
        return True

    def _wake(self) -> None:
        self._rest_ns = 0
        self._advance()

    def _compute(self, duration_ns: int) -> bool:
        if self._rest_ns is None:
            self._rest_ns = duration_ns
            self._demand_since_ns = self._world.now_ns
            self._report()
        if self.computes:
            return False
        if self._rest_ns <= 0:
            self._rest_ns = None
            self._demand_since_ns = None
            self._report()
            return True
        if self.may_launch and self.memory.all_present:
            self._launch()
        return False

    def _launch(self) -> None:
        if self._demand_since_ns is not None:
            self.longest_turn_wait_ns = max(self.longest_turn_wait_ns, self._world.now_ns - self._demand_since_ns)
        self._demand_since_ns = self._world.now_ns
        self.computes = True
        self._launches += 1
        self._world.launched(self)
        self._begin_burst()

    def _begin_burst(self) -> None:
        self._later(BURST_NS, self._burst_ends)

    def _burst_ends(self) -> None:
        self.computes = False
        self.computed_ns += BURST_NS
        self._rest_ns = (self._rest_ns or 0) - BURST_NS
        self._demand_since_ns = self._world.now_ns
        if not self.may_launch:
            self._report()
        self._move()
        self._advance()
