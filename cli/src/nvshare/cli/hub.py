"""`nvshare hub`: the NATS server between the nodes, in the foreground."""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from nvshare.bus.hub_access import CLIENT_PORT, LEAF_PORT
from nvshare.bus.hub_server import ANY_NODE, HubOptions, HubServer, leaf_user
from nvshare.bus.nats_server import NatsServerError
from nvshare.bus.node_directory import write_atomically
from nvshare.bus.quantities import format_bytes
from nvshare.bus.subjects import node_token
from nvshare.cli.arguments import USAGE, size_bytes
from nvshare.cli.errors import CommandError

MONITOR_PORT = 8222
STORE_BYTES = 1024**3
LEAST_STORE_BYTES = 640 * 2**20  # its streams reserve their largest sizes


def hub(
    store: Annotated[
        Path, typer.Option(envvar="NVSHARE_HUB_STORE", metavar="DIR", help="Where it keeps what is to be kept.")
    ] = Path("/data"),
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(metavar="P", help="For quota-watcher and tools.")] = CLIENT_PORT,
    leaf_port: Annotated[int, typer.Option(metavar="P", help="For the nodes.")] = LEAF_PORT,
    monitor_port: Annotated[int, typer.Option(metavar="P", help="For health checks, by HTTP; 0: none.")] = MONITOR_PORT,
    node: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A node with a user of its own, once for each. Default: one for all nodes."),
    ] = None,
    store_size: Annotated[str | None, typer.Option(metavar="SIZE", help="Most that is kept. Default: 1GiB.")] = None,
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="Its certificate, for TLS.")] = None,
    certificate_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The key of that.")] = None,
) -> None:
    """Run the hub in the foreground: the NATS server between the nodes of a cluster. Ctrl-C ends it.

    Its users are `leaf` (the nodes), `watcher` (quota-watcher) and `tool` (reads only). Their passwords are
    $NVSHARE_HUB_LEAF_PASSWORD, $NVSHARE_HUB_WATCHER_PASSWORD and $NVSHARE_HUB_TOOL_PASSWORD; those that are not set are
    made once and kept in DIR, each in a file that `--hub-credentials` of a node takes. All nodes share the first:
    whoever has it can speak for any node. `--node` gives each a user of its own, `leaf-NAME`, which can speak for that
    node only.

    Examples:

    - `nvshare hub --store ~/hub`; then elsewhere `nvshare up --hub nats-leaf://HOST:7422 --hub-credentials leaf`
    - `nvshare hub --store ~/hub --node worker-1 --node worker-2`: files `leaf-worker-1` and `leaf-worker-2`
    - `nvshare hub --store ~/hub --host 127.0.0.1 --port 4300 --leaf-port 7500 --monitor-port 0`
    """
    if (certificate is None) != (certificate_key is None):
        raise CommandError("TLS needs both --certificate and --certificate-key", USAGE)
    store_bytes = size_bytes("--store-size", store_size) or STORE_BYTES
    if store_bytes < LEAST_STORE_BYTES:
        raise CommandError(f"--store-size {store_size}: give {format_bytes(LEAST_STORE_BYTES)} or more", USAGE)
    try:
        folder = store.expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
        names = [node_token(name) for name in node or []] or [ANY_NODE]
        passwords = {user: password(folder, user) for user in (*map(leaf_user, names), "watcher", "tool")}
    except OSError as error:
        where = f"cannot use {error.filename}: {error.strerror}"
        raise CommandError(f"{where}; choose another folder with --store") from error
    options = HubOptions(
        store=folder,
        host=host,
        port=port,
        leaf_port=leaf_port,
        nodes={name: passwords[leaf_user(name)] for name in names},
        watcher_password=passwords["watcher"],
        tool_password=passwords["tool"],
        store_bytes=store_bytes,
        certificate=None if certificate is None else certificate.absolute(),
        certificate_key=None if certificate_key is None else certificate_key.absolute(),
        http_port=monitor_port or None,
    )
    asyncio.run(run_hub(options, folder / "nats", typer.echo))


def password(folder: Path, user: str) -> str:
    """The password of `user`: from the environment, else the one that is kept in `folder`, else a new one, which is
    kept there as `user:password`. Raises OSError.
    """
    given = os.environ.get(f"NVSHARE_HUB_{user.upper().replace('-', '_')}_PASSWORD")
    if given:
        return given
    path = folder / user
    with contextlib.suppress(FileNotFoundError):
        name, _, kept = path.read_text().strip().partition(":")
        if name == user and kept:
            return kept
    made = secrets.token_urlsafe(24)
    write_atomically(path, f"{user}:{made}\n", mode=0o600)
    return made


async def run_hub(options: HubOptions, directory: Path, announce: Callable[[str], None]) -> None:
    """Run the hub until SIGINT or SIGTERM, with its configuration in `directory`. Raises CommandError when it cannot
    start, or ends by itself.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = HubServer(options, directory, log=sys.stderr.buffer)
    try:
        await server.start()
    except (NatsServerError, OSError) as error:
        raise CommandError(str(error)) from error
    ended = asyncio.ensure_future(server.wait())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        announce(f"the hub listens on {options.host}: port {server.port} for clients, {server.leaf_port} for nodes")
        await asyncio.wait((ended, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        await server.stop()
    status = await ended
    if not stop.is_set():
        raise CommandError(f"the hub ended by itself with status {status}: see what it wrote")
