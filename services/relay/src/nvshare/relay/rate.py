"""How much may pass: a token bucket. Pure: the time comes in as an argument."""


class TokenBucket:
    """Allows `burst` at once and `rate_per_second` on average. `now_s` is any clock that does not go back."""

    def __init__(self, rate_per_second: float, burst: float, now_s: float) -> None:
        self._rate_per_second = rate_per_second
        self._burst = burst
        self._tokens = burst
        self._filled_at_s = now_s

    def is_full(self, now_s: float) -> bool:
        """Whether nothing was taken lately: a new bucket would be the same."""
        return self._tokens + (now_s - self._filled_at_s) * self._rate_per_second >= self._burst

    def take(self, count: int, now_s: float) -> bool:
        """Takes `count` tokens, or none and returns False when there are fewer."""
        return self.borrow(count, now_s, longest_s=0.0) is not None

    def borrow(self, count: int, now_s: float, longest_s: float) -> float | None:
        """Takes `count` tokens, of which some may be still to come. Returns the seconds until they are there; None, and
        takes none, when these are more than `longest_s`.
        """
        self._tokens = min(self._burst, self._tokens + (now_s - self._filled_at_s) * self._rate_per_second)
        self._filled_at_s = now_s
        wait_s = max(0.0, (count - self._tokens) / self._rate_per_second)
        if wait_s > longest_s:
            return None
        self._tokens -= count
        return wait_s
