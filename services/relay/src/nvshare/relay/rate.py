"""How many frames a connection may send: a token bucket. Pure: the time comes in as an argument."""


class TokenBucket:
    """Allows `burst` at once and `rate_per_second` on average."""

    def __init__(self, rate_per_second: float, burst: float, now_s: float) -> None:
        self._rate_per_second = rate_per_second
        self._burst = burst
        self._tokens = burst
        self._filled_at_s = now_s

    def take(self, count: int, now_s: float) -> bool:
        """Takes `count` tokens, or none and returns False when there are fewer. `now_s` is any clock that does not
        go back.
        """
        self._tokens = min(self._burst, self._tokens + (now_s - self._filled_at_s) * self._rate_per_second)
        self._filled_at_s = now_s
        if self._tokens < count:
            return False
        self._tokens -= count
        return True
