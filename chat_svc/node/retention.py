"""Sweeps what is too old and what has disappeared, in the background.

Any node steps for all; the database lets one at a time. Nothing depends on the sweeps being in
time: an expired message reads as erased from its moment on, and old entries only cost room. So an
error is logged and tried again later.
"""

import random
from typing import Final, Protocol

from chat_svc.core.limits import Limits
from chat_svc.store.retention import RetentionStep
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger

MAX_ROWS: Final = 1_000
"""Of one step: some milliseconds of one connection and of the locks of the heads it cuts."""
PERIOD_MS: Final = 3_600_000
"""From the end of one pass over everything to the begin of the next."""
LOOK_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.05
"""Between steps, so that a pass takes a share of PostgreSQL and not all of it."""
EXPIRY_SECONDS: Final = 5.0

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class RetentionRows(Protocol):
    """What is used of the store."""

    async def step(
        self, *, max_age_days: int, max_entries: int, max_rows: int, period_ms: int
    ) -> RetentionStep:
        """One bounded step."""
        ...

    async def expire(self, max_rows: int) -> int:
        """Blank what is over; how many."""
        ...


class Retention:
    """See the module's text."""

    def __init__(self, rows: RetentionRows, limits: Limits, clock: Clock) -> None:
        self._rows = rows
        self._limits = limits
        self._clock = clock

    async def run(self) -> None:
        """Cut timelines and remove old events; in the background."""
        entries = events = 0
        while True:
            try:
                step = await self._rows.step(
                    max_age_days=self._limits.retention_days,
                    max_entries=self._limits.retention_entries,
                    max_rows=MAX_ROWS,
                    period_ms=PERIOD_MS,
                )
            except Exception as error:  # noqa: BLE001 - the store is away or busy: later
                if _budget.take():
                    _log.warning("retention not kept", error=type(error).__name__)
                await self._clock.sleep(LOOK_SECONDS * random.uniform(0.5, 1))
                continue
            entries, events = entries + step.entries, events + step.events
            if step.is_over:
                if entries or events:
                    _log.info("old entries removed", entries=entries, events=events)
                entries = events = 0
            pause = LOOK_SECONDS * random.uniform(0.5, 1) if step.is_over else PAUSE_SECONDS
            await self._clock.sleep(pause)

    async def run_expiry(self) -> None:
        """Blank messages that have disappeared; in the background."""
        while True:
            count = 0
            try:
                count = await self._rows.expire(MAX_ROWS)
            except Exception as error:  # noqa: BLE001 - the store is away or busy: later
                if _budget.take():
                    _log.warning("messages not expired", error=type(error).__name__)
            full = count == MAX_ROWS
            await self._clock.sleep(
                PAUSE_SECONDS if full else EXPIRY_SECONDS * random.uniform(0.5, 1)
            )
