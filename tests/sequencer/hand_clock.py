"""A clock that moves only by hand."""

from __future__ import annotations

import asyncio


class HandClock:
    """Implements chatmesh.runtime.clock.Clock."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000_000
        self.boot_ns = 10**12

    def wall_ms(self) -> int:
        """What the test set."""
        return self.wall

    def monotonic(self) -> float:
        """Seconds of the boot clock."""
        return self.boot_ns / 1e9

    def boottime_ns(self) -> int:
        """What the test set."""
        return self.boot_ns

    async def sleep(self, seconds: float) -> None:
        """Let others run; time stands still."""
        await asyncio.sleep(0)

    def pass_ms(self, ms: int) -> None:
        """All clocks go on."""
        self.boot_ns += ms * 1_000_000
        self.wall += ms
