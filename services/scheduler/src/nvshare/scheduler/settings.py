"""The scheduler's settings, from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from nvshare.bus.quantities import parse_bytes
from nvshare.scheduler.model import Mode
from nvshare.scheduler.policy import SECOND_NS


class Settings(BaseSettings):
    """Each is read from NVSHARE_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="NVSHARE_")

    node_dir: Path | None = None
    """The node's folder; else the default of docs/protocol.md."""

    node: str | None = None
    """The node's name; else what node.json says."""

    nats_url: str | None = None
    """Where the node's NATS server is; else what node.json says."""

    gpu_memory: int = 0
    """A logical capacity of each GPU, as `16GiB`; 0: the whole card."""

    reserve: int = parse_bytes("256MiB")
    """Memory of each card that is never promised, as `256MiB`."""

    mode: Literal["auto", "serial", "concurrent", "off"] = "auto"
    """How GPUs are shared for which nobody has set anything."""

    quantum_seconds: float = Field(default=2.0, ge=0.01, le=3600)
    """How long a turn is in serial mode, while others wait."""

    @field_validator("gpu_memory", "reserve", mode="before")
    @classmethod
    def _amount(cls, value: object) -> object:
        return parse_bytes(value) if isinstance(value, str) else value

    @property
    def default_mode(self) -> Mode:
        return Mode[self.mode.upper()]

    @property
    def default_quantum_ns(self) -> int:
        return round(self.quantum_seconds * SECOND_NS)
