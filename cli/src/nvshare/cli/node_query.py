"""Asks a running node: its status, and whether it serves."""

import asyncio
import time
from pathlib import Path

from nvshare.bus.node_client import NodeClient, NodeError
from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.errors import CommandError
from nvshare.v1.control_pb2 import GpuStatus, StatusReply, StatusRequest

REQUEST_SECONDS = 2.0
POLL_SECONDS = 0.05


def find_node(node_dir: Path | None) -> NodeDirectory | None:
    """The node that runs in `node_dir`, else the first that runs where nodes are looked for; None: none runs."""
    if node_dir is None:
        return NodeDirectory.find()
    node = NodeDirectory(node_dir.absolute())
    return node if node.is_running() else None


def require_node(node_dir: Path | None) -> NodeDirectory:
    """As `find_node`; raises CommandError when there is none."""
    node = find_node(node_dir)
    if node is None:
        where = f" in {node_dir}" if node_dir is not None else ""
        raise CommandError(f"no node runs{where}; start one with `nvshare up`")
    return node


async def fetch_status(node: NodeDirectory, timeout_seconds: float = REQUEST_SECONDS) -> StatusReply:
    """What the node's scheduler says about the node. Raises NodeError or CommandError when it does not answer."""
    async with NodeClient.open(node.control_socket) as client:
        reply = await client.request("status", StatusRequest(), StatusReply, timeout_seconds=timeout_seconds)
    if reply.error:
        raise CommandError(reply.error)
    return reply


async def wait_until_serving(node: NodeDirectory, timeout_seconds: float) -> StatusReply:
    """Poll until the scheduler answers for its GPUs and has heard the relay. Raises CommandError after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    reason = ""
    while time.monotonic() < deadline:
        try:
            reply = await fetch_status(node, timeout_seconds=0.5)
        except (NodeError, CommandError) as error:
            reason = str(error)
        else:
            if reply.gpus and reply.relay_version and not reply.settling:
                return reply
            reason = "the scheduler has not heard the relay yet" if reply.gpus else "the scheduler has no GPU yet"
        await asyncio.sleep(POLL_SECONDS)
    raise CommandError(f"the node does not serve after {timeout_seconds:.0f} s: {reason}; see {node.path / 'logs'}")


def select_gpu(gpus: list[GpuStatus], wanted: str) -> GpuStatus:
    """The GPU that a person means by an index or a UUID. Raises CommandError when there is none."""
    for gpu in gpus:
        if wanted in (str(gpu.index), gpu.uuid):
            return gpu
    known = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus) or "none"
    raise CommandError(f"no GPU {wanted!r} on this node; its GPUs: {known}")
