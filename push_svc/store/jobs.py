"""Jobs: made and cancelled in batches, claimed with SKIP LOCKED, ended by their claim's number.

All statements may meet each other on the same rows in any order; a deadlock that PostgreSQL finds
is run again, and so is a statement whose connection was lost: each is idempotent.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, LiteralString, TypeVar

import psycopg

from chatmesh.runtime.postgres import (
    BoolArray,
    BytesArray,
    Int4Array,
    Int8Array,
    Lane,
    LostConnection,
    TextArray,
)
from push_svc.decide import Binding, Job, Privacy

DEADLOCK_ROUNDS: Final = 5

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Target:
    """A wish that devices of an account be told of a position."""

    account_id: int
    timeline_seq: int
    device_ids: tuple[str, ...]
    """Only these; empty = all with a token."""
    except_device_ids: tuple[str, ...]
    delay_ms: int
    trace: bytes
    message_id: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A device has acked, or (without a device) the account has read."""

    account_id: int
    device_id: str
    timeline_seq: int


class Ending(IntEnum):
    """What a result does to its job."""

    DONE = 1
    """Deleted, unless it was raised meanwhile: then it is due at once."""
    AGAIN = 2
    """Due again after a delay."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one claim."""

    job: Job
    ending: Ending
    delay_ms: int = 0
    attempts: int = 0
    """With AGAIN: the attempts that count from now on."""
    told_seq: int = 0
    """Position that a visible notification told of; 0 = none."""
    badge: int = -1
    """Badge told; -1 = none."""
    dismissed_seq: int = 0
    outcome: str = ""
    """For the record; empty = no record."""
    visible: bool = False
    title: str = ""
    body: str = ""
    message_id: int = 0
    """Newest message in it, for the record; 0 = the job's."""


# One row per device: targets that name a device twice are joined, the newest position wins.
_PUT: Final[LiteralString] = """
WITH x AS (
  SELECT * FROM unnest(%s, %s, %s, %s, %s, %s, %s)
    AS x(account_id, timeline_seq, only_ids, except_ids, delay_ms, trace, message_id)
), wanted AS (
  SELECT DISTINCT ON (t.account_id, t.device_id) t.account_id, t.device_id, x.timeline_seq,
    x.trace, x.message_id, min(x.delay_ms) OVER (PARTITION BY t.account_id, t.device_id) AS delay_ms
  FROM x JOIN push.push_token t USING (account_id)
  WHERE (x.only_ids = '' OR t.device_id = ANY (string_to_array(x.only_ids, ',')))
    AND NOT t.device_id = ANY (string_to_array(x.except_ids, ','))
    AND x.timeline_seq > t.pushed_seq
  ORDER BY t.account_id, t.device_id, x.timeline_seq DESC
)
INSERT INTO push.push_job AS j
  (account_id, device_id, timeline_seq, message_id, trace, due_at)
SELECT account_id, device_id, timeline_seq, message_id, trace,
  now() + delay_ms * interval '1 ms'
FROM wanted
ON CONFLICT (account_id, device_id) DO UPDATE SET
  timeline_seq = greatest(j.timeline_seq, excluded.timeline_seq),
  message_id = CASE WHEN excluded.timeline_seq > j.timeline_seq THEN excluded.message_id
    ELSE j.message_id END,
  trace = CASE WHEN excluded.timeline_seq > j.timeline_seq THEN excluded.trace ELSE j.trace END,
  -- a claimed job, or one that waits for its provider to recover, is not hurried
  due_at = CASE WHEN j.attempt = 0 THEN least(j.due_at, excluded.due_at) ELSE j.due_at END
RETURNING account_id
"""

_CANCEL: Final[LiteralString] = """
WITH x AS (
  SELECT * FROM unnest(%s, %s, %s) AS x(account_id, device_id, timeline_seq)
), gone AS (
  DELETE FROM push.push_job j USING x
  WHERE j.account_id = x.account_id AND x.device_id IN ('', j.device_id)
    AND j.timeline_seq <= x.timeline_seq AND (x.device_id = '' OR j.dismiss_seq = 0)
  RETURNING j.account_id, j.device_id
), shown AS (
  SELECT t.account_id, t.device_id, max(x.timeline_seq) AS read_seq
  FROM x JOIN push.push_token t USING (account_id)
  WHERE x.device_id = '' AND t.pushed_seq > t.dismissed_seq AND x.timeline_seq > t.dismissed_seq
  GROUP BY t.account_id, t.device_id
)
SELECT account_id, device_id, read_seq FROM shown ORDER BY account_id, device_id
"""

