"""Reads the queue into the inbox.

Role: one blocking read after the other; makes streams and groups where they are missing, also
after Redis was emptied; keeps knocking while Redis is away.
Rules: an entry read is ours alone (NOACK), so between reading and the inbox nothing may fail: what
cannot be decoded becomes a dead letter. Reads are never cancelled for a clean stop: the answer of a
cancelled read would be lost; `stop` lets the current one end.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

from chatmesh.runtime import failpoints, metrics
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.readiness import Component
from sync_svc import measures
from sync_svc.inbox import Inbox, PoisonError, decode
from sync_svc.pushes import DeadLetters
from sync_svc.queue import STORE_ERRORS, Queue

RETRY_SECONDS: Final = 0.2
NO_BATCH: Final = b""

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class Reader:
    """One consumer of some streams."""

    def __init__(
        self,
        queue: Queue,
        keys: Sequence[str],
        inbox: Inbox,
        letters: DeadLetters,
        redis_up: Component,
        clock: Clock,
    ) -> None:
        self._queue = queue
        self._keys = keys
        self._inbox = inbox
        self._letters = letters
        self._redis_up = redis_up
        self._clock = clock
        self._stopping = False
        self._ended = asyncio.Event()
        self._batches = metrics.counter(measures.BATCHES)
        self._sizes = metrics.histogram(metrics.BATCH_SIZE).labels("sync.read")

    def stop(self) -> None:
        """Read no more after the current read."""
        self._stopping = True

    async def ended(self) -> None:
        """Return when the last read has ended after `stop`."""
        await self._ended.wait()

    async def run(self) -> None:
        """Read until stopped, then wait to be cancelled."""
        grouped = False
        while not self._stopping:
            await self._inbox.room()
            try:
                if not grouped:
                    await self._queue.make_groups(self._keys)
                    grouped = True
                entries = await self._queue.read(self._keys)
            except LookupError:
                _log.warning("the queue's group is gone: made again")
                grouped = False
                continue
            except STORE_ERRORS as error:
                if self._redis_up.is_up and _budget.take():
                    _log.warning("the queue cannot be read", error=type(error).__name__)
                grouped = False  # another server may answer next
                await self._clock.sleep(RETRY_SECONDS * random.uniform(0.5, 1.0))
                continue
            if entries:
                await failpoints.hit("sync.read.after")
                self._take_in(entries)
        self._ended.set()
        await asyncio.Event().wait()

    def _take_in(self, entries: Sequence[bytes | None]) -> None:
        self._sizes.observe(len(entries))
        for entry in entries:
            try:
                one = decode(entry, self._clock)
            except PoisonError as poison:
                self._batches.labels("poison").inc()
                self._letters.offer(str(poison), entry or NO_BATCH)
                continue
            self._batches.labels("read").inc()
            self._inbox.put(one)
