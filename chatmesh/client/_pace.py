"""How fast a client may speak, and how long it waits before it comes back. Pure; seconds in.

Rules: no clock and no randomness of its own, both are passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

RATE_SHARE: Final = 0.8
BURST_SHARE: Final = 0.5
"""Shares of the server's limits that are used: the two buckets are not in step."""


class FrameBucket:
    """Token bucket over client frames, so that the server's `frames_per_second` is never met."""

    def __init__(self) -> None:
        self._rate = 50.0  # before welcome says better: pings and hello only
        self._burst = 50.0
        self._tokens = 50.0
        self._at = 0.0

    def configure(self, frames_per_second: int, frames_burst: int, now: float) -> None:
        """Take the limits of `welcome`; the bucket of a new session is full. 0 = not said."""
        self._rate = max(1.0, (frames_per_second or 50) * RATE_SHARE)
        self._burst = max(1.0, (frames_burst or 50) * BURST_SHARE)
        self._tokens, self._at = self._burst, now

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now

    def ready_at(self, now: float) -> float:
        """When a frame may go: `now`, or later."""
        self._fill(now)
        return now if self._tokens >= 1.0 else now + (1.0 - self._tokens) / self._rate

    def spend(self, now: float) -> None:
        """A frame went. May go below zero: pings never wait."""
        self._fill(now)
        self._tokens -= 1.0


class Backoff:
    """Full jitter (Brooker, "Exponential Backoff And Jitter", 2015), reset by a good session."""

    def __init__(
        self, base_seconds: float, cap_seconds: float, random: Callable[[], float]
    ) -> None:
        self._base = base_seconds
        self._cap = cap_seconds
        self._random = random
        self.failures = 0

    def good(self) -> None:
        """A session proved useful: the next loss starts from the base again."""
        self.failures = 0

    def next(self, at_least_seconds: float = 0.0) -> float:
        """Seconds to wait after one more failure."""
        ceiling = min(self._cap, self._base * float(1 << min(self.failures, 20)))
        self.failures += 1
        return self.spread(at_least_seconds) + self._random() * ceiling

    def spread(self, seconds: float) -> float:
        """Advice of the server, spread by up to a quarter so that clients do not come together."""
        return seconds * (1.0 + 0.25 * self._random())