# A statement of its own: a row that the deletion above took cannot be upserted by the same one.
_DISMISS: Final[LiteralString] = """
INSERT INTO push.push_job AS j (account_id, device_id, timeline_seq, dismiss_seq, due_at)
SELECT account_id, device_id, 0, read_seq, now() + %s * interval '1 ms'
FROM unnest(%s, %s, %s) AS x(account_id, device_id, read_seq)
ON CONFLICT (account_id, device_id) DO UPDATE SET
  dismiss_seq = greatest(j.dismiss_seq, excluded.dismiss_seq)
"""

_CLAIM: Final[LiteralString] = """
WITH due AS (
  SELECT j.account_id, j.device_id
  FROM push.push_job j JOIN push.push_token t USING (account_id, device_id)
  WHERE j.due_at <= now() AND (j.claimed_until IS NULL OR j.claimed_until <= now())
    AND NOT t.provider = ANY (%s::smallint[])
  ORDER BY j.due_at
  LIMIT %s
  FOR UPDATE OF j SKIP LOCKED
)
UPDATE push.push_job j
SET claimed_until = now() + %s * interval '1 ms', claim = j.claim + 1, attempt = j.attempt + 1
FROM due JOIN push.push_token t USING (account_id, device_id)
WHERE j.account_id = due.account_id AND j.device_id = due.device_id
RETURNING j.account_id, j.device_id, j.timeline_seq, j.dismiss_seq, j.message_id, j.trace,
  extract(epoch FROM now() - j.created_at)::float8, j.attempt, j.claim,
  t.provider, t.token, t.token_key, t.app, t.locale, t.privacy, t.pushed_seq, t.badge,
  (extract(epoch FROM t.bound_at) * 1000)::bigint
"""

_NEXT_DUE: Final[LiteralString] = """
SELECT extract(epoch FROM min(due_at) - now())::float8
FROM push.push_job WHERE claimed_until IS NULL
"""

_FINISH: Final[LiteralString] = """
WITH r AS (
  SELECT * FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
    %s) AS r(account_id, device_id, claim, ending, delay_ms, covered_seq, told_seq, badge,
         dismissed_seq, token_key, provider, record_seq, message_id, outcome, visible, title, body,
         attempt, attempts)
), told AS (
  UPDATE push.push_token t SET
    pushed_seq = greatest(t.pushed_seq, r.told_seq),
    dismissed_seq = greatest(t.dismissed_seq, r.dismissed_seq),
    badge = CASE WHEN r.badge >= 0 THEN r.badge ELSE t.badge END
  FROM r
  WHERE t.account_id = r.account_id AND t.device_id = r.device_id AND t.token_key = r.token_key
    AND (r.told_seq > 0 OR r.badge >= 0 OR r.dismissed_seq > 0)
), held AS MATERIALIZED (
  -- locked first, so that a job raised in this moment is seen as raised by both statements below
  SELECT j.account_id, j.device_id, r.ending, r.delay_ms, r.attempts,
    r.ending = 1 AND j.timeline_seq <= r.covered_seq AND j.dismiss_seq <= r.dismissed_seq AS over
  FROM push.push_job j JOIN r USING (account_id, device_id)
  WHERE j.claim = r.claim
  ORDER BY j.account_id, j.device_id
  FOR UPDATE OF j
), done AS (
  DELETE FROM push.push_job j USING held
  WHERE j.account_id = held.account_id AND j.device_id = held.device_id AND held.over
), again AS (
  UPDATE push.push_job j SET
    due_at = now() + held.delay_ms * interval '1 ms', claimed_until = NULL,
    created_at = CASE WHEN held.ending = 1 THEN now() ELSE j.created_at END,
    attempt = CASE WHEN held.ending = 1 THEN 0 ELSE held.attempts END
  FROM held
  WHERE j.account_id = held.account_id AND j.device_id = held.device_id AND NOT held.over
)
INSERT INTO push.push_log (account_id, device_id, provider, timeline_seq, message_id, outcome,
  visible, title, body, attempt)
SELECT account_id, device_id, provider, record_seq, message_id, outcome, visible, title, body,
  attempt
FROM r WHERE outcome <> ''
"""


