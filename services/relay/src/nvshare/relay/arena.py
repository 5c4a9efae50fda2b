"""The account of the node arena: host memory of the node that clients may move memory of their cards to. Pure.

A *tenant* is one life of one program in one process. It reserves bytes, which costs nothing, and has segments made
within its reservation, which costs memory. A segment has one tenant in its life: it is wiped when the tenant gives it
back or is no more, and its bytes are free when that is done.
"""

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic, TypeVar

from nvshare.relay.peers import Process

_Job = TypeVar("_Job")

STEP_BYTES = 16 * 2**20
"""Every size in the arena is a multiple of it."""

MAX_SEGMENT_BYTES = 256 * 2**20
MAX_SEGMENTS_PER_TENANT = 8192
MAX_TENANTS = 1024


class ArenaError(Exception):
    """A request that is refused: an errno value for the client, and one line for people."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


@dataclass(frozen=True, slots=True)
class TenantKey:
    """One life of one program; the nonce changes when the process calls exec."""

    allocation: str
    process: Process
    nonce: int


class State(Enum):
    """Of a segment."""

    MAKING = auto()
    MADE = auto()
    WIPING = auto()


@dataclass(slots=True)
class Segment:
    """Bytes that were made, or are being made or wiped, for one tenant. `file` is its inode, when there is one."""

    id: int
    tenant: TenantKey
    bytes: int
    state: State
    file: tuple[int, int] | None = None


@dataclass(slots=True)
class Tenant:
    """`reserved_bytes` holds all of its segments, those that are being wiped too. Gone: it only waits for those."""

    key: TenantKey
    reserved_bytes: int = 0
    segments: dict[int, Segment] = field(default_factory=dict)
    is_gone: bool = False

    @property
    def made_bytes(self) -> int:
        return sum(segment.bytes for segment in self.segments.values())


class Arena:
    """Who has how much of `total_bytes`."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._tenants: dict[TenantKey, Tenant] = {}
        self._last_id = 0

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self._tenants.values())

    @property
    def reserved_bytes(self) -> int:
        """Of all tenants."""
        return sum(tenant.reserved_bytes for tenant in self)

    @property
    def made_bytes(self) -> int:
        """Of all tenants; what is being wiped counts until it is."""
        return sum(tenant.made_bytes for tenant in self)

    @property
    def free_bytes(self) -> int:
        """What nobody has reserved."""
        return max(0, self.total_bytes - self.reserved_bytes) // STEP_BYTES * STEP_BYTES

    def find(self, key: TenantKey) -> Tenant | None:
        """The living tenant of that name."""
        tenant = self._tenants.get(key)
        return None if tenant is None or tenant.is_gone else tenant

    def of_process(self, process: Process) -> list[Tenant]:
        """The living tenants that are, or were, this process."""
        return [tenant for tenant in self if tenant.key.process == process and not tenant.is_gone]

    def join(self, key: TenantKey) -> Tenant:
        """The tenant of that name, new if it is not known. Raises ArenaError when there are too many, or what it had
        under this name is still being wiped.
        """
        tenant = self._tenants.get(key)
        if tenant is not None and tenant.is_gone:
            raise ArenaError(errno.EAGAIN, "what the process had is being wiped")
        if tenant is None:
            if len(self._tenants) >= MAX_TENANTS:
                raise ArenaError(errno.EMFILE, "the arena has as many tenants as it can have")
            tenant = self._tenants[key] = Tenant(key)
        return tenant

    def restore(self, key: TenantKey, reserved_bytes: int) -> None:
        """A tenant of before a restart, which will hand in its segments."""
        self.join(key).reserved_bytes = reserved_bytes

    def room_of(self, tenant: Tenant, most_bytes: int, available_bytes: int) -> int:
        """What the tenant could still reserve, if its allocation may have `most_bytes` and the host could still give
        the arena `available_bytes`.
        """
        allocation = sum(one.reserved_bytes for one in self if one.key.allocation == tenant.key.allocation)
        promised = self.reserved_bytes - self.made_bytes
        room_bytes = min(self.free_bytes, most_bytes - allocation, available_bytes - promised)
        return max(0, room_bytes) // STEP_BYTES * STEP_BYTES

    def reserve(self, tenant: Tenant, wish_bytes: int, most_bytes: int, available_bytes: int) -> int:
        """The tenant wishes to have `wish_bytes` in all. Returns what is reserved for it now: what there is, and never
        less than what was made of it.
        """
        wish_bytes = -(-wish_bytes // STEP_BYTES) * STEP_BYTES
        possible_bytes = tenant.reserved_bytes + self.room_of(tenant, most_bytes, available_bytes)
        tenant.reserved_bytes = max(tenant.made_bytes, min(wish_bytes, possible_bytes))
        return tenant.reserved_bytes

    def begin(self, tenant: Tenant, size_bytes: int) -> Segment:
        """A segment is about to be made within the tenant's reservation. Raises ArenaError."""
        if not 0 < size_bytes <= MAX_SEGMENT_BYTES or size_bytes % STEP_BYTES:
            raise ArenaError(errno.EINVAL, "a segment has 16 to 256 MiB, in steps of 16")
        if tenant.made_bytes + size_bytes > tenant.reserved_bytes:
            raise ArenaError(errno.ENOMEM, "there is not so much reserved for the process")
        return self._add(tenant, size_bytes, State.MAKING)

    def made(self, segment: Segment, file: tuple[int, int]) -> bool:
        """A segment was made. False: its tenant is gone meanwhile, and it is to be wiped."""
        segment.file = file
        if segment.state is State.MAKING:
            segment.state = State.MADE
        return segment.state is State.MADE

    def adopt(self, tenant: Tenant, size_bytes: int, file: tuple[int, int]) -> tuple[Segment, bool]:
        """The tenant hands in a segment that an earlier relay made. Returns it, and whether it is new here. Its memory
        is there, so it counts even where it was not reserved. Raises ArenaError.
        """
        if not 0 < size_bytes <= MAX_SEGMENT_BYTES or size_bytes % STEP_BYTES:
            raise ArenaError(errno.EINVAL, "no segment has this size")
        for other in self:
            for segment in other.segments.values():
                if segment.file == file:
                    if other is not tenant or segment.state is not State.MADE:
                        raise ArenaError(errno.EPERM, "this segment is another's, or was given back")
                    return segment, False
        segment = self._add(tenant, size_bytes, State.MADE)
        segment.file = file
        tenant.reserved_bytes = max(tenant.reserved_bytes, tenant.made_bytes)
        return segment, True

    def give(self, tenant: Tenant, segment_id: int) -> Segment:
        """The tenant gives a segment back, which is to be wiped. Raises ArenaError."""
        segment = tenant.segments.get(segment_id)
        if segment is None or segment.state is not State.MADE:
            raise ArenaError(errno.ENOENT, "the process has no such segment")
        segment.state = State.WIPING
        return segment

    def end(self, tenant: Tenant) -> list[Segment]:
        """The tenant is no more. Returns the segments that are to be wiped now; those that are still being made follow
        when they are.
        """
        tenant.is_gone = True
        made = [segment for segment in tenant.segments.values() if segment.state is State.MADE]
        for segment in tenant.segments.values():
            segment.state = State.WIPING
        tenant.reserved_bytes = tenant.made_bytes
        self._forget_if_empty(tenant)
        return made

    def wiped(self, segment: Segment) -> None:
        """A segment's memory is free again, or could not be made."""
        tenant = self._tenants[segment.tenant]
        del tenant.segments[segment.id]
        if tenant.is_gone:
            tenant.reserved_bytes = tenant.made_bytes
            self._forget_if_empty(tenant)

    def _add(self, tenant: Tenant, size_bytes: int, state: State) -> Segment:
        if len(tenant.segments) >= MAX_SEGMENTS_PER_TENANT:
            raise ArenaError(errno.EMFILE, "the process has as many segments as it can have")
        self._last_id += 1
        segment = Segment(self._last_id, tenant.key, size_bytes, state)
        tenant.segments[segment.id] = segment
        return segment

    def _forget_if_empty(self, tenant: Tenant) -> None:
        if not tenant.segments:
            del self._tenants[tenant.key]


class Turns(Generic[_Job]):
    """Who is served next: allocations in turn, each in the order in which its processes asked."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[_Job]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, allocation: str, job: _Job) -> None:
        """`job` of `allocation` waits."""
        self._waiting.setdefault(allocation, []).append(job)

    def next(self) -> _Job:
        """The job whose turn it is; there is one."""
        allocation = next(iter(self._waiting))
        jobs = self._waiting.pop(allocation)
        job = jobs.pop(0)
        if jobs:
            self._waiting[allocation] = jobs  # behind the others
        return job


def most_bytes(memory_limit_bytes: int, gpus: int) -> int:
    """What the processes of one allocation may reserve: twice the memory that it may have on its cards, because slots
    and extents are larger than what is in them; all there is, where that has no limit.
    """
    return 2 * memory_limit_bytes * gpus + MAX_SEGMENT_BYTES if memory_limit_bytes else 2**63
