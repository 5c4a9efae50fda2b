"""Into how many shares each GPU is cut. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nvshare.device_plugin.devices import Gpu

DEFAULT_SHARES = 10
MOST_SHARES = 1000


class ReplicasError(ValueError):
    """A text that says no numbers of shares; the message is one line for people."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """`own`: by UUID, or by NVML's index as text."""

    default: int = DEFAULT_SHARES
    own: Mapping[str, int] = field(default_factory=dict)

    def of(self, gpu: Gpu) -> int:
        """The number of shares of one GPU; 0: it is not shared."""
        return self.own.get(gpu.uuid, self.own.get(str(gpu.index), self.default))


def parse_replicas(text: str) -> Replicas:
    """Numbers of shares as `10` for all, or with others for some: `10,GPU-…=4,0=2`. Raises ReplicasError."""
    default, own = DEFAULT_SHARES, {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, separator, number = word.rpartition("=")
        if not (number.isascii() and number.isdecimal()) or int(number) > MOST_SHARES or (separator and not name):
            raise ReplicasError(f"{word!r} is no number of shares: write 10, or 10,GPU-…=4,0=2, at most {MOST_SHARES}")
        if separator:
            own[name.strip()] = int(number)
        else:
            default = int(number)
    return Replicas(default, own)
