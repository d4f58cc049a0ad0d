"""History of one conversation as it reads now, for those who may see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from chat_svc.store import calls
from chatmesh.runtime.postgres import Database


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event as history reads it now, for one reader: body blank when erased."""

    conversation: int
    conversation_seq: int
    message_no: int
    message_id: int
    sender: int
    sender_user: str
    created_at_ms: int
    kind: int
    body: bytes
    conversation_kind: int


@dataclass(frozen=True, slots=True)
class MessagePage:
    """Visible messages by conversation_seq, rising."""

    messages: list[EventRow]
    more: bool
    """There is more in the direction that was read."""
    peers: tuple[str, str]
    """Direct and self: users of the lower and the higher account; groups: two empty texts."""
    conversation_kind: int


_MAY: Final = """
SELECT c.kind, coalesce(l.external_id, ''), coalesce(h.external_id, ''),
  (SELECT min(i.from_conversation_seq) FROM chat.member_interval i
    WHERE i.conversation = m.conversation AND i.account = m.account),
  (SELECT max(coalesce(i.to_conversation_seq, c.last_conversation_seq))
    FROM chat.member_interval i
    WHERE i.conversation = m.conversation AND i.account = m.account)
FROM chat.member m JOIN chat.conversation c ON c.id = m.conversation
LEFT JOIN chat.account l ON l.id = c.direct_low
LEFT JOIN chat.account h ON h.id = c.direct_high
WHERE m.account = %(account)s AND m.conversation = %(conversation)s
"""
_PAGE: Final = """
SELECT e.conversation, e.conversation_seq, e.message_no, e.id, e.sender,
  coalesce(s.external_id, ''), e.created_at_ms, e.kind,
  CASE WHEN e.expires_at_ms BETWEEN 1 AND chat.now_ms() THEN ''
    WHEN e.flags & 16 > 0
      THEN chat.edited_body_1(%(account)s, e.conversation, e.conversation_seq, e.body)
    ELSE e.body END, c.kind
FROM (
  -- stays may overlap; what was said between them is not looked at
  SELECT DISTINCT x.conversation_seq FROM chat.member_interval i CROSS JOIN LATERAL (
    SELECT e.conversation_seq FROM chat.event e
    WHERE e.conversation = i.conversation AND e.flags & 1 = 1
      AND e.conversation_seq > greatest(%(after)s::bigint, i.from_conversation_seq - 1)
      AND e.conversation_seq < least(%(before)s::bigint, i.to_conversation_seq + 1)
      AND NOT chat.is_hidden_1(i.account, e.conversation, e.conversation_seq)
      {only}
    ORDER BY e.conversation_seq {direction} LIMIT %(limit)s
  ) x
  WHERE i.conversation = %(conversation)s AND i.account = %(account)s
  ORDER BY x.conversation_seq {direction} LIMIT %(limit)s
) found
CROSS JOIN LATERAL (SELECT * FROM chat.event e WHERE e.conversation = %(conversation)s
  AND e.conversation_seq = found.conversation_seq LIMIT 1) e
JOIN chat.conversation c ON c.id = e.conversation
LEFT JOIN chat.account s ON s.id = e.sender
ORDER BY e.conversation_seq {direction}
"""
_IN_THREAD: Final = """AND e.conversation_seq IN (SELECT %(thread)s::bigint UNION ALL
        SELECT x.conversation_seq FROM chat.event x WHERE x.conversation = %(conversation)s
          AND position('\\x9001'::bytea IN x.body) > 0
          AND chat.thread_of_1(x.body) = %(thread)s)"""
_PINNED: Final = """AND e.flags & 8 = 0 AND e.expires_at_ms NOT BETWEEN 1 AND chat.now_ms()
      AND e.conversation_seq IN (SELECT p.target_seq FROM (
        SELECT DISTINCT ON (x.target_seq) x.target_seq, x.body FROM chat.event x
        WHERE x.conversation = %(conversation)s AND x.kind = 6
          AND chat.may_read_1(%(account)s, x.conversation, x.conversation_seq)
        ORDER BY x.target_seq, x.conversation_seq DESC) p WHERE NOT chat.unpins_1(p.body))"""
_FORWARD: Final = _PAGE.format(direction="ASC", only="")
_BACKWARD: Final = _PAGE.format(direction="DESC", only="")
_THREAD_FORWARD: Final = _PAGE.format(direction="ASC", only=_IN_THREAD)
_THREAD_BACKWARD: Final = _PAGE.format(direction="DESC", only=_IN_THREAD)
_PINNED_FORWARD: Final = _PAGE.format(direction="ASC", only=_PINNED)
_PINNED_BACKWARD: Final = _PAGE.format(direction="DESC", only=_PINNED)
_ONE: Final = """
SELECT e.conversation, e.conversation_seq, e.message_no, e.id, e.sender,
  coalesce(s.external_id, ''), e.created_at_ms, e.kind,
  CASE WHEN e.expires_at_ms BETWEEN 1 AND chat.now_ms() THEN ''
    WHEN e.flags & 16 > 0
      THEN chat.edited_body_1(%(account)s, e.conversation, e.conversation_seq, e.body)
    ELSE e.body END, c.kind
FROM chat.event e LEFT JOIN chat.account s ON s.id = e.sender
JOIN chat.conversation c ON c.id = e.conversation
WHERE e.conversation = %(conversation)s AND e.conversation_seq = %(seq)s
  AND chat.may_read_1(%(account)s, e.conversation, e.conversation_seq)
"""


class HistoryStore:
    """Reads of event by conversation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_messages(
        self,
        account: int,
        conversation: int,
        *,
        from_seq: int,
        forward: bool,
        limit: int,
        thread: int = 0,
        pinned: bool = False,
    ) -> MessagePage | None:
        """History as it reads now, within what this account may see; None: never was a member.

        Stable under writes: positions never change, so pages neither repeat nor skip.

        Args:
            from_seq: exclusive; 0 = the newest end (backwards) or the beginning (forwards).
            thread: only the message there and those that name it as their thread's root, erased
                ones left out; 0 = all.
            pinned: only what is pinned now; not together with `thread`.
        """
        values = {"account": account, "conversation": conversation}
        may = await calls.row(self._database, _MAY, values)
        if may is None or may[3] is None:
            return None
        kind, low, high, first, last = may
        # the bounds spare a walk over what lies outside every interval
        after = max(from_seq if forward else 0, first - 1)
        before = min(from_seq if not forward and from_seq else last + 1, last + 1)
        bounds = {"after": after, "before": before, "limit": limit + 1}
        if thread:
            query = _THREAD_FORWARD if forward else _THREAD_BACKWARD
            bounds["thread"] = thread
        elif pinned:
            query = _PINNED_FORWARD if forward else _PINNED_BACKWARD
        else:
            query = _FORWARD if forward else _BACKWARD
        found = await calls.rows(self._database, query, values | bounds)
        messages = [EventRow(*columns) for columns in found[:limit]]
        if not forward:
            messages.reverse()
        return MessagePage(messages, len(found) > limit, (low, high), kind)

    async def event_at(self, account: int, conversation: int, seq: int) -> EventRow | None:
        """One event of any kind; None when there is none that this account may see."""
        values = {"account": account, "conversation": conversation, "seq": seq}
        found = await calls.row(self._database, _ONE, values)
        return EventRow(*found) if found else None
