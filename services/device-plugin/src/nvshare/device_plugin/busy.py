"""How busy each GPU was of late: the mean over a window of what the driver says each second. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping


class BusyShares:
    """Means over the last `window_ns`."""

    def __init__(self, window_ns: int) -> None:
        self._window_ns = window_ns
        self._samples: dict[str, deque[tuple[int, int]]] = {}

    def sampled(self, busy_permille: Mapping[str, int], now_ns: int) -> None:
        """The driver says so now."""
        for gpu, permille in busy_permille.items():
            samples = self._samples.setdefault(gpu, deque())
            samples.append((now_ns, permille))
            while samples[0][0] <= now_ns - self._window_ns:
                samples.popleft()

    def mean_permille(self, gpu: str) -> int:
        """Of one GPU; 0 while nothing is known."""
        samples = self._samples.get(gpu)
        return sum(permille for _, permille in samples) // len(samples) if samples else 0
