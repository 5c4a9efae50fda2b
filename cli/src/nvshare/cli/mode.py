"""`nvshare mode`: how one GPU is shared, changed while programs run on it."""

from nvshare.bus.node_client import NodeClient
from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.errors import CommandError
from nvshare.cli.node_query import REQUEST_SECONDS
from nvshare.v1.control_pb2 import ModeReply, ModeRequest


async def change_mode(node: NodeDirectory, gpu_uuid: str, mode: str, quantum_seconds: float | None) -> ModeReply:
    """Set the mode of a GPU, and its quantum unless None; returns what is in force now.

    Raises CommandError with the scheduler's words when it refuses, NodeError when this user may not or it is away.
    """
    request = ModeRequest(gpu=gpu_uuid, mode=f"MODE_{mode.upper()}", quantum_us=round((quantum_seconds or 0) * 1e6))
    async with NodeClient.open(node.control_socket) as client:
        reply = await client.request("mode", request, ModeReply, timeout_seconds=REQUEST_SECONDS)
    if reply.error:
        raise CommandError(reply.error)
    return reply
