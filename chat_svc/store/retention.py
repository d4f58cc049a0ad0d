"""What leaves the store by itself: old entries and events, and messages whose time is over.

Both sweeps go in bounded steps, each a transaction of its own; the database lets one node step at a
time. The rules are in `migrations/pre/0030-retention.sql`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from chat_svc.store import calls
from chatmesh.runtime.postgres import Database

DAY_MS: Final = 86_400_000

_STEP: Final = "SELECT * FROM chat.retain_1(%s::bigint, %s::bigint, %s::integer, %s::bigint)"
_EXPIRE: Final = "SELECT chat.expire_1(%s::integer)"


@dataclass(frozen=True, slots=True)
class RetentionStep:
    """What one step removed."""

    entries: int
    """Timeline rows, always a prefix of their timeline."""
    events: int
    """Event rows, always a prefix of their conversation."""
    is_over: bool
    """The pass has ended, another node steps, or the next pass is not due."""


class RetentionStore:
    """Steps of the sweeps."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def step(
        self, *, max_age_days: int, max_entries: int, max_rows: int, period_ms: int
    ) -> RetentionStep:
        """One step of a pass; at most about `max_rows` rows go.

        Args:
            max_age_days: entries of older events go; events themselves a day later.
            max_entries: kept of each timeline at most.
            period_ms: from the end of one pass to the begin of the next.
        """
        found = await calls.row(
            self._database, _STEP, (max_age_days * DAY_MS, max_entries, max_rows, period_ms)
        )
        return RetentionStep(*found) if found else RetentionStep(0, 0, True)

    async def expire(self, max_rows: int) -> int:
        """Blank messages whose expires_at_ms is over; how many, `max_rows` at most."""
        found = await calls.row(self._database, _EXPIRE, (max_rows,))
        return int(found[0]) if found else 0
