"""Thousands of clients come and go, and nothing of them is left."""

import gc
import sys
from dataclasses import dataclass, field

from nvshare.scheduler.arbiter import Arbiter
from nvshare.scheduler.coordination import Coordination
from nvshare.scheduler.history import RecordedArbiter
from nvshare.scheduler.model import (
    Allocation,
    ClientReported,
    ClientState,
    Event,
    Grant,
    MemorySampled,
    Mode,
    Peer,
    ProcessMemory,
    RelayReported,
    Report,
    SendGrant,
)
from nvshare.scheduler.policy import GIB, MIB, MILLISECOND_NS, SECOND_NS, Policy

GPUS = ("GPU-0", "GPU-1")
TOTAL_BYTES = 16 * GIB


@dataclass
class Node:
    """Two arbiters with short logs, and the coordinator of the gangs above them."""

    now_ns: int = 100 * SECOND_NS
    relay_sequence: int = 0
    coordination: Coordination = field(default_factory=Coordination)
    grants: dict[str, Grant] = field(default_factory=dict)
    recorded: dict[str, RecordedArbiter] = field(init=False)

    def __post_init__(self) -> None:
        self.recorded = {gpu: RecordedArbiter(new_arbiter(gpu), segment_entries=50, segments=2) for gpu in GPUS}

    def tell(self, gpu: str, event: Event) -> None:
        self.now_ns += MILLISECOND_NS
        self.handle(gpu, event)
        arbiters = {gpu: recorded.arbiter for gpu, recorded in self.recorded.items()}
        for about, ruled in self.coordination.news(arbiters, self.now_ns):
            self.handle(about, ruled)
        self.coordination.take_events()

    def handle(self, gpu: str, event: Event) -> None:
        for command in self.recorded[gpu].handle(event, self.now_ns):
            if isinstance(command, SendGrant):
                self.grants[gpu] = command.grant

    def relay(self, pid: int, *, alive: bool) -> None:
        """The relay says who lives: this process, or nobody."""
        self.relay_sequence += 1
        allocations = (Allocation(f"task-{pid}", memory_limit_bytes=GIB * (pid % 2)),) if alive else ()
        peers = (Peer(f"task-{pid}", f"{pid}-nonce", pid),) if alive else ()
        for gpu in GPUS:
            self.tell(gpu, RelayReported(1, self.relay_sequence, allocations, peers))

    def sample(self, *processes: ProcessMemory) -> None:
        used_bytes = sum(process.used_bytes for process in processes)
        for gpu in GPUS:
            self.tell(gpu, MemorySampled(self.now_ns, TOTAL_BYTES, used_bytes, processes))

    def live_and_die(self, pid: int) -> None:
        """A program of two ranks comes, uses both GPUs together, and is killed; the driver frees its memory later."""
        self.relay(pid, alive=True)
        for sequence in (1, 2):
            for gpu in GPUS:
                report = some_report(sequence, self.grants.get(gpu), self.now_ns)
                self.tell(gpu, ClientReported(f"task-{pid}", f"{pid}-nonce", report))
        # One that the relay never heard of speaks, too.
        self.tell(GPUS[0], ClientReported(f"stray-{pid}", f"{pid}-nonce", report))
        self.relay(pid, alive=False)
        self.sample(ProcessMemory(pid, 256 * MIB, alive=False))
        self.now_ns += 100 * MILLISECOND_NS
        self.sample()


def new_arbiter(gpu: str) -> Arbiter:
    return Arbiter.new(
        gpu, generation=1, total_bytes=TOTAL_BYTES, mode=Mode.AUTO, quantum_ns=SECOND_NS, policy=Policy()
    )


def some_report(sequence: int, grant: Grant | None, now_ns: int) -> Report:
    """A rank of a job has and uses its memory."""
    return Report(
        sequence,
        generation=grant.generation if grant else 0,
        epoch=grant.epoch if grant else 0,
        state=ClientState.RUNNING,
        demand=True,
        footprint_bytes=256 * MIB,
        resident_bytes=256 * MIB,
        host_room_bytes=GIB,
        monotonic_ns=now_ns,
        name=f"program {now_ns}",
        build=f"build {now_ns}",
        protocol=1,
        gang=True,
        swaps=True,
    )


def objects_after(node: Node, first_pid: int, programs: int) -> int:
    """How many objects there are when so many programs have come and gone."""
    for pid in range(first_pid, first_pid + programs):
        node.live_and_die(pid)
    gc.collect()
    return sys.getallocatedblocks()


def test_nothing_is_left_of_a_thousand_programs_that_came_and_went() -> None:
    node = Node()
    before = objects_after(node, 1000, 100)  # the logs are full, and all caches warm
    after = objects_after(node, 2000, 1000)
    assert after - before < 500
