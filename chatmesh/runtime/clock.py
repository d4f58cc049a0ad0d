"""Time, injected: nothing else in the mesh reads a clock.

Three times that must not be mixed up:
- `wall_ms` (Unix epoch) is for people and tokens; it may step in either direction.
- `monotonic` (seconds) is for timeouts inside one process; it stands still during a suspend.
- `boottime_ns` also counts suspends: leases use it, because the others saw that time pass.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

_BOOT_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""macOS has no CLOCK_BOOTTIME; its CLOCK_MONOTONIC goes on counting while the machine sleeps."""


class Clock(Protocol):
    """What a clock answers."""

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary start, never falling."""
        ...

    def boottime_ns(self) -> int:
        """Nanoseconds since boot, time spent suspended included."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds since an arbitrary start, never falling."""
        return time.monotonic()

    def boottime_ns(self) -> int:
        """Nanoseconds since boot, time spent suspended included."""
        return time.clock_gettime_ns(_BOOT_CLOCK)

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of the event loop's time."""
        await asyncio.sleep(seconds)
