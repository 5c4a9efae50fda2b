"""Watches a node and its clients while they run: what a status says of a client is gone when it ends."""

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
    """The last that was seen of an allocation's clients, summed; of `longest_wait_us` the most that was ever seen."""

    hand_overs: int = 0
    waited_us: int = 0  # at the gate and for memory
    longest_wait_us: int = 0  # one wait
    swap_failures: int = 0


@dataclass(frozen=True)
class GpuObservation:
    """What a GPU's scheduler counted since the watch began.

    `longest_quantum_us` is the longest that was in force while several clients were there: the automatic one changes
    with them.
    """

    hand_overs: int = 0
    swapped_bytes: int = 0
    longest_quantum_us: int = 0


class Watch:
    """Observations by the allocation's name, and of GPUs by their index."""

    def __init__(self) -> None:
        self.observations: dict[str, Observation] = {}
        self.gpus: dict[int, GpuObservation] = {}
        self._first: dict[int, GpuObservation] = {}

    @property
    def first_gpu(self) -> GpuObservation:
        """Of the node's first GPU, whatever its index on the machine is. Raises CommandError: the node said nothing."""
        if not self.gpus:
            raise CommandError("the node told nothing of its GPUs while the programs ran")
        return self.gpus[min(self.gpus)]

    async def look(self, node: NodeDirectory) -> None:
        """Take in what the node says now. Raises NodeError or CommandError when it does not answer."""
        status = await fetch_status(node)
        for allocation in status.allocations:
            clients = [client for gpu in status.gpus for client in gpu.clients if client.allocation == allocation.id]
            if clients:
                known = self.observations.get(allocation.name, Observation())
                self.observations[allocation.name] = Observation(
                    hand_overs=sum(client.hand_overs for client in clients),
                    waited_us=sum(client.gate_wait_us + client.allocation_wait_us for client in clients),
                    longest_wait_us=max(known.longest_wait_us, *(client.wait_us for client in clients)),
                    swap_failures=sum(client.swap_failures for client in clients),
                )
        for gpu in status.gpus:
            first = self._first.setdefault(gpu.index, GpuObservation(gpu.hand_overs, gpu.swapped_bytes))
            before = self.gpus.get(gpu.index, GpuObservation())
            shared = len(gpu.clients) > 1
            self.gpus[gpu.index] = GpuObservation(
                hand_overs=gpu.hand_overs - first.hand_overs,
                swapped_bytes=gpu.swapped_bytes - first.swapped_bytes,
                longest_quantum_us=max(before.longest_quantum_us, gpu.quantum_us if shared else 0),
            )


@contextlib.asynccontextmanager
async def watching(node: NodeDirectory) -> AsyncIterator[Watch]:
    """A watch that looks ten times a second until the context ends, and once more then."""
    watch = Watch()
    stopping = asyncio.Event()

    async def look_until_stopped() -> None:
        last = False
        while not last:
            last = stopping.is_set()
            # A look that fails is a look missed: the next one sees whole states again.
            with contextlib.suppress(NodeError, CommandError):
                await watch.look(node)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await stopping.wait()

    task = asyncio.create_task(look_until_stopped(), name="watch the node")
    try:
        yield watch
    finally:
        # Told, not cancelled: a look that just ends could swallow the cancellation.
        stopping.set()
        await task
