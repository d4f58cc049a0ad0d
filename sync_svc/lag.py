"""How far behind the queue is: in Redis, and in this process.

Role: looks at the streams once a second, cuts off what was read, tells open Enqueue streams when
the lag moved.
Rules: the lag covers what is queued *and* what this process holds unsettled, because a node resends
whatever is older than the lag: a lag that is told too small becomes a storm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chatmesh.runtime import metrics
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.readiness import Component
from sync_svc import measures
from sync_svc.queue import STORE_ERRORS, Queue, StreamState

LOOK_SECONDS: Final = 1.0
WORTH_TELLING_MS: Final = 500
"""Smaller changes are told with the next answer."""

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class LagWatch:
    """See the module's text."""

    def __init__(
        self, queue: Queue, held_ms: Callable[[], int], redis_up: Component, clock: Clock
    ) -> None:
        """`held_ms` is the age of the oldest batch in this process, in ms."""
        self._queue = queue
        self._held_ms = held_ms
        self._redis_up = redis_up
        self._clock = clock
        self._told_ms = 0
        self._listener: Callable[[int], None] | None = None
        self.lag_ms = 0
        """As it was looked at last."""
        self.streams: list[StreamState] = []
        """As they were looked at last; empty while Redis is away."""

    @property
    def redis_is_up(self) -> bool:
        """Whether batches go through Redis."""
        return self._redis_up.is_up

    def on_change(self, listener: Callable[[int], None]) -> None:
        """Tell `listener` of lags that differ much from the one told before."""
        self._listener = listener

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once."""
        queued_ms = 0
        if self._redis_up.is_up:
            try:
                self.streams = await self._queue.look()
            except STORE_ERRORS as error:
                self.streams = []
                if _budget.take():
                    _log.warning("the queue cannot be looked at", error=type(error).__name__)
            queued_ms = max((state.lag_ms for state in self.streams), default=0)
        else:
            self.streams = []
        self.lag_ms = max(queued_ms, self._held_ms())
        metrics.gauge(measures.LAG_SECONDS).set(self.lag_ms / 1000)
        if self._listener is not None and abs(self.lag_ms - self._told_ms) >= WORTH_TELLING_MS:
            self._told_ms = self.lag_ms
            self._listener(self.lag_ms)
