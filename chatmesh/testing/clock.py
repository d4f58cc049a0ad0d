"""A clock that moves only when a test says so; implements `chatmesh.runtime.clock.Clock`.

Three times move together with `advance`; `step_wall` moves the wall clock alone, as an operator or
NTP would, and `suspend` moves everything but `monotonic`, as a laptop's lid would.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools


class VirtualClock:
    """Starts at a fixed moment. Sleepers wake in the order of their times, inside `advance`."""

    def __init__(self, *, wall_ms: int = 1_790_000_000_000, monotonic: float = 1_000.0) -> None:
        self._wall_ms = float(wall_ms)
        self._monotonic = monotonic
        self._boot_ns = int(monotonic * 1e9)
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return int(self._wall_ms)

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return self._monotonic

    def boottime_ns(self) -> int:
        """Nanoseconds since boot, suspends included."""
        return self._boot_ns

    async def sleep(self, seconds: float) -> None:
        """Return when the clock has been advanced so far; at least one turn of the loop."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._numbers), woken))
        await woken

    @property
    def sleepers(self) -> int:
        """How many tasks wait for this clock."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    def advance(self, seconds: float) -> None:
        """Let time pass; wakes who is due, in order. Their tasks run at the next `await`."""
        self._monotonic += seconds
        self._boot_ns += round(seconds * 1e9)
        self._wall_ms += seconds * 1000
        while self._sleepers and self._sleepers[0][0] <= self._monotonic:
            woken = heapq.heappop(self._sleepers)[2]
            if not woken.done():
                woken.set_result(None)

    def step_wall(self, milliseconds: int) -> None:
        """The wall clock is set forward or back."""
        self._wall_ms += milliseconds

    def suspend(self, seconds: float) -> None:
        """The machine sleeps: boot time and wall clock pass, `monotonic` stands."""
        self._boot_ns += round(seconds * 1e9)
        self._wall_ms += seconds * 1000
