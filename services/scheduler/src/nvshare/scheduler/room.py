"""Memory that can still be promised in one pass over the clients: on the card, and within each allocation's quota."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nvshare.scheduler.clients import Client
from nvshare.scheduler.model import Allocation


@dataclass(slots=True)
class Room:
    """The sums of one pass. What becomes free by a ceiling that falls can be promised in a later pass."""

    capacity_bytes: int
    free_bytes: int
    clients: Sequence[Client]
    allocations: Mapping[str, Allocation]
    promised_bytes: dict[str, int] = field(init=False)  # footprints, by allocation, of those with a quota
    changes: int = 0  # how often a ceiling was set: what follows from the ceilings holds as long as this is the same

    def __post_init__(self) -> None:
        self.promised_bytes = {key: 0 for key, allocation in self.allocations.items() if allocation.memory_limit_bytes}
        for client in self.clients:
            if client.allocation in self.promised_bytes:
                self.promised_bytes[client.allocation] += client.footprint_within(client.charge_bytes)

    def fits(self, client: Client, ceiling_bytes: int) -> bool:
        """Whether the client's ceiling could be raised now."""
        extra_bytes = ceiling_bytes - client.charge_bytes
        return extra_bytes <= max(0, self.free_bytes) and self.quota_missing_bytes(client, ceiling_bytes) == 0

    def set_ceiling(self, client: Client, ceiling_bytes: int) -> None:
        """Raises or lowers the client's ceiling; who raises it has checked that it fits."""
        before_bytes = client.charge_bytes
        client.set_ceiling(ceiling_bytes)
        after_bytes = client.charge_bytes
        self.changes += 1
        self.free_bytes -= max(0, after_bytes - before_bytes)
        if client.allocation in self.promised_bytes:
            added_bytes = client.footprint_within(after_bytes) - client.footprint_within(before_bytes)
            self.promised_bytes[client.allocation] += added_bytes

    def quota_missing_bytes(self, client: Client, ceiling_bytes: int) -> int:
        """What the quota of the client's allocation lacks for this ceiling."""
        promised_bytes = self.promised_bytes.get(client.allocation)
        if promised_bytes is None:
            return 0
        extra_bytes = client.footprint_within(ceiling_bytes) - client.footprint_within(client.charge_bytes)
        left_bytes = self.allocations[client.allocation].memory_limit_bytes - promised_bytes
        return max(0, extra_bytes - max(0, left_bytes)) if extra_bytes > 0 else 0

    def quota_excess_bytes(self) -> dict[str, int]:
        """What allocations have been promised beyond their quota, by allocation."""
        excess = {key: size - self.allocations[key].memory_limit_bytes for key, size in self.promised_bytes.items()}
        return {key: size for key, size in excess.items() if size > 0}
