"""The node's GPUs as the plugin sees them, and who says so. Pure but for the protocol, which others implement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `index` is NVML's, `numa` its NUMA node; None: not known. `total_bytes`: what of its memory is
    shared.
    """

    uuid: str
    index: int
    total_bytes: int
    healthy: bool = True
    numa: int | None = None


class DeviceSource(Protocol):
    """Where GPUs come from: NVML, or what a test says."""

    @property
    def gpus(self) -> tuple[Gpu, ...] | None:
        """All that are shared, in the order of their indices. None: the driver has not answered yet, which is not the
        same as none: running containers keep what they have.
        """

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Keeps `gpus` true until it is cancelled, and calls `on_change` after each change. Never raises for the
        state of the driver.
        """

    async def busy_permille(self) -> Mapping[str, int]:
        """How much of the last second each GPU was busy, as far as the driver says; empty: it does not answer."""
