"""A bucket of tokens: how often something may be done. Pure: time comes in."""


class TokenBucket:
    """`burst` at once, then `per_second`."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = float(burst)
        self._seen_seconds: float | None = None

    def take(self, now_seconds: float) -> bool:
        """Takes a token, if there is one."""
        if self._seen_seconds is not None:
            gained = (now_seconds - self._seen_seconds) * self._per_second
            self._tokens = min(float(self._burst), self._tokens + gained)
        self._seen_seconds = now_seconds
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
