"""The scheduler's settings, from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from nvshare.bus.quantities import parse_bytes
from nvshare.scheduler.model import Mode, TimeSharing
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

    gpus: str = ""
    """The GPUs that are shared, by index as NVML counts them, as `0,2`; empty: all."""

    gpu_memory: int = 0
    """A logical capacity of each GPU, as `16GiB`; 0: the whole card."""

    reserve: int = parse_bytes("256MiB")
    """Memory of each card that is never promised, as `256MiB`."""

    mode: Literal["auto", "serial", "concurrent", "off"] = "auto"
    """How GPUs are shared for which nobody has set anything."""

    time_sharing: Literal["auto", "driver", "slices", "slots"] = "auto"
    """By which means programs that are on a GPU share its time; `auto`: whichever fits."""

    quantum: Literal["auto"] | float = "auto"
    """For how many seconds a client keeps its place while others wait; `auto`: from the measured time of a swap."""

    max_wait: float = Field(default=30.0, gt=0, le=86_400)
    """With the automatic quantum nobody should wait for more seconds than this."""

    overcommit: float = Field(default=0.0, ge=0, le=1000)
    """All that programs need together may not pass this multiple of a GPU's capacity; 0: no cap."""

    gangs: Literal["auto", "off"] = "auto"
    """Programs whose work spans GPUs get all of their GPUs together; `off`: each GPU decides for itself."""

    @field_validator("gpu_memory", "reserve", mode="before")
    @classmethod
    def _amount(cls, value: object) -> object:
        return parse_bytes(value) if isinstance(value, str) else value

    @field_validator("gpus")
    @classmethod
    def _indices(cls, value: str) -> str:
        if value and not all(word.isdecimal() for word in value.split(",")):
            raise ValueError("give indices of GPUs, such as 0,2")
        return value

    @field_validator("quantum")
    @classmethod
    def _bearable(cls, value: str | float) -> str | float:
        if isinstance(value, float) and not 0.01 <= value <= 3600:
            raise ValueError("give auto, or seconds between 0.01 and 3600")
        return value

    @property
    def gpu_indices(self) -> frozenset[int]:
        """Empty: all."""
        return frozenset(map(int, self.gpus.split(","))) if self.gpus else frozenset()

    @property
    def default_mode(self) -> Mode:
        return Mode[self.mode.upper()]

    @property
    def time_sharing_means(self) -> TimeSharing:
        return TimeSharing[self.time_sharing.upper()]

    @property
    def default_quantum_ns(self) -> int:
        """0: automatic."""
        return 0 if self.quantum == "auto" else round(self.quantum * SECOND_NS)

    @property
    def max_wait_ns(self) -> int:
        return round(self.max_wait * SECOND_NS)

    @property
    def overcommit_percent(self) -> int:
        return round(self.overcommit * 100)
