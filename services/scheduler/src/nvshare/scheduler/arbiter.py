"""The arbiter of one GPU: facts in, grants out. It has no clock, no bus and no thread: time comes in with each call.

Every call takes over one fact and then makes the plan anew (`plan.py`): who is promised how much memory
(`residency.py`), who may launch (`turns.py`).
"""

from __future__ import annotations

from nvshare.scheduler.card import CardMemory
from nvshare.scheduler.clients import key_of
from nvshare.scheduler.model import (
    ClientReported,
    Command,
    Event,
    GangsRuled,
    MemorySampled,
    Mode,
    ModeChanged,
    PublishEvent,
    QuantumChanged,
    RelayReported,
    Ticked,
)
from nvshare.scheduler.owners import unmanaged_words
from nvshare.scheduler.plan import make_plan, repair
from nvshare.scheduler.policy import SECOND_NS, Policy
from nvshare.scheduler.registry import take_relay_state, take_report, take_rulings
from nvshare.scheduler.requests import change_mode, change_quantum
from nvshare.scheduler.state import ArbiterState


class Arbiter:
    """One for each GPU. `handle` and `tick` give the commands to carry out, in this order."""

    def __init__(self, state: ArbiterState, policy: Policy) -> None:
        self.state = state
        self.policy = policy

    @classmethod
    def new(
        cls,
        gpu: str,
        *,
        generation: int,
        total_bytes: int,
        mode: Mode,
        quantum_ns: int,
        policy: Policy,
        logical_capacity_bytes: int = 0,
        max_wait_ns: int = 30 * SECOND_NS,
    ) -> Arbiter:
        """An arbiter that knows nobody yet.

        `generation` must be greater than that of every arbiter that this GPU had before. `total_bytes` is the card's
        memory, `logical_capacity_bytes` a smaller amount to share; 0: the whole card. `quantum_ns` 0: automatic, while
        nobody should wait for longer than `max_wait_ns`.
        """
        card = CardMemory(logical_capacity_bytes, total_bytes)
        first_ns = quantum_ns or policy.quiet_quantum_ns
        return cls(ArbiterState(gpu, generation, mode, first_ns, card, quantum_ns, max_wait_ns), policy)

    def handle(self, event: Event, now_ns: int) -> list[Command]:
        """Takes over one fact, and decides. `now_ns` is CLOCK_MONOTONIC and never falls."""
        said: list[Command] = []
        match event:
            case ClientReported():
                said += take_report(self.state, event, now_ns, self.policy)
            case RelayReported():
                said += take_relay_state(self.state, event, now_ns, self.policy)
            case MemorySampled():
                said += self._take_sample(event, now_ns)
            case ModeChanged():
                said += change_mode(self.state, event, self.policy)
            case QuantumChanged():
                said += change_quantum(self.state, event, self.policy)
            case GangsRuled():
                take_rulings(self.state, event)
            case Ticked():
                pass
        commands = make_plan(self.state, now_ns, self.policy)
        if isinstance(event, ClientReported):
            client = self.state.clients.get(key_of(event.allocation, event.client))
            if client is not None:
                commands += repair(self.state, client, now_ns, self.policy)
        return commands + said

    def tick(self, now_ns: int) -> list[Command]:
        """Decides again because time has passed."""
        return self.handle(Ticked(), now_ns)

    def next_deadline_ns(self) -> int | None:
        """When `tick` must be called if nothing happens before. None: never."""
        return self.state.wake_ns

    def hands_over(self) -> bool:
        """Whether the GPU was taken from one client and is not given to the next yet."""
        clients = self.state.clients.values()
        return any(client.demand for client in clients) and not any(client.holds_now() for client in clients)

    def sample_interval_ns(self, now_ns: int) -> int:
        """How long the next memory sample may wait."""
        if self.state.blind and self.state.relay_known_ns is not None:
            return self.policy.sample_after_death_ns
        return self.state.card.sample_interval_ns(now_ns, self.policy)

    def _take_sample(self, sample: MemorySampled, now_ns: int) -> list[PublishEvent]:
        card = self.state.card
        known = {stranger.pid for stranger in card.strangers}
        events = []
        for ghost in card.sampled(sample, list(self.state.clients.values()), self.policy):
            allocation, _, client = ghost.client.partition("/")
            text = f"the memory of {client or 'dead process ' + str(ghost.pid)} is free again"
            events.append(PublishEvent("memory-freed", text, allocation, client, duration_ns=now_ns - ghost.died_ns))
        for stranger in card.strangers:
            if stranger.pid not in known:
                allocations = self.state.allocations.values()
                text = unmanaged_words(stranger.pid, stranger.size_bytes, stranger.owner, allocations)
                events.append(PublishEvent("unmanaged-process", text, size_bytes=stranger.size_bytes))
        return events
