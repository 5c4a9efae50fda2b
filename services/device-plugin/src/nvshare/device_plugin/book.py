"""The allocations of the node: what is on disk, who has what, what follows from it for kubelet.

It holds what several parts of the plugin need, and decides nothing itself: `joining`, `promises` and `listing` do.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from nvshare.device_plugin.allocator import Load, Policy
from nvshare.device_plugin.busy import BusyShares
from nvshare.device_plugin.devices import DeviceSource, Gpu
from nvshare.device_plugin.folders import Folders
from nvshare.device_plugin.joining import Held, absent, superseded
from nvshare.device_plugin.listing import ListedShare, listed_shares
from nvshare.device_plugin.promises import Holding, Terms
from nvshare.device_plugin.quota_decision import holdings_of
from nvshare.device_plugin.quotas import Quota
from nvshare.device_plugin.records import Pod, Record
from nvshare.device_plugin.replicas import Replicas
from nvshare.device_plugin.shares import Share

_YOUNG_NS = 10_000_000_000  # PodResources may not show it yet: its pod is still being admitted
_BUSY_WINDOW_NS = 60_000_000_000


@dataclass(frozen=True, slots=True)
class Rules:
    """How the node shares its GPUs. `overcommit_percent`: see `promises`; `default`: of a container without quotas;
    `tell_numa`: kubelet is told the NUMA nodes of the GPUs.
    """

    replicas: Replicas = field(default_factory=Replicas)
    overcommit_percent: int = 0
    default: Quota = field(default_factory=Quota)
    policy: Policy = Policy.SPREAD
    tell_numa: bool = False


class Book:
    """The state. Times are nanoseconds of Unix time that never stand still or go back."""

    def __init__(self, rules: Rules, folders: Folders, source: DeviceSource) -> None:
        self.rules = rules
        self.busy = BusyShares(_BUSY_WINDOW_NS)
        self.records: dict[str, Record] = {}
        self.held: tuple[Held, ...] = ()
        self._folders = folders
        self._source = source
        self._absent: set[str] = set()  # when somebody looked last
        self._looked = False
        self._last_ns = 0
        self.reload()

    def now_ns(self) -> int:
        """Now, later than all that was before."""
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        return self._last_ns

    def reload(self) -> None:
        """Reads what another plugin of this node may have written: in an upgrade there are two for a while."""
        self.records = self._folders.read_all()
        times = [max(one.made_unix_ns, one.started_unix_ns) for one in self.records.values()]
        self._last_ns = max([self._last_ns, *times])

    def make(self, shares: Collection[Share], allocation: str = "", pod: Pod | None = None) -> Record:
        """A new allocation, or the one of that ID anew when its folder was lost. Raises OSError."""
        ordered = tuple(sorted(shares))
        record = Record(allocation or self._folders.new_id(), ordered, self.now_ns(), pod=pod, quota=self.rules.default)
        record = replace(record, quota_since_unix_ns=record.made_unix_ns)
        self.write(record)
        return record

    def write(self, record: Record) -> None:
        """Keeps what is known of an allocation now. Raises OSError."""
        self._folders.write(record)
        self.records[record.id] = record

    def remove(self, allocation: str) -> None:
        """Forgets an allocation, and removes its folder."""
        self.records.pop(allocation, None)
        self._absent.discard(allocation)
        self._folders.remove(allocation)

    def looked(self, held: tuple[Held, ...]) -> set[str]:
        """PodResources says who has which shares now; gives the allocations whose pods are not there."""
        self.held = held
        self._looked = True
        self._absent = absent(self.records.values(), held)
        return set(self._absent)

    def superseded(self) -> set[str]:
        """The allocations that are certainly over."""
        return superseded(self.records.values())

    def counting(self, living: Mapping[str, int] | None) -> list[Record]:
        """The allocations that have their shares now, as far as one knows: not those whose pod is gone, unless a
        process of it lives on. `living`: processes by allocation.
        """
        over = self.superseded()
        now_ns = time.time_ns()
        counted = []
        for record in self.records.values():
            away = record.id in self._absent or not self._looked
            young = now_ns - record.made_unix_ns < _YOUNG_NS and not record.started_unix_ns
            alive = bool(living and living.get(record.id))
            if record.id not in over and (not away or young or alive or not self._looked):
                counted.append(record)
        return counted

    def gpus(self) -> tuple[Gpu, ...] | None:
        """The GPUs that are shared; None: not known yet."""
        return self._source.gpus

    def terms(self) -> dict[str, Terms]:
        """Of each GPU, by UUID."""
        rules = self.rules
        return {
            gpu.uuid: Terms(gpu, rules.replicas.of(gpu), rules.overcommit_percent, rules.default.memory_limit_bytes)
            for gpu in self.gpus() or ()
        }

    def holdings(self, living: Mapping[str, int] | None) -> list[Holding]:
        """What the allocations have of each GPU."""
        return holdings_of(self.counting(living))

    def listed(self, living: Mapping[str, int] | None) -> tuple[ListedShare, ...]:
        """What kubelet should be told."""
        counting = self.counting(living)
        held = {share for one in self.held for share in one.shares}
        held.update(share for record in counting for share in record.shares)
        return listed_shares(self.terms(), held, holdings_of(counting), self.rules.tell_numa)

    def loads(self, living: Mapping[str, int] | None, free: Collection[Share]) -> dict[str, Load]:
        """What each GPU has promised, and how busy it was. Whose shares kubelet says are `free` has ended."""
        freed = set(free)
        holdings = holdings_of([one for one in self.counting(living) if freed.isdisjoint(one.shares)])
        return {
            uuid: Load(terms.promised_bytes(holdings), self.busy.mean_permille(uuid))
            for uuid, terms in self.terms().items()
        }
