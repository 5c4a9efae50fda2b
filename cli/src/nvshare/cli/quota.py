"""`nvshare quota set`: what an allocation may have of its GPUs, changed while its programs run."""

from dataclasses import asdict, dataclass

from nvshare.bus.compute import priority_word
from nvshare.bus.node_client import NodeClient
from nvshare.bus.node_directory import NodeDirectory
from nvshare.bus.quantities import format_bytes
from nvshare.cli.arguments import core_percent, priority_number, share_weight, size_bytes
from nvshare.cli.errors import CommandError
from nvshare.cli.node_query import REQUEST_SECONDS
from nvshare.v1.control_pb2 import QuotaReply, QuotaRequest, StatusReply
from nvshare.v1.node_pb2 import Allocation


@dataclass(frozen=True)
class Quota:
    """What an allocation may have on each of its GPUs; the fields are those of the requests that carry it.

    None: the default of a new allocation, what it was of one that is there. `memory_limit_bytes` and
    `core_limit_percent` 0: no limit. `priority`: its number in the contract.
    """

    memory_limit_bytes: int | None = None
    core_limit_percent: int | None = None
    weight: int | None = None
    priority: int | None = None
    core_burst: bool | None = None


def wanted_quota(
    memory: str | None, cores: str | None, weight: str | None, priority: str | None, burst: bool | None
) -> Quota:
    """What a person means by these options; None where one was not given. Raises CommandError."""
    return Quota(
        memory_limit_bytes=0 if memory == "none" else size_bytes("--memory", memory),
        core_limit_percent=core_percent(cores),
        weight=share_weight(weight),
        priority=priority_number(priority),
        core_burst=burst,
    )


def find_allocation(status: StatusReply, wanted: str) -> str:
    """ID of the allocation that a person means by its name or ID. Raises CommandError for none, or several."""
    found = [one.id for one in status.allocations if wanted in (one.id, one.name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CommandError(f"{len(found)} allocations are called {wanted!r}; name one by its ID: {', '.join(found)}")
    known = ", ".join(f"{one.name} ({one.id})" for one in status.allocations) or "none"
    raise CommandError(f"no allocation {wanted!r} on this node; its allocations: {known}")


async def set_quota(node: NodeDirectory, allocation_id: str, quota: Quota) -> QuotaReply:
    """Give an allocation other quotas.

    Raises CommandError with the relay's words when it refuses, NodeError when it is away.
    """
    request = QuotaRequest(id=allocation_id, keep_memory_limit=quota.memory_limit_bytes is None, **asdict(quota))
    async with NodeClient.open(node.control_socket) as client:
        reply = await client.request("quota", request, QuotaReply, timeout_seconds=REQUEST_SECONDS)
    if reply.error:
        raise CommandError(reply.error)
    return reply


def change_words(quota: Quota, reply: QuotaReply) -> str:
    """What was asked for, as it is in force now and as it was before."""
    now, before = quota_words(reply.allocation), quota_words(reply.previous)
    asked = [field for field, value in asdict(quota).items() if value is not None]
    return ", ".join(f"{_NAMES[field]} {now[field]} (was {before[field]})" for field in asked)


def quota_words(allocation: Allocation) -> dict[str, str]:
    """An allocation's quotas for people, by the name of the field."""
    return {
        "memory_limit_bytes": format_bytes(allocation.memory_limit_bytes) if allocation.memory_limit_bytes else "none",
        "core_limit_percent": f"{allocation.core_limit_percent} %" if allocation.core_limit_percent else "none",
        "weight": str(allocation.weight),
        "priority": priority_word(allocation.priority),
        "core_burst": "on" if allocation.core_burst else "off",
    }


_NAMES = {
    "memory_limit_bytes": "memory",
    "core_limit_percent": "cores",
    "weight": "weight",
    "priority": "priority",
    "core_burst": "burst",
}
