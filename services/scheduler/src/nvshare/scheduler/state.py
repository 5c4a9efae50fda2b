"""All that an arbiter remembers: plain data, so that it can be written down and gone on from."""

from __future__ import annotations

from dataclasses import dataclass, field

from nvshare.scheduler.card import CardMemory
from nvshare.scheduler.clients import Client
from nvshare.scheduler.model import Allocation, ClientReported, Mode
from nvshare.scheduler.policy import Policy
from nvshare.scheduler.quantum import Moved
from nvshare.scheduler.turns import Turns


@dataclass(slots=True)
class EarlyReport:
    """A report that came before the relay's word about its sender."""

    reported: ClientReported
    came_ns: int


@dataclass(slots=True)
class ArbiterState:
    """The state of the arbiter of one GPU."""

    gpu: str
    generation: int
    mode: Mode
    quantum_ns: int  # in force
    card: CardMemory
    fixed_quantum_ns: int = 0  # as it was set; 0: automatic
    max_wait_ns: int = 0
    clients: dict[str, Client] = field(default_factory=dict)
    allocations: dict[str, Allocation] = field(default_factory=dict)
    turns: Turns = field(default_factory=Turns)
    yielding: Turns = field(default_factory=Turns)  # of several best-effort clients beside others
    early: dict[str, EarlyReport] = field(default_factory=dict)
    relay_generation: int = 0
    relay_sequence: int = 0
    relay_heard_ns: int | None = None  # last
    relay_known_ns: int | None = None  # first
    settle_until_ns: int | None = None  # None: settled, or the relay has not spoken yet
    registrations: int = 0
    plan_epoch: int = 0
    latest_epoch: int = 0  # the greatest of all grants
    deadlock_since_ns: int | None = None
    wake_ns: int | None = None  # when to decide again although nothing happens
    moved: Moved = field(default_factory=Moved)
    weighed_to: int = 0  # the step up to which it is known who had the card: see activity.py
    hand_overs: int = 0  # clients for which others had to leave
    refused_reports: int = 0  # of unknown clients, of another protocol, or impossible
    stale_reports: int = 0  # older than the last, or repeated

    @property
    def blind(self) -> bool:
        """Whether nothing can be promised yet: nobody knows who lives, or what the dead have left on the card."""
        return self.relay_known_ns is None or self.card.sampled_ns < self.relay_known_ns

    @property
    def settling(self) -> bool:
        """Whether clients of an earlier life of the scheduler may still have to speak."""
        return self.blind or self.settle_until_ns is not None

    @property
    def promised_bytes(self) -> int:
        """The most that living and dead clients may have on the card."""
        return sum(client.charge_bytes for client in self.clients.values()) + self.card.ghost_bytes

    def capacity_bytes(self, policy: Policy) -> int:
        """What clients and dead clients' memory together may have on the card."""
        return self.card.capacity_bytes(policy, self.clients.values())

    def wake_at(self, time_ns: int | None) -> None:
        """Asks for a decision at `time_ns` at the latest."""
        if time_ns is not None:
            self.wake_ns = time_ns if self.wake_ns is None else min(self.wake_ns, time_ns)
