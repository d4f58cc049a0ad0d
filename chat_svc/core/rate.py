"""A token bucket: a sustained rate with a burst. Pure; time is passed in as monotonic seconds."""


class TokenBucket:
    """Starts full. Refilled when asked, so that an idle one costs nothing."""

    __slots__ = ("_burst", "_filled_at", "_per_second", "_tokens")

    def __init__(self, per_second: float, burst: float, now: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = float(burst)
        self._filled_at = now

    def take(self, now: float) -> bool:
        """Take one token; False when there is none."""
        if self._tokens < 1:
            self._refill(now)
            if self._tokens < 1:
                return False
        self._tokens -= 1
        return True

    def wait_seconds(self, now: float) -> float:
        """Until the next token; 0 when there is one."""
        self._refill(now)
        return max(0.0, (1 - self._tokens) / self._per_second)

    def _refill(self, now: float) -> None:
        elapsed = now - self._filled_at
        if elapsed > 0:
            self._tokens = min(self._burst, self._tokens + elapsed * self._per_second)
            self._filled_at = now
