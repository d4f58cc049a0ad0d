"""Batches between the queue and the worker.

Role: what was read from Redis, or came while Redis is away, waits here for the next gathering.
Rules: bounded in bytes. Readers wait for room; a batch that comes from a node directly is refused
when there is none (its outbox row sends it again).
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from chatmesh.mesh.v1.hint_pb2 import Hint, HintBatch
from chatmesh.runtime import trace
from chatmesh.runtime.clock import Clock

NEWEST_FORMAT = 1
MAX_AGE_SECONDS = 86_400.0
"""Wall clocks differ: an older batch counts as this old."""


@dataclass(slots=True)
class Taken:
    """A batch, and since when it is under way (monotonic seconds)."""

    batch: HintBatch
    size_bytes: int
    since: float
    sampled: list[Hint]
    """Hints whose hops are to be recorded."""


class PoisonError(Exception):
    """A batch that cannot be handled; its text says why."""


def sampled_hints(batch: HintBatch) -> list[Hint]:
    """Hints whose trace is recorded; costs one test a hint."""
    return [
        hint for hint in batch.hints if hint.trace_context and trace.is_sampled(hint.trace_context)
    ]


def decode(entry: bytes | None, clock: Clock) -> Taken:
    """A queue entry as a batch. Raises PoisonError."""
    if entry is None:
        raise PoisonError("queue entry without a batch")
    try:
        batch = HintBatch.FromString(entry)
    except (DecodeError, ValueError):  # ValueError: a string that is not UTF-8
        raise PoisonError("undecodable queue entry") from None
    if batch.format > NEWEST_FORMAT:
        raise PoisonError(f"queue entry of format {batch.format}")
    return taken(batch, len(entry), clock)


def taken(batch: HintBatch, size_bytes: int, clock: Clock) -> Taken:
    """A batch that was just taken on; its age is by the wall clocks, for lag only."""
    age_seconds = (clock.wall_ms() - batch.enqueued_at_ms) / 1000 if batch.enqueued_at_ms else 0
    age_seconds = min(max(age_seconds, 0.0), MAX_AGE_SECONDS)
    return Taken(batch, size_bytes, clock.monotonic() - age_seconds, sampled_hints(batch))


class Inbox:
    """See the module's text."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._waiting: deque[Taken] = deque()
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self.wake = asyncio.Event()
        """Set when there is something to do; the worker clears it."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def waiting_bytes(self) -> int:
        """Of all that waits."""
        return self._bytes

    def oldest_since(self) -> float | None:
        """Since when the first batch is under way (monotonic seconds)."""
        return self._waiting[0].since if self._waiting else None

    async def room(self) -> None:
        """Return when there is room."""
        await self._room.wait()

    def put(self, batch: Taken) -> None:
        """Queue a batch that was read (its reader waited for room before)."""
        self._waiting.append(batch)
        self._bytes += batch.size_bytes
        if self._bytes >= self._max_bytes:
            self._room.clear()
        self.wake.set()

    def offer(self, batch: Taken) -> bool:
        """Queue a batch; False when there is no room."""
        if not self._room.is_set():
            return False
        self.put(batch)
        return True

    def take(self, max_hints: int) -> list[Taken]:
        """What waits, in order, up to the batch that passes `max_hints`."""
        gathered: list[Taken] = []
        hints = 0
        while self._waiting and hints < max_hints:
            one = self._waiting.popleft()
            self._bytes -= one.size_bytes
            hints += len(one.batch.hints) + len(one.batch.signals)
            gathered.append(one)
        if self._bytes < self._max_bytes:
            self._room.set()
        return gathered
