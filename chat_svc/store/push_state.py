"""What a push would say now, per device: one batched read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chat_svc.core.quiet import is_quiet
from chat_svc.core.unread import EXACT_UP_TO
from chat_svc.store import calls
from chatmesh.runtime.postgres import Database, Int8Array, TextArray

MAX_PENDING: Final = 5
"""Entries told per device; more become a count."""
MAX_SCANNED: Final = 200
"""Newest unacked entries that are looked at for what is loud. A device further behind gets a
summary anyway."""


@dataclass(frozen=True, slots=True)
class PendingRow:
    """An entry that waits for a device and may notify."""

    timeline_seq: int
    message_id: int
    conversation: int
    sender_user: str
    title: str
    body: bytes
    mention: bool


@dataclass(slots=True)
class PushStateRow:
    """State of one device as push needs it."""

    account: int
    device_id: str
    exists: bool
    acked_seq: int
    notify_seq: int
    badge: int
    """Unread that counts."""
    visible: bool
    """False: nothing of what waits is loud (muted, quiet hours, read elsewhere)."""
    pending: list[PendingRow]
    """Newest last, at most 5."""
    pending_count: int
    tenant: str = ""
    kind: int = 0
    """Number of DeviceKind."""
    pending_mentions: int = 0
    active_elsewhere: bool = False
    """Another device of the account has a session on another live node."""


# Nothing notifies a disabled account: its jobs end as told, and its badge as 0.
_STATE: Final = """
SELECT x.n, d.device_id IS NOT NULL, coalesce(d.acked_seq, 0),
  CASE WHEN h.disabled THEN 0 ELSE coalesce(h.notify_seq, 0) END,
  coalesce(badge.unread, 0)::bigint, a.quiet_start_minute, a.quiet_end_minute, a.time_zone,
  chat.now_ms(), n.name, coalesce(d.kind, 0),
  EXISTS (SELECT FROM chat.device o JOIN chat.chat_node live ON live.id = o.session_node
    WHERE o.account = d.account AND o.device_id <> d.device_id AND o.session_node <> %(node)s
      AND live.lease_until_ms > chat.now_ms()),
  w.timeline_seq, w.id, w.conversation, w.sender_user, w.title, w.body, w.mention,
  w.waiting, w.mentions
FROM unnest(%(accounts)s, %(devices)s) WITH ORDINALITY x(account, device_id, n)
JOIN chat.timeline_head h ON h.account = x.account
JOIN chat.account a ON a.id = x.account
JOIN chat.tenant n ON n.id = a.tenant
LEFT JOIN chat.device d ON d.account = x.account AND d.device_id = x.device_id
LEFT JOIN LATERAL (
  SELECT sum(u.unread) AS unread
  FROM chat.member m JOIN chat.conversation c ON c.id = m.conversation
  CROSS JOIN LATERAL chat.unread_1(m.account, c.id, m.read_message_no, m.read_conversation_seq,
    c.last_message_no, %(exact)s::integer) u
  WHERE m.account = d.account AND NOT h.disabled AND NOT m.gone AND NOT m.archived
    AND c.last_message_no > m.read_message_no
) badge ON true
LEFT JOIN LATERAL (
  SELECT loud.*, count(*) OVER () AS waiting,
    count(*) FILTER (WHERE loud.mention) OVER () AS mentions
  FROM (
    SELECT t.timeline_seq, e.id, e.conversation, s.external_id AS sender_user, c.title,
      CASE WHEN e.flags & 16 > 0
        THEN chat.edited_body_1(d.account, e.conversation, e.conversation_seq, e.body)
        ELSE e.body END AS body,
      coalesce(e.mentions @> ARRAY[d.account], false) AS mention, m.mute, m.mute_until_ms
    FROM (SELECT * FROM chat.timeline t WHERE t.account = d.account AND NOT h.disabled
      AND t.timeline_seq > d.acked_seq AND t.timeline_seq <= h.notify_seq
      ORDER BY t.timeline_seq DESC LIMIT %(scanned)s) t
    JOIN chat.event e ON e.conversation = t.conversation
      AND e.conversation_seq = t.conversation_seq
    JOIN chat.member m ON m.conversation = t.conversation AND m.account = d.account
    JOIN chat.conversation c ON c.id = t.conversation
    JOIN chat.account s ON s.id = e.sender
    WHERE e.flags & 10 = 2 AND e.sender <> d.account AND e.message_no > m.read_message_no
      AND NOT m.gone AND NOT e.expires_at_ms BETWEEN 1 AND chat.now_ms()
      AND NOT chat.is_hidden_1(d.account, e.conversation, e.conversation_seq)
      AND (h.blocks = 0 OR NOT EXISTS (SELECT FROM chat.block b
        WHERE b.owner = d.account AND b.blocked = e.sender))
  ) loud
  WHERE greatest(a.mute, CASE WHEN loud.mute_until_ms BETWEEN 1 AND chat.now_ms() THEN 1
    ELSE loud.mute END) <= CASE WHEN loud.mention THEN 2 ELSE 1 END
  ORDER BY loud.timeline_seq = max(loud.timeline_seq) OVER () DESC, loud.mention DESC,
    loud.timeline_seq DESC
  LIMIT %(pending)s
) w ON true
ORDER BY x.n, w.timeline_seq
"""


class PushStateStore:
    """Reads for push."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def push_state(
        self, devices: Sequence[tuple[int, str]], node_id: int = 0
    ) -> list[PushStateRow]:
        """State of (account, device_id) pairs, in order; one batched read.

        Args:
            node_id: sessions on this node do not count as elsewhere; the caller knows them.
        """
        states = [
            PushStateRow(account, device_id, False, 0, 0, 0, False, [], 0)
            for account, device_id in devices
        ]
        if not devices:
            return states
        values = {
            "accounts": Int8Array([account for account, _ in devices]),
            "devices": TextArray([device_id for _, device_id in devices]),
            "exact": EXACT_UP_TO,
            "scanned": MAX_SCANNED,
            "pending": MAX_PENDING,
            "node": node_id,
        }
        for found in await calls.rows(self._database, _STATE, values):
            n, exists, acked, notify, badge, start, end, zone, now_ms, *rest = found
            tenant, kind, elsewhere, *pending, waiting, mentions = rest
            state = states[n - 1]
            state.exists, state.acked_seq, state.notify_seq = exists, acked, notify
            state.badge = badge
            state.tenant, state.kind, state.active_elsewhere = tenant, kind, elsewhere
            if waiting is not None:
                state.pending.append(PendingRow(*pending))
                state.pending_count, state.pending_mentions = waiting, mentions
                state.visible = not is_quiet(now_ms, start, end, zone)
        return states
