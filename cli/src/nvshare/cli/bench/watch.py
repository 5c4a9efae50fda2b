"""Watches the clients of a node while they run: what a status says of them is gone when they end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from nvshare.bus.node_client import NodeError
from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.errors import CommandError
from nvshare.cli.node_query import fetch_status

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Observation:
    """The last that was seen of an allocation's clients, summed."""

    hand_overs: int = 0
    waited_us: int = 0  # at the gate and for memory


class Watch:
    """Observations by the allocation's name."""

    def __init__(self) -> None:
        self.observations: dict[str, Observation] = {}

    async def look(self, node: NodeDirectory) -> None:
        """Take in what the node says now. Raises NodeError or CommandError when it does not answer."""
        status = await fetch_status(node)
        for allocation in status.allocations:
            clients = [client for gpu in status.gpus for client in gpu.clients if client.allocation == allocation.id]
            if clients:
                self.observations[allocation.name] = Observation(
                    hand_overs=sum(client.hand_overs for client in clients),
                    waited_us=sum(client.gate_wait_us + client.allocation_wait_us for client in clients),
                )


@contextlib.asynccontextmanager
async def watching(node: NodeDirectory) -> AsyncIterator[Watch]:
    """A watch that looks ten times a second until the context ends."""
    watch = Watch()

    async def look_again_and_again() -> None:
        while True:
            # A look that fails is a look missed: the next one sees whole states again.
            with contextlib.suppress(NodeError, CommandError):
                await watch.look(node)
            await asyncio.sleep(POLL_SECONDS)

    task = asyncio.create_task(look_again_and_again(), name="watch the node")
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
