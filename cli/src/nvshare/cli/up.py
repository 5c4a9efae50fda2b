"""`nvshare up`: one node in the foreground: the NATS server, the relay and the scheduler under one supervisor."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable

from nvshare.bus.node_directory import NodeDirectory
from nvshare.bus.quantities import format_bytes
from nvshare.bus.subjects import node_token
from nvshare.bus.version import BUILD, VERSION
from nvshare.cli.environment import EmulatedCards, service_environment
from nvshare.cli.gpu_claims import claimed, real_gpus
from nvshare.cli.log_files import limited_logs
from nvshare.cli.node_bus import running_bus
from nvshare.cli.node_folder import check_directory, emulated_cards, locked
from nvshare.cli.node_options import NodeOptions
from nvshare.cli.node_query import wait_until_serving
from nvshare.cli.supervisor import ServiceProcess
from nvshare.v1.control_pb2 import StatusReply

SERVE_SECONDS = 20.0
LOGS = ("up", "nats", "relay", "scheduler")


async def run_node(options: NodeOptions, announce: Callable[[str], None], ready: Callable[[], None]) -> None:
    """Run a node until SIGINT or SIGTERM. `ready` is called once, when it serves.

    Raises NodeRunsError when another process runs one in this folder, CommandError when it cannot start.
    """
    node = NodeDirectory(options.directory.absolute())
    # Others may read what the node and its services make, and never write: the modes that are stricter say so.
    os.umask(0o022)
    check_directory(node.path)
    with locked(node), claimed(() if options.emulated_gpus else real_gpus(options.gpus)):
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        with emulated_cards(node, options) as cards:
            async with limited_logs([node.log(name) for name in LOGS]):
                await _serve(node, options, cards, announce, ready, stop)


async def _serve(
    node: NodeDirectory,
    options: NodeOptions,
    cards: EmulatedCards | None,
    announce: Callable[[str], None],
    ready: Callable[[], None],
    stop: asyncio.Event,
) -> None:
    host = node_token(socket.gethostname())
    environment = service_environment(os.environ, node.path, host, options, cards)
    async with running_bus(options, host, announce, node.logs) as bus:
        environment["NVSHARE_NATS_URL"] = bus.server.url
        bus.describe(cards)
        bus.start_relay(environment)
        bus.supervisor.start(ServiceProcess("scheduler", (sys.executable, "-m", "nvshare.scheduler"), environment))
        if await _becomes_ready(node, stop, announce):
            ready()
            await stop.wait()


async def _becomes_ready(node: NodeDirectory, stop: asyncio.Event, announce: Callable[[str], None]) -> bool:
    """Wait until the node serves, and say so; False: it was told to stop first."""
    serving = asyncio.ensure_future(wait_until_serving(node, SERVE_SECONDS))
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            return False
        for line in welcome(node, serving.result()):
            announce(line)
        return True
    finally:
        serving.cancel()
        stopping.cancel()
        await asyncio.gather(serving, stopping, return_exceptions=True)


def welcome(node: NodeDirectory, status: StatusReply) -> list[str]:
    """The lines that say what the node shares."""
    gpus = [
        f"GPU {gpu.index}: {gpu.name}, {format_bytes(gpu.capacity_bytes)} to share, {gpu.uuid}"
        for gpu in sorted(status.gpus, key=lambda gpu: gpu.index)
    ]
    return [f"nvshare {VERSION} ({BUILD}) serves node {status.node} in {node.path}", *gpus]
