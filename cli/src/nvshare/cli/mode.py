"""`nvshare mode` and `nvshare quantum`: how one GPU is shared, changed while programs run on it."""

from nvshare.bus.node_client import NodeClient
from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.errors import CommandError
from nvshare.cli.node_options import Quantum
from nvshare.cli.node_query import REQUEST_SECONDS
from nvshare.v1.control_pb2 import ModeReply, ModeRequest


async def change_sharing(
    node: NodeDirectory,
    gpu_uuid: str,
    *,
    mode: str | None = None,
    quantum: Quantum | None = None,
    max_wait_seconds: float | None = None,
) -> ModeReply:
    """Change how a GPU is shared; None leaves a part as it is. Returns what is in force now.

    Raises CommandError with the scheduler's words when it refuses, NodeError when this user may not or it is away.
    """
    request = ModeRequest(
        gpu=gpu_uuid,
        mode=f"MODE_{(mode or 'unspecified').upper()}",
        quantum_us=0 if quantum is None or quantum == "auto" else round(quantum * 1e6),
        quantum_auto=quantum == "auto",
        max_wait_us=round((max_wait_seconds or 0) * 1e6),
    )
    async with NodeClient.open(node.control_socket) as client:
        reply = await client.request("mode", request, ModeReply, timeout_seconds=REQUEST_SECONDS)
    if reply.error:
        raise CommandError(reply.error)
    return reply
