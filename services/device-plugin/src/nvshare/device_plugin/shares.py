"""The shares of GPUs that kubelet knows as devices: `GPU-<uuid>::<number>`, the same after any restart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

RESOURCE = "nvshare.com/gpu"
_SEPARATOR = "::"


class ShareError(ValueError):
    """A text that names no share; the message is one line for people."""


@dataclass(frozen=True, slots=True, order=True)
class Share:
    """One of the equal shares of a GPU. `number` counts from 0."""

    gpu: str
    number: int

    @property
    def id(self) -> str:
        """As kubelet knows it: at most 63 characters."""
        return f"{self.gpu}{_SEPARATOR}{self.number}"


def parse_share(device_id: str) -> Share:
    """The share that kubelet names so. Raises ShareError."""
    gpu, separator, number = device_id.rpartition(_SEPARATOR)
    if not separator or not gpu or not (number.isascii() and number.isdecimal()):
        raise ShareError(f"{device_id!r} names no share of a GPU: it should look like GPU-…{_SEPARATOR}0")
    return Share(gpu, int(number))


def gpus_of(shares: Iterable[Share]) -> tuple[str, ...]:
    """The GPUs of these shares, each once, in the order of the first share of each."""
    return tuple(dict.fromkeys(share.gpu for share in shares))
