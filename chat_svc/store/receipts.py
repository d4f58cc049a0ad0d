"""Read and delivered marks: batched, monotonic; and who may be told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chat_svc.store import calls
from chatmesh.runtime.postgres import Database, Int8Array

MAX_TOLD_POSITIONS: Final = 200
"""Newest positions that a mark passed, whose senders are told; who catches up on more passes the
rest in silence."""
MAX_RESUMED_ENTRIES: Final = 1_000
"""Entries before a resumed cursor that are looked at for marks that never were written."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a member has got; 0 = not said. Several of one member may be in one call."""

    conversation: int
    account: int
    read_message_no: int
    delivered_conversation_seq: int


@dataclass(frozen=True, slots=True)
class ChangedMark:
    """A member whose marks rose, and where they stand now."""

    conversation: int
    account: int
    read_message_no: int
    delivered_conversation_seq: int
    read_changed: bool
    delivered_changed: bool
    conversation_kind: int
    member_count: int
    above_seq: int
    """The marks newly passed the positions after this one …"""
    up_to_seq: int
    """… and up to this one."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many members of a large group are at least at a sender's newest message."""

    conversation: int
    sender: int
    conversation_seq: int
    message_no: int
    delivered_members: int
    read_members: int


_WRITE: Final = "SELECT * FROM chat.write_marks_2(%s, %s, %s, %s)"
_VIEWERS: Final = """
SELECT x.conversation, x.actor, v.account
FROM unnest(%s, %s) x(conversation, actor)
JOIN chat.account a ON a.id = x.actor AND a.receipts_audience = 2
JOIN chat.member v ON v.conversation = x.conversation AND v.account <> x.actor AND NOT v.gone
JOIN chat.account b ON b.id = v.account AND b.receipts_audience = 2
WHERE NOT EXISTS (SELECT FROM chat.block k WHERE k.owner = x.actor AND k.blocked = v.account
  OR k.owner = v.account AND k.blocked = x.actor)
ORDER BY x.conversation, x.actor, v.account
"""
_SENDERS: Final = """
SELECT DISTINCT x.conversation, x.actor, e.sender
FROM unnest(%s, %s, %s, %s) x(conversation, actor, above, up_to)
JOIN chat.event e ON e.conversation = x.conversation AND e.flags & 1 = 1
  AND e.conversation_seq > greatest(x.above, x.up_to - %s) AND e.conversation_seq <= x.up_to
ORDER BY 1, 2, 3
"""
_TALLIES: Final = """
SELECT x.conversation, s.sender, s.seq, s.no, t.delivered, t.read
FROM unnest(%s, %s, %s) x(conversation, above, up_to)
CROSS JOIN LATERAL (
  SELECT DISTINCT ON (e.sender) e.sender, e.conversation_seq AS seq, e.message_no AS no
  FROM chat.event e
  WHERE e.conversation = x.conversation AND e.flags & 1 = 1
    AND e.conversation_seq > greatest(x.above, x.up_to - %s) AND e.conversation_seq <= x.up_to
  ORDER BY e.sender, e.conversation_seq DESC
) s
JOIN chat.account a ON a.id = s.sender AND a.receipts_audience = 2
JOIN chat.member own ON own.conversation = x.conversation AND own.account = s.sender
  AND NOT own.gone
CROSS JOIN LATERAL (
  SELECT count(*) FILTER (WHERE m.delivered_conversation_seq >= s.seq) AS delivered,
    count(*) FILTER (WHERE m.read_message_no >= s.no) AS read
  FROM chat.member m JOIN chat.account b ON b.id = m.account AND b.receipts_audience = 2
  WHERE m.conversation = x.conversation AND m.account <> s.sender AND NOT m.gone
) t
ORDER BY x.conversation, s.sender
"""
_RESUMED: Final = """
SELECT t.conversation, x.account, max(t.conversation_seq)
FROM unnest(%s, %s) x(account, seq)
JOIN chat.timeline t ON t.account = x.account
  AND t.timeline_seq > x.seq - %s AND t.timeline_seq <= x.seq
JOIN chat.member m ON m.conversation = t.conversation AND m.account = x.account AND NOT m.gone
  AND m.delivered_conversation_seq < t.conversation_seq
GROUP BY t.conversation, x.account
"""

Viewers = dict[tuple[int, int], list[int]]
"""Accounts by (conversation, actor)."""


class ReceiptStore:
    """Writes of member's marks, and reads of who is told."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write_marks(self, marks: Sequence[Mark]) -> list[ChangedMark]:
        """Raise marks of current members; never above the conversation's head, never lower.

        A raised read mark raises the account's account_version.
        """
        highest: dict[tuple[int, int], tuple[int, int]] = {}
        for mark in marks:
            key = (mark.conversation, mark.account)
            read, delivered = highest.get(key, (0, 0))
            highest[key] = (
                max(read, mark.read_message_no),
                max(delivered, mark.delivered_conversation_seq),
            )
        if not highest:
            return []
        arguments = (
            Int8Array([conversation for conversation, _ in highest]),
            Int8Array([account for _, account in highest]),
            Int8Array([read for read, _ in highest.values()]),
            Int8Array([delivered for _, delivered in highest.values()]),
        )
        found = await calls.rows(self._database, _WRITE, arguments)
        return [ChangedMark(*columns) for columns in found]

    async def resumed_marks(self, cursors: Sequence[tuple[int, int]]) -> list[Mark]:
        """Delivered marks that follow from cursors: (account, timeline_seq) that were resumed from.

        A cursor may be ahead of the marks: the node that was told died before it wrote them, or the
        device pulled its entries.
        """
        arguments = (
            Int8Array([account for account, _ in cursors]),
            Int8Array([seq for _, seq in cursors]),
            MAX_RESUMED_ENTRIES,
        )
        found = await calls.rows(self._database, _RESUMED, arguments)
        return [Mark(conversation, account, 0, seq) for conversation, account, seq in found]

    async def receipt_viewers(self, marks: Sequence[ChangedMark]) -> Viewers:
        """Members who may see receipts of a mark's account: neither hides receipts or blocks."""
        arguments = (
            Int8Array([mark.conversation for mark in marks]),
            Int8Array([mark.account for mark in marks]),
        )
        return _viewers(await calls.rows(self._database, _VIEWERS, arguments))

    async def senders(self, marks: Sequence[ChangedMark]) -> Viewers:
        """Whose messages the marks newly passed."""
        arguments = (
            Int8Array([mark.conversation for mark in marks]),
            Int8Array([mark.account for mark in marks]),
            Int8Array([mark.above_seq for mark in marks]),
            Int8Array([mark.up_to_seq for mark in marks]),
            MAX_TOLD_POSITIONS,
        )
        return _viewers(await calls.rows(self._database, _SENDERS, arguments))

    async def tallies(self, ranges: Sequence[tuple[int, int, int]]) -> list[Tally]:
        """For each sender of messages in (conversation, above, up to): how many have their newest.

        Members who hide receipts are not counted, and senders who do are told nothing.
        """
        arguments = (
            Int8Array([conversation for conversation, _, _ in ranges]),
            Int8Array([above for _, above, _ in ranges]),
            Int8Array([up_to for _, _, up_to in ranges]),
            MAX_TOLD_POSITIONS,
        )
        return [Tally(*row) for row in await calls.rows(self._database, _TALLIES, arguments)]


def _viewers(rows: Sequence[calls.Row]) -> Viewers:
    viewers: Viewers = {}
    for conversation, actor, account in rows:
        viewers.setdefault((conversation, actor), []).append(account)
    return viewers
