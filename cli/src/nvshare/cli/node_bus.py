"""The bus of a node, which `nvshare up` and `nvshare link` run: keys, services' credentials, NATS server and relay."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from nvshare.bus.credentials import NodeKeys
from nvshare.bus.hub_access import HubAccess, HubAccessError
from nvshare.bus.leaf_watch import watch_leaf
from nvshare.bus.nats_server import NatsServer, NatsServerError
from nvshare.bus.node_directory import NodeDirectory, write_atomically
from nvshare.bus.runtime import configure_log
from nvshare.bus.version import BUILD, VERSION
from nvshare.cli.environment import EmulatedCards
from nvshare.cli.errors import CommandError
from nvshare.cli.node_options import NATS_PORT_KEPT, HubOption, NodeOptions
from nvshare.cli.supervisor import ServiceProcess, Supervisor

SERVICES = ("scheduler", "device-plugin", "metrics")
"""Who finds a credential in the node's folder."""

KEPT_PORT = "port"  # in the folder of the NATS server


@dataclass(frozen=True)
class NodeBus:
    """A NATS server that runs, and the supervisor that keeps it and what is started with it."""

    node: NodeDirectory
    name: str
    server: NatsServer
    supervisor: Supervisor
    keys: NodeKeys

    def start_relay(self, environment: Mapping[str, str]) -> None:
        """Keep the relay running, which alone gets the seeds that sign credentials."""
        service = ServiceProcess(
            "relay",
            (sys.executable, "-m", "nvshare.relay"),
            {**environment, "NVSHARE_NATS_URL": self.server.url},
            secret=self.keys.signer.to_bytes(),
            secret_variable="NVSHARE_SIGNING_SEEDS_FD",
        )
        self.supervisor.start(service)

    def describe(self, cards: EmulatedCards | None) -> None:
        """Write node.json (docs/protocol.md, "Files of a node"), by which everybody finds the bus."""
        self.node.write_description(
            {
                "node": self.name,
                "pid": os.getpid(),
                "version": VERSION,
                "build": BUILD,
                "emulated": cards is not None,
                "emulator_dir": str(cards.folder) if cards is not None else None,
                "nats_url": self.server.url,
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )


@contextlib.asynccontextmanager
async def running_bus(
    options: NodeOptions, name: str, announce: Callable[[str], None], log_directory: Path | None
) -> AsyncIterator[NodeBus]:
    """The bus of the node in `options.directory`, with new keys; at the end all services that the supervisor keeps are
    ended, the last started first. Without a `log_directory` they write where we do. Raises CommandError.
    """
    node = NodeDirectory(options.directory.absolute())
    hub = None if options.hub is None else hub_access(options.hub)
    keys = NodeKeys.generate(name)
    node.credentials.mkdir(mode=0o700, exist_ok=True)
    for service in SERVICES:
        write_atomically(node.service_credentials(service), keys.signer.service_jwt(service), mode=0o600)
    supervisor = Supervisor(log_directory, announce)
    with contextlib.ExitStack() as stack:
        log: IO[bytes] = sys.stderr.buffer
        if log_directory is not None:
            log_directory.mkdir(exist_ok=True)
            log = stack.enter_context((log_directory / "nats.log").open("ab"))
        server = await _start(node, keys, log, hub, options.nats_port)
        try:
            supervisor.keep("nats", lambda: run_nats(server))
            async with _watched_leaf(server, keys) if hub is not None else contextlib.nullcontext():
                yield NodeBus(node, name, server, supervisor, keys)
        finally:
            node.description.unlink(missing_ok=True)
            await supervisor.stop()


@contextlib.asynccontextmanager
async def _watched_leaf(server: NatsServer, keys: NodeKeys) -> AsyncIterator[None]:
    """Watch over the server's leaf as long as the context lasts."""
    configure_log("leaf")
    watching = asyncio.create_task(watch_leaf(server.url, keys), name="watch over the leaf")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def hub_access(option: HubOption) -> HubAccess:
    """How the node's server gets into the hub. Raises CommandError."""
    try:
        access = HubAccess.read(option.url, option.credentials, option.ca_file)
        access.leaf_url()
    except HubAccessError as error:
        raise CommandError(str(error)) from error
    return access


async def run_nats(server: NatsServer) -> int:
    """Run the NATS server to its end, started here unless it runs already; cancelled, it is ended."""
    if server.pid is None:
        await server.start()
    try:
        return await server.wait()
    except asyncio.CancelledError:
        await server.stop()
        raise


async def _start(node: NodeDirectory, keys: NodeKeys, log: IO[bytes], hub: HubAccess | None, port: int) -> NatsServer:
    """Start the NATS server, at the port of the last one if there is a choice: who was there finds it sooner."""
    wanted = [port] if port != NATS_PORT_KEPT else [*_kept_port(node), -1]
    for place in wanted:
        server = NatsServer(keys, node.nats, log=log, port=place, hub=hub)
        try:
            await server.start()
        except (NatsServerError, OSError) as error:
            if place == wanted[-1]:
                raise CommandError(str(error)) from error
            continue
        write_atomically(node.nats / KEPT_PORT, json.dumps(server.port))
        break
    return server


def _kept_port(node: NodeDirectory) -> list[int]:
    try:
        port = json.loads((node.nats / KEPT_PORT).read_text())
    except (OSError, ValueError):
        return []
    return [port] if isinstance(port, int) and 0 < port < 65536 else []
