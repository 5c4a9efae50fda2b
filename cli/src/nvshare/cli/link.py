"""`nvshare link`: the bus of a node without its scheduler, for a cluster, where each service is a container of its own.

The containers of a node share its folder and nothing else. So nobody is known by a pid here: the lock on the folder
says that a link runs, and each service finds its credential and the bus by the folder (`nvshare.bus.way_in`).
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from nvshare.bus.node_directory import NodeDirectory
from nvshare.bus.subjects import node_token
from nvshare.cli.environment import service_environment
from nvshare.cli.errors import CommandError
from nvshare.cli.hub_options import HubCa, HubCredentials, HubUrl, NatsPort, hub_option, nats_port_number
from nvshare.cli.node_bus import running_bus
from nvshare.cli.node_folder import NodeRunsError, check_directory, locked
from nvshare.cli.node_options import NodeOptions

RELAY_SECONDS = 20.0
LOCK_SECONDS = 60.0  # a link that is being ended has until then
POLL_SECONDS = 0.05


def link(
    node: Annotated[
        str | None,
        typer.Option(envvar="NVSHARE_NODE", metavar="NAME", help="The node's name on the bus. Default: the host's."),
    ] = None,
    hub: HubUrl = None,
    hub_credentials: HubCredentials = None,
    hub_ca: HubCa = None,
    nats_port: NatsPort = None,
    node_dir: Annotated[
        Path | None, typer.Option(metavar="D", help="The node's folder. Default: this user's own.")
    ] = None,
) -> None:
    """Run the bus of a node in the foreground: NATS server and relay, without a scheduler. Ctrl-C ends both.

    For a cluster, where scheduler and device plugin are containers of their own. They find the bus by the node's
    folder, which all of them share, and come back by themselves when the link was started again.

    Examples:

    - `nvshare link --hub nats-leaf://hub.example:7422 --hub-credentials /etc/nvshare/hub/leaf`
    - `nvshare link --node worker-1 --node-dir /var/lib/nvshare`: without a hub; quotas stay as they are.
    - `nvshare link --hub tls://hub.example:7422 --hub-ca ca.crt --hub-credentials leaf.creds --nats-port 4333`
    """
    options = NodeOptions(
        directory=NodeOptions.default(node_dir).directory,
        hub=hub_option(hub, hub_credentials, hub_ca),
        nats_port=nats_port_number(nats_port),
    )
    asyncio.run(run_link(options, node_token(node or socket.gethostname()), typer.echo))


async def run_link(options: NodeOptions, name: str, announce: Callable[[str], None]) -> None:
    """Run the bus of the node `name` until SIGINT or SIGTERM. Raises CommandError when it cannot start."""
    node = NodeDirectory(options.directory)
    os.umask(0o022)
    check_directory(node.path)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with contextlib.ExitStack() as stack:
        await _lock(stack, node, announce, stop)
        if stop.is_set():
            return
        async with running_bus(options, name, announce, log_directory=None) as bus:
            bus.describe(cards=None)
            bus.start_relay(service_environment(os.environ, node.path, name, options, None))
            if await _relay_listens(node, stop):
                announce(f"the bus of node {name} is at {bus.server.url}, for whoever finds it in {node.path}")
                await stop.wait()


async def _lock(
    stack: contextlib.ExitStack, node: NodeDirectory, announce: Callable[[str], None], stop: asyncio.Event
) -> None:
    """Hold the node's lock in `stack`, as soon as an earlier link is gone. Raises NodeRunsError when it stays."""
    deadline = time.monotonic() + LOCK_SECONDS
    said = False
    while not stop.is_set():
        try:
            stack.enter_context(locked(node))
            return
        except NodeRunsError:
            if time.monotonic() >= deadline:
                raise
        if not said:
            said = True
            announce(f"another node runs in {node.path}; waiting for its end")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), POLL_SECONDS)


async def _relay_listens(node: NodeDirectory, stop: asyncio.Event) -> bool:
    """Wait until the relay lets users in; False: it was told to stop first. Raises CommandError."""
    deadline = time.monotonic() + RELAY_SECONDS
    while not stop.is_set():
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_unix_connection(node.control_socket)
            writer.close()
            return True
        if time.monotonic() >= deadline:
            raise CommandError(f"the relay does not listen on {node.control_socket} after {RELAY_SECONDS:.0f} s")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), POLL_SECONDS)
    return False
