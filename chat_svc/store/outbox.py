"""Outbox rows: hints of commits that are not settled yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chat_svc.store import calls
from chatmesh.runtime.postgres import Database, Int8Array

MAX_RESEND_DELAY_MS: Final = 60_000
"""A row that nobody settles is tried this often at least."""


@dataclass(slots=True)
class OutboxRow:
    """The hints of one commit, parallel lists in commit order."""

    batch_id: int
    accounts: list[int]
    seqs: list[int]
    message_ids: list[int]
    pushable: list[bool]
    attempt: int
    """How often it was resent, this time included."""
    created_at_ms: int


_DELETE: Final = "DELETE FROM chat.outbox WHERE batch_id = ANY (%s)"
_DUE: Final = """
UPDATE chat.outbox o SET attempt = o.attempt + 1, next_at_ms = chat.now_ms()
  + greatest(%(wait)s, least(%(most)s, %(wait)s * (2::bigint ^ least(o.attempt, 16))))
WHERE o.batch_id IN (
  SELECT x.batch_id FROM chat.outbox x
  WHERE x.node = %(node)s AND x.next_at_ms <= chat.now_ms()
    AND x.created_at_ms <= chat.now_ms() - %(older)s
  ORDER BY x.batch_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING o.batch_id, o.accounts, o.seqs, o.ids, o.pushable, o.attempt, o.created_at_ms
"""
_NOT_SENT: Final = """
UPDATE chat.outbox SET attempt = attempt - 1, next_at_ms = chat.now_ms()
WHERE batch_id = ANY (%s) AND node = %s AND attempt > 0
"""
_TAKE_OVER: Final = """
UPDATE chat.outbox o SET node = %s, next_at_ms = 0
WHERE o.batch_id IN (
  SELECT x.batch_id FROM chat.outbox x WHERE x.node = ANY (%s)
  ORDER BY x.batch_id LIMIT %s FOR UPDATE SKIP LOCKED)
"""
_COUNT: Final = "SELECT count(*) FROM chat.outbox WHERE node = %s"
_AGE: Final = """
SELECT coalesce(greatest(chat.now_ms() - min(created_at_ms), 0), 0)
FROM chat.outbox WHERE node = %s
"""


class OutboxStore:
    """Reads and writes of outbox; rows are made by the commit alone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def delete_done(self, batch_ids: Sequence[int]) -> int:
        """Delete settled rows; how many there were."""
        return await calls.change(self._database, _DELETE, (Int8Array(sorted(batch_ids)),))

    async def due_rows(
        self, node_id: int, older_than_ms: int, limit: int, *, wait_ms: int
    ) -> list[OutboxRow]:
        """Rows of this node to resend now: created at least `older_than_ms` ago and due.

        Each row's next time is moved, so that no two calls give the same row at once: by `wait_ms`
        doubled per attempt, at most 60 s, but never by less than `wait_ms`. Behind a queue that is
        minutes late, a row that came back every minute would be a storm.
        """
        values = {
            "node": node_id,
            "older": older_than_ms,
            "wait": max(wait_ms, 1),
            "most": MAX_RESEND_DELAY_MS,
            "limit": limit,
        }
        found = await calls.rows(self._database, _DUE, values)
        return sorted((OutboxRow(*columns) for columns in found), key=lambda row: row.batch_id)

    async def take_over(self, node_id: int, dead_nodes: Sequence[int], limit: int) -> int:
        """Make rows of dead nodes this node's own, due now; how many."""
        arguments = (node_id, Int8Array(dead_nodes), limit)
        return await calls.change(self._database, _TAKE_OVER, arguments)

    async def not_sent(self, node_id: int, batch_ids: Sequence[int]) -> None:
        """Rows of `due_rows` that found no room: due at once, as if they had not been given."""
        await calls.change(self._database, _NOT_SENT, (Int8Array(sorted(batch_ids)), node_id))

    async def count(self, node_id: int) -> int:
        """Rows of this node."""
        found = await calls.row(self._database, _COUNT, (node_id,))
        return int(found[0]) if found else 0

    async def oldest_age_ms(self, node_id: int) -> int:
        """Age of this node's oldest row; 0 = none."""
        found = await calls.row(self._database, _AGE, (node_id,))
        return int(found[0]) if found else 0
