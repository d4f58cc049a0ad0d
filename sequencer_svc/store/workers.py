"""Statements on worker numbers and their windows: claim, renew, give back.

Rules: each is one statement in its own transaction, and takes the time from the database's clock
inside it. Nothing is decided here that the statements do not say; the worker decides when to call.
"""

from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg

from chatmesh.ids import SnowflakeLayout
from chatmesh.runtime import migrate
from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.postgres import Lane

PACKAGE: Final = "sequencer_svc"

_VERSION: Final[LiteralString] = "SELECT version, needs_code FROM sequencer.schema_version"

_PUT_LAYOUT: Final[LiteralString] = """
INSERT INTO sequencer.layout (time_bits, worker_bits, sequence_bits, epoch_ms)
VALUES (%s::int, %s::int, %s::int, %s::bigint) ON CONFLICT DO NOTHING
"""

_GET_LAYOUT: Final[LiteralString] = """
SELECT time_bits, worker_bits, sequence_bits, epoch_ms FROM sequencer.layout
"""

_PUT_WORKERS: Final[LiteralString] = """
INSERT INTO sequencer.worker (worker)
SELECT number FROM generate_series(0, %s::int - 1) AS number
WHERE (SELECT count(*) FROM sequencer.worker) < %s::int
ON CONFLICT DO NOTHING
"""

# Free = given back, or its window has passed. SKIP LOCKED: two claimants never wait for each other.
_CLAIM: Final[LiteralString] = """
WITH now_ms AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms
), free AS (
    SELECT w.worker FROM sequencer.worker w, now_ms
    WHERE w.worker < %s::int
      AND (w.holder IS NULL OR w.window_end_ms <= now_ms.ms)
      AND w.window_end_ms <= now_ms.ms + %s::bigint
    ORDER BY w.window_end_ms, w.worker
    LIMIT 1
    FOR UPDATE OF w SKIP LOCKED
)
UPDATE sequencer.worker w
SET epoch = w.epoch + 1, holder = %s::text, changed_at = now(),
    window_end_ms = greatest(w.window_end_ms, now_ms.ms) + %s::bigint
FROM free, now_ms
WHERE w.worker = free.worker
RETURNING w.worker, w.epoch, w.window_end_ms - %s::bigint, w.window_end_ms, now_ms.ms
"""

# One's own claim whose answer was lost may be made again: the holder is this very process.
_CLAIM_FIXED: Final[LiteralString] = """
WITH now_ms AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms
)
UPDATE sequencer.worker w
SET epoch = w.epoch + 1, holder = %s::text, changed_at = now(),
    window_end_ms = greatest(w.window_end_ms, now_ms.ms) + %s::bigint
FROM now_ms
WHERE w.worker = %s::int
  AND (w.holder IS NULL OR w.holder = %s::text OR w.window_end_ms <= now_ms.ms)
  AND w.window_end_ms <= now_ms.ms + %s::bigint
RETURNING w.worker, w.epoch, w.window_end_ms - %s::bigint, w.window_end_ms, now_ms.ms
"""

_RENEW: Final[LiteralString] = """
WITH now_ms AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms
)
UPDATE sequencer.worker w
SET window_end_ms = greatest(w.window_end_ms, now_ms.ms + %s::bigint, %s::bigint),
    changed_at = now()
FROM now_ms
WHERE w.worker = %s::int AND w.epoch = %s::bigint
RETURNING w.window_end_ms, now_ms.ms
"""

_GIVE_BACK: Final[LiteralString] = """
UPDATE sequencer.worker SET holder = NULL, window_end_ms = %s::bigint, changed_at = now()
WHERE worker = %s::int AND epoch = %s::bigint
RETURNING 1
"""

_OCCUPANCY: Final[LiteralString] = """
WITH now_ms AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms
)
SELECT count(*) FILTER (WHERE w.holder IS NOT NULL AND w.window_end_ms > now_ms.ms),
       min(w.window_end_ms) FILTER (WHERE w.holder IS NULL OR w.window_end_ms <= now_ms.ms),
       min(now_ms.ms)
FROM sequencer.worker w, now_ms WHERE w.worker < %s::int
"""

