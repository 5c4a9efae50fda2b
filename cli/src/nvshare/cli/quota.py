"""`nvshare quota set`: how much memory an allocation may have, changed while its programs run."""

from nvshare.bus.node_client import NodeClient
from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.errors import CommandError
from nvshare.cli.node_query import REQUEST_SECONDS
from nvshare.v1.control_pb2 import QuotaReply, QuotaRequest, StatusReply


def find_allocation(status: StatusReply, wanted: str) -> str:
    """ID of the allocation that a person means by its name or ID. Raises CommandError for none, or several."""
    found = [one.id for one in status.allocations if wanted in (one.id, one.name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CommandError(f"{len(found)} allocations are called {wanted!r}; name one by its ID: {', '.join(found)}")
    known = ", ".join(f"{one.name} ({one.id})" for one in status.allocations) or "none"
    raise CommandError(f"no allocation {wanted!r} on this node; its allocations: {known}")


async def set_quota(node: NodeDirectory, allocation_id: str, memory_limit_bytes: int) -> QuotaReply:
    """Give an allocation another memory limit; 0: none.

    Raises CommandError with the relay's words when it refuses, NodeError when it is away.
    """
    request = QuotaRequest(id=allocation_id, memory_limit_bytes=memory_limit_bytes)
    async with NodeClient.open(node.control_socket) as client:
        reply = await client.request("quota", request, QuotaReply, timeout_seconds=REQUEST_SECONDS)
    if reply.error:
        raise CommandError(reply.error)
    return reply
