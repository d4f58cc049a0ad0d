"""All conversations of an account as of one position of its timeline.

A page is one statement, so all of it reads one state of the database, as one REPEATABLE READ
transaction would. The first page takes the head as its position; the others are read as of that
position, however far the timeline has gone meanwhile: what follows it is left out and comes again
as entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from chat_svc.core.unread import EXACT_UP_TO
from chat_svc.store import calls
from chat_svc.store.conversations import ConversationView, view_of
from chatmesh.runtime.postgres import Database

_PAGE: Final = """
WITH head AS MATERIALIZED (
  SELECT h.seq, coalesce(e.id, 0) AS id, h.account_version
  FROM chat.timeline_head h
  LEFT JOIN chat.timeline t ON t.account = %(account)s AND t.timeline_seq = h.seq
  LEFT JOIN chat.event e ON e.conversation = t.conversation
    AND e.conversation_seq = t.conversation_seq
  WHERE h.account = %(account)s
), later AS MATERIALIZED (
  SELECT t.conversation, min(t.conversation_seq) - 1 AS up_to
  FROM chat.timeline t, head
  WHERE t.account = %(account)s AND t.timeline_seq > coalesce(%(seq)s::bigint, head.seq)
  GROUP BY t.conversation
), mine AS MATERIALIZED (
  SELECT m.conversation, coalesce(l.up_to, c.last_conversation_seq) AS up_to,
    CASE WHEN l.up_to IS NULL THEN c.last_created_at_ms ELSE coalesce(
      (SELECT e.created_at_ms FROM chat.event e
        WHERE e.conversation = c.id AND e.conversation_seq <= l.up_to
        ORDER BY e.conversation_seq DESC LIMIT 1), c.created_at_ms) END AS active
  FROM chat.member m JOIN chat.conversation c ON c.id = m.conversation
  LEFT JOIN later l ON l.conversation = c.id
  WHERE m.account = %(account)s AND NOT m.gone
), page AS MATERIALIZED (
  SELECT * FROM mine
  WHERE up_to > 0 AND (active, conversation) < (%(active)s, %(conversation)s)
  ORDER BY active DESC, conversation DESC LIMIT %(limit)s
)
SELECT head.seq, head.id, head.account_version, page.active, v.*
FROM head LEFT JOIN page ON true
LEFT JOIN LATERAL chat.views_2(%(account)s, ARRAY[page.conversation], ARRAY[page.up_to],
  %(exact)s::integer) v ON page.conversation IS NOT NULL
ORDER BY page.active DESC, page.conversation DESC
"""
_TOP: Final = (1 << 63) - 1
_HEAD_WIDTH: Final = 3


@dataclass(frozen=True, slots=True)
class SnapshotCursor:
    """What the snapshot is as of, and where the page before ended."""

    timeline_seq: int
    message_id: int
    """Of the entry there; 0 = not known."""
    account_version: int
    active_at_ms: int
    conversation: int


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """Conversations by activity, newest first."""

    views: list[ConversationView]
    as_of: SnapshotCursor
    more: bool
    """`as_of` is also where the next page begins."""


class SnapshotStore:
    """Reads of snapshots."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, account: int, *, after: SnapshotCursor | None, limit: int) -> SnapshotPage:
        """A page; `after` None: the first, as of now."""
        values: dict[str, Any] = {
            "account": account,
            "seq": None if after is None else after.timeline_seq,
            "active": _TOP if after is None else after.active_at_ms,
            "conversation": _TOP if after is None else after.conversation,
            "limit": limit + 1,
            "exact": EXACT_UP_TO,
        }
        found = await calls.rows(self._database, _PAGE, values)
        if not found:
            raise LookupError(f"there is no account {account}")
        seq, message_id, version = found[0][:_HEAD_WIDTH]
        if after is not None:
            seq, message_id, version = after.timeline_seq, after.message_id, after.account_version
        lines = [columns for columns in found[:limit] if columns[_HEAD_WIDTH] is not None]
        views = [view_of(columns[_HEAD_WIDTH + 1 :]) for columns in lines]
        active, last = (lines[-1][_HEAD_WIDTH], views[-1].conversation.id) if lines else (0, 0)
        return SnapshotPage(
            views, SnapshotCursor(seq, message_id, version, active, last), len(found) > limit
        )
