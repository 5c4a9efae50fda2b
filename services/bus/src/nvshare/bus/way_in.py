"""How a service of a node finds the node's bus: its address, and the service's credential, both in the node's folder.

They change when the node's link is made anew: it has other keys then, and perhaps another port. So whoever joined looks
again whenever the bus is away (`Bus.connect_node`).
"""

import asyncio
from dataclasses import dataclass

import structlog

from nvshare.bus.credentials import CredentialError, ServiceCredential
from nvshare.bus.node_directory import NodeDirectory
from nvshare.bus.subjects import node_token

_LOOK_SECONDS = 0.25

_log = structlog.get_logger()


class NoWayInError(RuntimeError):
    """The node's folder does not say yet how to join its bus; or half of it is there, because it is being written."""


@dataclass(frozen=True, slots=True)
class Found:
    """The node's name as a token of subjects, where its bus is, and who one is there."""

    node: str
    url: str
    credential: ServiceCredential


@dataclass(frozen=True, slots=True)
class WayIn:
    """What the node's folder says to `service`. A `node` and a `url` that are given count before what stands there."""

    directory: NodeDirectory
    service: str
    node: str | None = None
    url: str | None = None

    def read(self) -> Found:
        """What it says now. Raises NoWayInError."""
        try:
            text = self.directory.service_credentials(self.service).read_text()
            node, url = self.node, self.url
            if not node or not url:
                description = self.directory.read_description()
                node, url = node or str(description["node"]), url or str(description["nats_url"])
            return Found(node_token(node), url, ServiceCredential.from_text(text))
        except (OSError, ValueError, KeyError, CredentialError) as error:
            raise NoWayInError(f"{self.directory.path} says no way into the node's bus yet: {error!r}") from None

    async def wait(self) -> Found:
        """What it says as soon as it says something."""
        said = False
        while True:
            try:
                return self.read()
            except NoWayInError as error:
                if not said:
                    said = True
                    _log.warning("the node has no bus yet; waiting", reason=str(error))
            await asyncio.sleep(_LOOK_SECONDS)
