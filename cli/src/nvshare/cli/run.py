"""`nvshare run`: one program under a share of a node's GPUs; starts a node if none runs."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.errors import CommandError
from nvshare.cli.foreground import NOT_FOUND, run_in_foreground
from nvshare.cli.job import choose_gpus, emulated_cards, limit_fits, shared
from nvshare.cli.node_launch import START_SECONDS, launch_node
from nvshare.cli.node_options import NodeOptions
from nvshare.cli.node_query import fetch_status, find_node, wait_until_serving
from nvshare.cli.quota import Quota
from nvshare.v1.control_pb2 import StatusReply

LONGEST_NAME = 64  # characters of an allocation's name


@dataclass(frozen=True)
class JobOptions:
    """`gpus`: indices or UUIDs, comma-separated. `emulated_gpus` 0: real ones.

    `managed`: the driver pages the program's memory. `host_memory`: where its memory goes that leaves the card; None:
    as the environment says.
    """

    node_dir: Path | None = None
    gpus: str | None = None
    quota: Quota = field(default_factory=Quota)
    name: str | None = None
    emulated_gpus: int = 0
    managed: bool = False
    host_memory: str | None = None

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """`base` with what the program's library is to know."""
        environment = dict(base)
        if self.managed:
            environment["NVSHARE_MANAGED"] = "1"
        if self.host_memory is not None:
            environment["NVSHARE_HOST_MEMORY"] = self.host_memory
        return environment


async def run_job(command: Sequence[str], options: JobOptions) -> int:
    """Run `command` under a share; returns its exit status. Raises CommandError or NodeError."""
    if shutil.which(command[0]) is None:
        raise CommandError(f"command not found: {command[0]}", NOT_FOUND)
    node, status = await ensure_node(options)
    gpus = choose_gpus(status, options.gpus)
    limit_fits(status.gpus, gpus, options.quota.memory_limit_bytes or 0)
    name = options.name or Path(command[0]).name[:LONGEST_NAME]
    async with shared(node, gpus, name, options.quota, options.environment(os.environ)) as environment:
        if emulated_cards(node) is not None:  # no result of a real card: nobody is to take it for one
            print(f"nvshare: {name} runs on an emulated GPU of the node in {node.path}", file=sys.stderr, flush=True)
        # Nothing else runs on this loop: it may wait as long as the program does.
        return run_in_foreground(command, environment)


async def ensure_node(options: JobOptions) -> tuple[NodeDirectory, StatusReply]:
    """The node to run on and its status; started here, and left running, if none runs."""
    node = find_node(options.node_dir)
    if node is None:
        node_options = NodeOptions.default(options.node_dir, options.emulated_gpus)
        launched = launch_node(node_options, detach=True)
        node = NodeDirectory(node_options.directory.absolute())
        if not launched.started:  # somebody else was faster
            return node, await wait_until_serving(node, START_SECONDS)
    if options.emulated_gpus and emulated_cards(node) is None:
        raise CommandError(f"the node in {node.path} has real GPUs; for emulated ones name another with --node-dir")
    return node, await fetch_status(node)
