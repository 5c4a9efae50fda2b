"""Events, commands and the messages in them: what the arbiter takes and what it gives.

Everything here is frozen plain data, so that a log of it can be written down and replayed. The numbers of the
enumerations are those of `nvshare.v1`; the service translates messages at its edge (`wire.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from nvshare.bus.compute import DEFAULT_WEIGHT


class Mode(IntEnum):
    """How a GPU is shared."""

    UNSPECIFIED = 0
    AUTO = 1
    CONCURRENT = 2
    SERIAL = 3
    OFF = 4


SIDE_BY_SIDE = (Mode.AUTO, Mode.CONCURRENT)
"""The modes in which clients use the card at the same time, and nvshare says how."""


class TimeSharing(IntEnum):
    """By which means clients that use the card at the same time share its time. Core limits have slots under each."""

    AUTO = 1  # by slices or slots, whichever fits
    DRIVER = 2  # by the driver's own slices: weights and priorities have no effect
    SLICES = 3  # by slices only
    SLOTS = 4  # by slots only

    @property
    def by_slices(self) -> bool:
        """Whether clients get slices of their own."""
        return self in (TimeSharing.AUTO, TimeSharing.SLICES)

    @property
    def by_slots(self) -> bool:
        """Whether clients without a core limit get slots."""
        return self in (TimeSharing.AUTO, TimeSharing.SLOTS)


class Wait(IntEnum):
    """What a client that may not go on waits for."""

    NONE = 0
    TURN = 1
    MEMORY = 2
    SCHEDULER = 3
    QUOTA = 4


class Limit(IntEnum):
    """What the limit of a grant comes from."""

    UNSPECIFIED = 0
    QUOTA = 1
    CARD = 2
    HOST_ROOM = 3
    OVERCOMMIT = 4


class ClientState(IntEnum):
    """What a client says that it does."""

    UNSPECIFIED = 0
    WAITING = 1
    RUNNING = 2
    DRAINING = 3
    STUCK = 4


class Link(IntEnum):
    """Whether a living process is connected to the relay."""

    UNSPECIFIED = 0
    CONNECTED = 1
    DISCONNECTED = 2


class Priority(IntEnum):
    """Who comes first where several want the GPU."""

    BEST_EFFORT = 1
    NORMAL = 2
    LATENCY_CRITICAL = 3


class Ruling(IntEnum):
    """What the coordinator of the gangs says about a client."""

    NONE = 0  # it is in no gang
    OUT = 1  # as if it did not want the GPU: launches nothing, and makes room for who waits
    NEXT = 2  # the same, but nobody who came later takes the room that it needs
    IN = 3  # has its place, or gets it before all that wait; nobody takes it away
    PAUSED = 4  # has its place, and launches nothing


@dataclass(frozen=True, slots=True)
class Report:
    """A client's whole state, as in `nvshare.v1.Report`."""

    sequence: int
    generation: int = 0
    epoch: int = 0
    state: ClientState = ClientState.WAITING
    demand: bool = False
    footprint_bytes: int = 0
    resident_bytes: int = 0
    wanted_bytes: int = 0
    allocation_waits: bool = False
    busy_permille: int = 0
    drain_us: int = 0
    longest_work_us: int = 0
    window_us: int = 0
    launches: int = 0
    busy_us: int = 0
    gate_wait_us: int = 0
    allocation_wait_us: int = 0
    hand_overs: int = 0
    unknown_messages: int = 0
    malformed_messages: int = 0
    monotonic_ns: int = 0
    name: str = ""
    version: str = ""
    build: str = ""
    protocol: int = 0
    leaving: bool = False
    external_bytes: int = 0
    needed_bytes: int = 0
    wanted_needed_bytes: int = 0
    pinned_bytes: int = 0
    pinned_reason: str = ""
    host_room_bytes: int = 0
    pool_bytes: int = 0
    swapped_out_bytes: int = 0
    swapped_in_bytes: int = 0
    swap_out_us: int = 0
    swap_in_us: int = 0
    swap_failures: int = 0
    swap_failure: str = ""
    gang: bool = False
    swaps: bool = False
    timeslice_us: int = 0
    timeslice_failure: str = ""
    activity: str = ""  # when its work was in flight, up to `activity_end_ns`: see activity.py
    activity_end_ns: int = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """A client's turn: from `start_us` after each multiple of the period of CLOCK_MONOTONIC on."""

    start_us: int
    length_us: int
    period_us: int

    @property
    def part(self) -> float:
        """Of the time."""
        return self.length_us / self.period_us


