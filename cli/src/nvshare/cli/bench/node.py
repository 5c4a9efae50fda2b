"""A node for the time of one benchmark, in a folder of its own."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from nvshare.bus.compute import DEFAULT_WEIGHT, NORMAL, PRIORITIES
from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.environment import EmulatedCards, with_emulator
from nvshare.cli.errors import CommandError
from nvshare.cli.job import emulated_cards, shared
from nvshare.cli.node_launch import launch_node
from nvshare.cli.node_options import NodeOptions
from nvshare.cli.node_query import fetch_status
from nvshare.cli.quota import Quota
from nvshare.v1.control_pb2 import GpuStatus


@dataclass(frozen=True)
class BenchNode:
    """A running node, its GPUs, and a folder for the programs' logs."""

    directory: NodeDirectory
    gpus: tuple[GpuStatus, ...]
    cards: EmulatedCards | None

    @property
    def logs(self) -> Path:
        """Where the programs' stderr goes."""
        return self.directory.logs

    @contextlib.asynccontextmanager
    async def environment(
        self,
        name: str,
        gpus: Sequence[GpuStatus],
        *,
        managed: bool,
        memory_limit_bytes: int = 0,
        core_limit_percent: int = 0,
        weight: int = DEFAULT_WEIGHT,
        priority: str = NORMAL,
    ) -> AsyncIterator[Mapping[str, str]]:
        """For a program on `gpus`: under a share that ends with the context, or (not `managed`) without nvshare."""
        base = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "NVSHARE_SOCKET")}
        uuids = [gpu.uuid for gpu in gpus]
        if managed:
            quota = Quota(memory_limit_bytes, core_limit_percent, weight, PRIORITIES[priority])
            async with shared(self.directory, uuids, name, quota, base) as environment:
                yield environment
            return
        base["CUDA_VISIBLE_DEVICES"] = ",".join(uuids)
        yield base if self.cards is None else with_emulator(base, self.cards)


@contextlib.asynccontextmanager
async def temporary_node(
    options: NodeOptions, settings: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[BenchNode]:
    """A node with `options`, but in a new folder, which goes with the context unless something failed.

    `settings` are further variables in its environment.
    """
    with _temporary_folder() as folder:
        node_options = replace(options, directory=folder)
        launched = launch_node(node_options, detach=False, settings=settings)
        try:
            directory = NodeDirectory(folder)
            status = await fetch_status(directory)
            gpus = tuple(sorted(status.gpus, key=lambda gpu: gpu.index))
            yield BenchNode(directory, gpus, emulated_cards(directory))
        finally:
            launched.stop()


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="nvshare-bench-"))
    try:
        yield folder
    except CommandError as error:
        raise CommandError(f"{error} (logs: {folder / 'logs'})", error.exit_code) from error
    except asyncio.CancelledError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
