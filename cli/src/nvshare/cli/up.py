"""`nvshare up`: one node in the foreground: the NATS server, the relay and the scheduler under one supervisor."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from nvshare.bus.credentials import NodeKeys
from nvshare.bus.nats_server import NatsServer, NatsServerError
from nvshare.bus.node_directory import NodeDirectory, write_atomically
from nvshare.bus.quantities import format_bytes
from nvshare.bus.version import BUILD, VERSION
from nvshare.cli.environment import EmulatedCards, service_environment
from nvshare.cli.errors import CommandError
from nvshare.cli.gpu_claims import claimed, real_gpus
from nvshare.cli.log_files import limited_logs
from nvshare.cli.node_folder import check_directory, emulated_cards, locked
from nvshare.cli.node_options import NodeOptions
from nvshare.cli.node_query import wait_until_serving
from nvshare.cli.supervisor import ServiceProcess, Supervisor
from nvshare.v1.control_pb2 import StatusReply

SERVE_SECONDS = 20.0
LOGS = ("up", "nats", "relay", "scheduler")


def node_name(host: str) -> str:
    """A host's name as a token of subjects: other characters become `-`, at most 64 of them."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", host)[:64] or "node"


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
    host = node_name(socket.gethostname())
    environment = service_environment(os.environ, node.path, host, options, cards)
    keys = NodeKeys.generate(host)
    node.logs.mkdir(exist_ok=True)
    node.credentials.mkdir(mode=0o700, exist_ok=True)
    write_atomically(node.service_credentials("scheduler"), keys.signer.service_jwt("scheduler"), mode=0o600)
    supervisor = Supervisor(node.logs, announce)
    with node.log("nats").open("ab") as nats_log:
        server = NatsServer(keys, node.nats, log=nats_log)
        try:
            await server.start()
        except (NatsServerError, OSError) as error:
            raise CommandError(str(error)) from error
        try:
            supervisor.keep("nats", lambda: run_nats(server))
            environment["NVSHARE_NATS_URL"] = server.url
            node.write_description(describe(node, environment, server, cards))
            for service in node_services(environment, keys):
                supervisor.start(service)
            if await _becomes_ready(node, stop, announce):
                ready()
                await stop.wait()
        finally:
            node.description.unlink(missing_ok=True)
            await supervisor.stop()


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


async def run_nats(server: NatsServer) -> int:
    """Run the NATS server to its end, started here unless it runs already; cancelled, it is ended."""
    if server.pid is None:
        await server.start()
    try:
        return await server.wait()
    except asyncio.CancelledError:
        await server.stop()
        raise


def node_services(environment: Mapping[str, str], keys: NodeKeys) -> tuple[ServiceProcess, ...]:
    """The node's services in the order in which they start. Only the relay gets the seeds that sign credentials."""
    relay = ServiceProcess(
        "relay",
        (sys.executable, "-m", "nvshare.relay"),
        environment,
        secret=keys.signer.to_bytes(),
        secret_variable="NVSHARE_SIGNING_SEEDS_FD",
    )
    return relay, ServiceProcess("scheduler", (sys.executable, "-m", "nvshare.scheduler"), environment)


def describe(
    node: NodeDirectory, environment: Mapping[str, str], server: NatsServer, cards: EmulatedCards | None
) -> dict[str, Any]:
    """What node.json says (docs/protocol.md, "Files of a node")."""
    return {
        "node": environment["NVSHARE_NODE"],
        "pid": os.getpid(),
        "version": VERSION,
        "build": BUILD,
        "emulated": cards is not None,
        "emulator_dir": str(cards.folder) if cards is not None else None,
        "nats_url": server.url,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def welcome(node: NodeDirectory, status: StatusReply) -> list[str]:
    """The lines that say what the node shares."""
    gpus = [
        f"GPU {gpu.index}: {gpu.name}, {format_bytes(gpu.capacity_bytes)} to share, {gpu.uuid}"
        for gpu in sorted(status.gpus, key=lambda gpu: gpu.index)
    ]
    return [f"nvshare {VERSION} ({BUILD}) serves node {status.node} in {node.path}", *gpus]
