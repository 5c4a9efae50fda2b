"""The options by which a node is told of its hub, and what they mean."""

from pathlib import Path
from typing import Annotated

import typer

from nvshare.cli.arguments import USAGE
from nvshare.cli.errors import CommandError
from nvshare.cli.node_options import NATS_PORT_KEPT, HubOption

HubUrl = Annotated[
    str | None,
    typer.Option(
        "--hub", envvar="NVSHARE_HUB_URL", metavar="URL", help="Leaf address of a hub, as nats-leaf://hub.example:7422."
    ),
]
HubCredentials = Annotated[
    Path | None,
    typer.Option(
        envvar="NVSHARE_HUB_CREDENTIALS",
        metavar="FILE",
        help="What lets the node into the hub: user:password, or credentials as nsc writes them.",
    ),
]
HubCa = Annotated[
    Path | None,
    typer.Option(envvar="NVSHARE_HUB_CA", metavar="FILE", help="Certificates by which the hub's is judged."),
]
NatsPort = Annotated[
    int | None,
    typer.Option(
        envvar="NVSHARE_NATS_PORT",
        metavar="P",
        help="Port of the node's NATS server, on loopback. Default: the last one's, if it is free.",
    ),
]


def hub_option(url: str | None, credentials: Path | None, ca_file: Path | None) -> HubOption | None:
    """The hub that the options name; None where none is. Raises CommandError."""
    if url:
        return HubOption(url, credentials, ca_file)
    if credentials is not None or ca_file is not None:
        raise CommandError("--hub-credentials and --hub-ca are for a hub: give --hub", USAGE)
    return None


def nats_port_number(port: int | None) -> int:
    """The port of the node's NATS server. Raises CommandError."""
    if port is None:
        return NATS_PORT_KEPT
    if not 0 < port < 65536:
        raise CommandError(f"--nats-port {port}: give a port from 1 to 65535", USAGE)
    return port