@dataclass(frozen=True, slots=True)
class Grant:
    """What one client may do, as in `nvshare.v1.Grant`. (generation, epoch, sequence) only grows."""

    generation: int
    epoch: int
    sequence: int
    may_launch: bool
    resident_bytes: int
    headroom_bytes: int
    limit_bytes: int
    window_us: int
    wait: Wait
    mode: Mode
    pool_bytes: int = 0
    limited_by: Limit = Limit.UNSPECIFIED
    timeslice_us: int = 0
    slot: Slot | None = None
    paid_permille: int = 0  # of the time in which its work is in flight, what its slots pay for; 0: all

    @property
    def ceiling_bytes(self) -> int:
        """The most that the client may have on the card under this grant: its target."""
        return self.resident_bytes + self.headroom_bytes


@dataclass(frozen=True, slots=True)
class Allocation:
    """One container's share of this GPU. `weight` is its part where all want the GPU, in proportion to the others'."""

    id: str
    name: str = ""
    uid: int = -1
    memory_limit_bytes: int = 0
    core_limit_percent: int = 0  # most busy time of all its processes together; 0: no limit
    weight: int = DEFAULT_WEIGHT
    priority: Priority = Priority.NORMAL
    core_burst: bool = False  # the core limit does not hold while nobody else wants the GPU
    group: str = ""  # clients of all allocations with it are one gang
    pod: str = ""  # `namespace/name`, where it is one's
    pod_uid: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """One living process, as the relay names it, with what the relay's journal says about this GPU."""

    allocation: str
    client: str
    pid: int
    link: Link = Link.CONNECTED
    journaled: bool = False  # the journal has an entry for this GPU
    journal_resident_bytes: int = 0
    journal_promised_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ClientReported:
    """A report came in on the subject of this client."""

    allocation: str
    client: str
    report: Report


@dataclass(frozen=True, slots=True)
class RelayReported:
    """The relay's whole knowledge about this GPU: who is not in `peers` is dead."""

    generation: int
    sequence: int
    allocations: tuple[Allocation, ...] = ()
    peers: tuple[Peer, ...] = ()


@dataclass(frozen=True, slots=True)
class ModeChanged:
    """A user asks for a mode. UNSPECIFIED changes nothing and is answered too."""

    request: str  # names the request in the answer; empty: nobody waits for one
    mode: Mode


@dataclass(frozen=True, slots=True)
class QuantumChanged:
    """A user asks for another quantum, or for another bound of the waits that the automatic one may cause."""

    request: str
    quantum_ns: int = 0  # 0: as `automatic` says
    automatic: bool = False  # from now on from the measured time of a swap
    max_wait_ns: int = 0  # 0: unchanged


@dataclass(frozen=True, slots=True)
class GangRuling:
    """What the coordinator of the gangs says about one client on this GPU."""

    key: str  # names it among the clients of its GPU
    gang: str
    ruling: Ruling
    since_ns: int  # its place in the queue


@dataclass(frozen=True, slots=True)
class GangsRuled:
    """The coordinator's whole word: a client that is not named is in no gang."""

    rulings: tuple[GangRuling, ...] = ()


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a process is, as far as its host tells; what is not known is empty."""

    command: str = ""
    pod_uid: str = ""
    container_id: str = ""


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Bytes that the driver counts for one process, which may be dead."""

    pid: int
    used_bytes: int
    alive: bool = True
    owner: Owner = Owner()


@dataclass(frozen=True, slots=True)
class MemorySampled:
    """What the driver says about the card's memory. `started_ns` is the time before the driver was asked."""

    started_ns: int
    total_bytes: int
    used_bytes: int
    processes: tuple[ProcessMemory, ...] = ()


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time passed: a deadline of the arbiter is over."""


Event = ClientReported | RelayReported | ModeChanged | QuantumChanged | GangsRuled | MemorySampled | Ticked


@dataclass(frozen=True, slots=True)
class SendGrant:
    """Publish this grant to this client."""

    allocation: str
    client: str
    grant: Grant


@dataclass(frozen=True, slots=True)
class PublishEvent:
    """Tell the other services and the log something worth a person's attention."""

    kind: str
    text: str
    allocation: str = ""
    client: str = ""
    size_bytes: int = 0
    duration_ns: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a ModeChanged or QuantumChanged. `error` is one sentence; empty: done."""

    request: str
    error: str


Command = SendGrant | PublishEvent | Answer
