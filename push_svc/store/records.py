"""The record of what was pushed, dead letters, and the sweep that keeps both bounded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from chatmesh.runtime.postgres import BytesArray, Database, Int8Array, TextArray

MAX_LETTER_BYTES: Final = 65_536
MAX_LETTERS: Final = 100_000
MAX_RECORDS: Final = 200_000
SWEEP_AT_ONCE: Final = 5_000


@dataclass(frozen=True, slots=True)
class Letter:
    """Something that could not be handled."""

    letter_id: int
    origin: str
    account_id: int
    device_id: str
    timeline_seq: int
    reason: str
    created_at_ms: int
    payload: bytes
    batch_id: int = 0
    """outbox.batch_id of the batch that it came with; 0 = unknown."""
    node_id: int = 0
    """Node that committed that batch; 0 = unknown."""


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of letters that were to be tried again."""

    letters: int
    """Became jobs."""
    left: int
    """Stay: they name no account or position."""


@dataclass(frozen=True, slots=True)
class PushRow:
    """What became of one job."""

    device_id: str
    provider: int
    timeline_seq: int
    message_id: int
    sent_at_ms: int
    outcome: str
    visible: bool
    title: str
    body: str


_PUT: Final = """
INSERT INTO push.dead_letter (origin, account_id, device_id, timeline_seq, reason, payload,
  batch_id, node_id)
SELECT * FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s)
"""
_LIST: Final = """
SELECT dead_letter_id, origin, account_id, device_id, timeline_seq, reason,
  (extract(epoch FROM created_at) * 1000)::bigint, payload, batch_id, node_id
FROM push.dead_letter WHERE dead_letter_id > %s ORDER BY dead_letter_id LIMIT %s
"""
_COUNT_LETTERS: Final = "SELECT count(*) FROM push.dead_letter"
# Letters without account or position cannot become jobs; they stay to be read.
_RETRY: Final = """
WITH letter AS (
  DELETE FROM push.dead_letter
  WHERE account_id > 0 AND timeline_seq > 0 AND (%s::bigint[] = '{}' OR dead_letter_id = ANY (%s))
  RETURNING account_id, device_id, timeline_seq
), job AS (
  INSERT INTO push.push_job AS j (account_id, device_id, timeline_seq, due_at)
  SELECT t.account_id, t.device_id, max(letter.timeline_seq), now()
  FROM letter JOIN push.push_token t USING (account_id)
  WHERE letter.device_id IN ('', t.device_id)
  GROUP BY t.account_id, t.device_id
  ON CONFLICT (account_id, device_id) DO UPDATE SET
    timeline_seq = greatest(j.timeline_seq, excluded.timeline_seq),
    due_at = least(j.due_at, excluded.due_at)
)
SELECT count(*), (
  SELECT count(*) FROM push.dead_letter
  WHERE NOT (account_id > 0 AND timeline_seq > 0)
    AND (%s::bigint[] = '{}' OR dead_letter_id = ANY (%s))
) FROM letter
"""
_PUSHES: Final = """
SELECT device_id, provider, timeline_seq, message_id,
  (extract(epoch FROM sent_at) * 1000)::bigint, outcome, visible, title, body
FROM push.push_log WHERE account_id = %s ORDER BY push_id DESC LIMIT %s
"""
_SWEEPS: Final = (
    """DELETE FROM push.push_log WHERE push_id IN (
         SELECT push_id FROM push.push_log
         WHERE sent_at < now() - %(days)s * interval '1 day'
           OR push_id <= (SELECT max(push_id) FROM push.push_log) - %(records)s
         ORDER BY push_id LIMIT %(at_once)s)""",
    """DELETE FROM push.dead_letter WHERE dead_letter_id IN (
         SELECT dead_letter_id FROM push.dead_letter
         WHERE dead_letter_id <= (SELECT max(dead_letter_id) FROM push.dead_letter) - %(letters)s
         ORDER BY dead_letter_id LIMIT %(at_once)s)""",
    # a job whose token was taken away in the moment it was written
    """DELETE FROM push.push_job j WHERE j.due_at < now() - interval '1 minute'
         AND NOT EXISTS (SELECT FROM push.push_token t
                         WHERE t.account_id = j.account_id AND t.device_id = j.device_id)""",
)


class RecordStore:
    """Records and letters."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put_letters(self, letters: Sequence[Letter]) -> None:
        """Keep letters; payloads are cut at 64 KiB."""
        await self._rows(
            _PUT,
            (
                TextArray([letter.origin for letter in letters]),
                Int8Array([letter.account_id for letter in letters]),
                TextArray([letter.device_id for letter in letters]),
                Int8Array([letter.timeline_seq for letter in letters]),
                TextArray([letter.reason for letter in letters]),
                BytesArray([letter.payload[:MAX_LETTER_BYTES] for letter in letters]),
                Int8Array([letter.batch_id for letter in letters]),
                Int8Array([letter.node_id for letter in letters]),
            ),
        )

    async def list_letters(self, after_id: int, limit: int) -> list[Letter]:
        """Letters by id."""
        return [Letter(*row) for row in await self._rows(_LIST, (after_id, limit))]

    async def count_letters(self) -> int:
        """Letters that are kept."""
        return int((await self._rows(_COUNT_LETTERS, ()))[0][0])

    async def retry_letters(self, letter_ids: Sequence[int]) -> Retried:
        """Make jobs of letters (all when none is named)."""
        wanted = list(letter_ids)
        (counts,) = await self._rows(_RETRY, (wanted, wanted, wanted, wanted))
        return Retried(*counts)

    async def list_pushes(self, account_id: int, limit: int) -> list[PushRow]:
        """What became of an account's jobs, newest first."""
        return [PushRow(*row) for row in await self._rows(_PUSHES, (account_id, limit))]

    async def count_jobs(self) -> int:
        """Jobs that wait."""
        return int((await self._rows("SELECT count(*) FROM push.push_job", ()))[0][0])

    async def sweep(self, keep_days: int) -> int:
        """Delete what is too old or too much; how many rows."""
        swept = 0
        values = {
            "days": keep_days,
            "records": MAX_RECORDS,
            "letters": MAX_LETTERS,
            "at_once": SWEEP_AT_ONCE,
        }
        async with self._database.connection() as connection:
            for sweep in _SWEEPS:
                cursor = await connection.execute(sweep, values)
                swept += cursor.rowcount
        return swept

    async def _rows(self, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        async with self._database.connection() as connection:
            cursor = await connection.execute(query, parameters)
            return await cursor.fetchall() if cursor.description else []
