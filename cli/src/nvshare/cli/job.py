"""One share of a node's GPUs for a program: asked for, put into the program's environment, and given back."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nvshare.bus.node_client import NodeClient, NodeError
from nvshare.bus.node_directory import NodeDirectory
from nvshare.bus.quantities import format_bytes
from nvshare.cli.environment import EmulatedCards, job_environment
from nvshare.cli.errors import CommandError
from nvshare.cli.libraries import emulator_libraries, preload_library
from nvshare.cli.node_query import REQUEST_SECONDS, select_gpu
from nvshare.cli.quota import Quota
from nvshare.v1.control_pb2 import (
    AllocateReply,
    AllocateRequest,
    GpuStatus,
    ReleaseReply,
    ReleaseRequest,
    StatusReply,
)


@dataclass(frozen=True)
class Share:
    """An allocation that the relay made for us."""

    id: str
    socket: Path


def choose_gpus(status: StatusReply, wanted: str | None) -> tuple[str, ...]:
    """UUIDs of the GPUs that a person means by `I[,J]` (indices or UUIDs); by default the one with the fewest
    allocations: programs of theirs may not have reached the card yet.

    Raises CommandError for a GPU that is not there, or named twice.
    """
    gpus = sorted(status.gpus, key=lambda gpu: gpu.index)
    if wanted is None:
        if not gpus:
            raise CommandError("the node has no GPU; see `nvshare status`")
        shares = Counter(uuid for allocation in status.allocations for uuid in allocation.gpus)
        return (min(gpus, key=lambda gpu: shares[gpu.uuid]).uuid,)
    chosen = tuple(select_gpu(gpus, text.strip()).uuid for text in wanted.split(","))
    if len(set(chosen)) < len(chosen):
        raise CommandError(f"--gpu {wanted} names a GPU twice")
    return chosen


def limit_fits(gpus: Sequence[GpuStatus], chosen: Sequence[str], memory_limit_bytes: int) -> None:
    """Raises CommandError when a memory limit is larger than a chosen card, which no program could ever use."""
    smallest = min(gpu.total_bytes for gpu in gpus if gpu.uuid in chosen)
    if memory_limit_bytes > smallest:
        raise CommandError(
            f"--memory {format_bytes(memory_limit_bytes)} is more than the GPU has ({format_bytes(smallest)})"
        )


def emulated_cards(node: NodeDirectory) -> EmulatedCards | None:
    """The cards of an emulated node; None: its cards are real. Raises CommandError when the node went away."""
    try:
        folder = node.read_description().get("emulator_dir")
    except (OSError, ValueError) as error:
        raise CommandError(f"the node in {node.path} ended; start it again with `nvshare up`") from error
    return EmulatedCards(Path(str(folder)), emulator_libraries()) if folder else None


async def allocate(node: NodeDirectory, gpus: Sequence[str], name: str, quota: Quota) -> Share:
    """Ask the relay for an allocation. Raises CommandError with its words when it refuses, NodeError when away."""
    request = AllocateRequest(gpus=gpus, name=name, **asdict(quota))
    async with NodeClient.open(node.control_socket) as client:
        reply = await client.request("allocate", request, AllocateReply, timeout_seconds=REQUEST_SECONDS)
    if reply.error:
        raise CommandError(reply.error)
    return Share(reply.id, Path(reply.socket))


async def release(node: NodeDirectory, share: Share) -> None:
    """Give an allocation back. Raises CommandError or NodeError as `allocate` does."""
    async with NodeClient.open(node.control_socket) as client:
        reply = await client.request(
            "release", ReleaseRequest(id=share.id), ReleaseReply, timeout_seconds=REQUEST_SECONDS
        )
    if reply.error:
        raise CommandError(reply.error)


@contextlib.asynccontextmanager
async def shared(
    node: NodeDirectory, gpus: Sequence[str], name: str, quota: Quota, base: Mapping[str, str]
) -> AsyncIterator[dict[str, str]]:
    """The environment of a program that shares `gpus`; the allocation ends with the context."""
    share = await allocate(node, gpus, name, quota)
    try:
        yield job_environment(base, preload_library(), share.socket, gpus, emulated_cards(node))
    finally:
        # A node that went away meanwhile has nothing to give back to.
        with contextlib.suppress(NodeError, CommandError):
            await release(node, share)