class IntakeStore:
    """The side that makes and cancels jobs."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def put(self, targets: Sequence[Target]) -> list[int]:
        """Write or raise jobs, in one transaction; the account of each, once per device.

        Raises LostConnection when it could not be made certain.
        """
        rows = await _certain(
            self._lane,
            lambda: self._lane.execute(
                _PUT,
                (
                    Int8Array([target.account_id for target in targets]),
                    Int8Array([target.timeline_seq for target in targets]),
                    TextArray([",".join(target.device_ids) for target in targets]),
                    TextArray([",".join(target.except_device_ids) for target in targets]),
                    Int8Array([target.delay_ms for target in targets]),
                    BytesArray([target.trace for target in targets]),
                    Int8Array([target.message_id for target in targets]),
                ),
            ),
        )
        return [row[0] for row in rows]

    async def cancel(self, progress: Sequence[Progress], dismiss_delay_ms: int) -> int:
        """Void jobs up to a position; how many dismissals became jobs."""
        shown = await _certain(
            self._lane,
            lambda: self._lane.execute(
                _CANCEL,
                (
                    Int8Array([one.account_id for one in progress]),
                    TextArray([one.device_id for one in progress]),
                    Int8Array([one.timeline_seq for one in progress]),
                ),
            ),
        )
        if shown:
            accounts, devices, positions = zip(*shown, strict=True)
            await _certain(
                self._lane,
                lambda: self._lane.execute(
                    _DISMISS,
                    (
                        dismiss_delay_ms,
                        Int8Array(accounts),
                        TextArray(devices),
                        Int8Array(positions),
                    ),
                ),
            )
        return len(shown)


class JobStore:
    """The side that claims jobs and ends them."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def claim(self, busy_providers: Sequence[int], limit: int, claim_ms: int) -> list[Job]:
        """Up to `limit` due jobs, claimed for `claim_ms`; none of a busy provider.

        A claim that is lost with its connection ends by itself. Raises LostConnection.
        """
        rows = await self._lane.execute(_CLAIM, (list(busy_providers), limit, claim_ms))
        return [_job(row) for row in rows]

    async def next_due_seconds(self) -> float | None:
        """Until the next job is due (negative: since); None when no job waits."""
        rows = await self._lane.execute(_NEXT_DUE)
        due: float | None = rows[0][0]
        return due

    async def finish(self, results: Sequence[Result]) -> None:
        """End or put off jobs, note what was told, write the record; in one transaction.

        Raises LostConnection when it could not be made certain; repeating is safe but for a
        second line of the record.
        """
        jobs = [result.job for result in results]
        columns = (
            Int8Array([job.account_id for job in jobs]),
            TextArray([job.device_id for job in jobs]),
            Int8Array([job.claim for job in jobs]),
            Int4Array([int(result.ending) for result in results]),
            Int8Array([result.delay_ms for result in results]),
            Int8Array([job.timeline_seq for job in jobs]),
            Int8Array([result.told_seq for result in results]),
            Int8Array([result.badge for result in results]),
            Int8Array([max(result.dismissed_seq, _voided(result)) for result in results]),
            BytesArray([job.binding.token_key for job in jobs]),
            Int4Array([job.binding.provider for job in jobs]),
            Int8Array([result.told_seq or result.job.timeline_seq for result in results]),
            Int8Array([result.message_id or result.job.message_id for result in results]),
            TextArray([result.outcome for result in results]),
            BoolArray([result.visible for result in results]),
            TextArray([result.title for result in results]),
            TextArray([result.body for result in results]),
            Int4Array([job.attempt for job in jobs]),
            Int4Array([result.attempts for result in results]),
        )
        await _certain(self._lane, lambda: self._lane.execute(_FINISH, columns))


def _voided(result: Result) -> int:
    """A job that ends takes its dismissal with it, told or not needed."""
    return result.job.dismiss_seq if result.ending is Ending.DONE else 0


def _job(row: tuple[Any, ...]) -> Job:
    provider, token, token_key, app, locale, privacy, *told = row[9:]
    binding = Binding(provider, token, token_key, app, locale, Privacy(privacy), *told)
    return Job(*(*row[:9], binding))


async def _certain(lane: Lane, run: Callable[[], Awaitable[_T]]) -> _T:
    """Run an idempotent statement until its outcome is known: once more after a lost connection,
    and a few times after deadlocks."""
    reconnected = False
    for round_ in range(DEADLOCK_ROUNDS):
        try:
            return await run()
        except psycopg.errors.DeadlockDetected:
            if round_ == DEADLOCK_ROUNDS - 1:
                raise
        except LostConnection:
            if reconnected:
                raise
            reconnected = True
            await lane.terminate_previous()
    raise AssertionError("unreachable")