_HOLDING: Final[LiteralString] = """
WITH now_ms AS MATERIALIZED (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms
)
SELECT w.holder, w.epoch, w.window_end_ms, now_ms.ms
FROM sequencer.worker w, now_ms WHERE w.worker = %s::int
"""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A worker and its window, as committed. Times in ms since the Unix epoch."""

    worker: int
    epoch: int
    start_ms: int
    end_ms: int
    time_ms: int
    """The database's time when it was made."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """The window's new end and the database's time, ms since the Unix epoch."""

    end_ms: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How many workers are held, and where the free one with the lowest end would begin."""

    held: int
    lowest_free_end_ms: int | None
    time_ms: int


@dataclass(frozen=True, slots=True)
class Holding:
    """Who holds one worker. `holder` None = given back."""

    holder: str | None
    epoch: int
    end_ms: int
    time_ms: int


class WorkerStore:
    """The table `sequencer.worker`. Every method raises what `Lane.execute` raises."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def require_schema(self) -> None:
        """Check that the schema and this code fit. Raises StoreRefused, saying what to do."""
        needs = migrate.code_version(PACKAGE)
        try:
            rows = await self._lane.execute(_VERSION)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            rows = []
        version, needs_code = rows[0] if rows else (0, 0)
        if version < needs:
            raise StoreRefused(
                f"the schema sequencer has version {version}, this server needs {needs}: "
                "run `chatmesh migrate`"
            )
        if needs_code > needs:
            raise StoreRefused(
                f"the schema sequencer needs servers of version {needs_code} or newer, this one "
                f"has {needs}: start a newer release"
            )

    async def settle_layout(self, layout: SnowflakeLayout) -> SnowflakeLayout:
        """The deployment's layout: `layout`, if none was kept before. Makes missing workers."""
        await self._lane.execute(
            _PUT_LAYOUT,
            (layout.time_bits, layout.worker_bits, layout.sequence_bits, layout.epoch_ms),
        )
        rows = await self._lane.execute(_GET_LAYOUT)
        kept = SnowflakeLayout(*rows[0])
        await self._lane.execute(_PUT_WORKERS, (kept.workers, kept.workers))
        return kept

    async def claim(
        self, *, workers: int, holder: str, window_ms: int, ahead_ms: int
    ) -> Reservation | None:
        """Take the free worker with the lowest end; None when there is none.

        Only workers below `workers`, and none whose end lies more than `ahead_ms` ahead.
        """
        rows = await self._lane.execute(_CLAIM, (workers, ahead_ms, holder, window_ms, window_ms))
        return Reservation(*rows[0]) if rows else None

    async def claim_fixed(
        self, worker: int, *, holder: str, window_ms: int, ahead_ms: int
    ) -> Reservation | None:
        """Take this worker; None when another process holds it or its end lies too far ahead."""
        rows = await self._lane.execute(
            _CLAIM_FIXED, (holder, window_ms, worker, holder, ahead_ms, window_ms)
        )
        return Reservation(*rows[0]) if rows else None

    async def renew(
        self, worker: int, epoch: int, *, window_ms: int, at_least_ms: int = 0
    ) -> Renewal | None:
        """Extend the window to `window_ms` from now, or to `at_least_ms` if that is later.

        None when another claimed the worker since.
        """
        rows = await self._lane.execute(_RENEW, (window_ms, at_least_ms, worker, epoch))
        return Renewal(*rows[0]) if rows else None

    async def give_back(self, worker: int, epoch: int, position_ms: int) -> bool:
        """End the holding at `position_ms`, where a successor begins; False when it had ended."""
        return bool(await self._lane.execute(_GIVE_BACK, (position_ms, worker, epoch)))

    async def occupancy(self, workers: int) -> Occupancy:
        """Who holds what, in numbers."""
        rows = await self._lane.execute(_OCCUPANCY, (workers,))
        return Occupancy(*rows[0])

    async def holding(self, worker: int) -> Holding | None:
        """Who holds one worker; None when there is no such worker."""
        rows = await self._lane.execute(_HOLDING, (worker,))
        return Holding(*rows[0]) if rows else None
