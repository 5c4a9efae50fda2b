"""Settings of the relay, from the environment."""

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from nvshare.bus.node_directory import NodeDirectory
from nvshare.bus.quantities import QuantityError, parse_bytes
from nvshare.bus.subjects import valid_token
from nvshare.relay.session import ServerAddress


class Settings(BaseSettings):
    """NVSHARE_NODE_DIR, NVSHARE_NODE, NVSHARE_NATS_URL, NVSHARE_SIGNING_SEEDS_FD, NVSHARE_ADMIN_GROUP,
    NVSHARE_ARENA.
    """

    model_config = SettingsConfigDict(env_prefix="NVSHARE_", frozen=True)

    node_dir: Path = Field(default_factory=lambda: NodeDirectory.default().path)
    """Folder of the node (docs/protocol.md, "Files of a node")."""

    node: str
    """Name of the node: a token of subjects."""

    nats_url: str
    """Where the node's nats-server listens, as `nats://127.0.0.1:4222`."""

    signing_seeds_fd: int
    """Descriptor to read the Signer's seeds from, to the end; a pipe, so that they are on no disk."""

    admin_group: str = ""
    """Group whose members are admins of the node; empty: none."""

    arena: str = ""
    """Host memory that the relay may make for clients to move memory of their cards to, as `64GiB`; 0: none; empty:
    half of the host's.
    """

    @field_validator("arena")
    @classmethod
    def _check_arena(cls, amount: str) -> str:
        if amount:
            try:
                parse_bytes(amount)
            except QuantityError as error:
                raise ValueError(str(error)) from None
        return amount

    @field_validator("node")
    @classmethod
    def _check_node(cls, node: str) -> str:
        if not valid_token(node):
            raise ValueError("use 1 to 64 characters of A-Z a-z 0-9 _ -")
        return node

    @field_validator("nats_url")
    @classmethod
    def _check_nats_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme != "nats" or not parts.hostname or not parts.port:
            raise ValueError("write it like nats://127.0.0.1:4222")
        return url

    @property
    def server(self) -> ServerAddress:
        """Host and port of `nats_url`."""
        parts = urlsplit(self.nats_url)
        assert parts.hostname is not None  # checked above
        assert parts.port is not None
        return ServerAddress(parts.hostname, parts.port)

    @property
    def arena_bytes(self) -> int | None:
        """Bytes of `arena`; None: it does not say."""
        return parse_bytes(self.arena) if self.arena else None
