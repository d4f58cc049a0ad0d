"""Idempotency keys: UUIDv7 (RFC 9562, section 5.7) in the server's time. Pure but for randomness.

The server refuses keys whose time is too far from its own, and a device's clock may be wrong by
years. So the time comes from `welcome` and then runs with the monotonic clock; before the first
welcome there is only the device's own clock.
"""

from __future__ import annotations

import os

from chatmesh.runtime.clock import Clock


class ServerTime:
    """The server's clock as this device believes it, in ms since the Unix epoch."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_ms: float | None = None

    def heard(self, server_time_ms: int) -> None:
        """The server said its time just now. 0 = it said nothing."""
        if server_time_ms > 0:
            self._offset_ms = server_time_ms - self._clock.monotonic() * 1000

    def now_ms(self) -> int:
        """Server time, or this device's own until the server has been heard."""
        if self._offset_ms is None:
            return self._clock.wall_ms()
        return int(self._offset_ms + self._clock.monotonic() * 1000)


def uuid7(at_ms: int, random_bytes: bytes | None = None) -> bytes:
    """16 bytes: 48 bits of milliseconds, version 7, variant 2, 74 random bits."""
    random = int.from_bytes(random_bytes or os.urandom(10), "big")
    value = (at_ms & ((1 << 48) - 1)) << 80 | (random & ((1 << 80) - 1))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return value.to_bytes(16, "big")
