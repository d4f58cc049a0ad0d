"""Conversations and members: reads, own state, and the making of direct conversations.

History is in `store.history`. What counts as unread is the table of `core.unread`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from chat_svc.core.unread import EXACT_UP_TO
from chat_svc.store import calls
from chat_svc.store.accounts import NewIds
from chat_svc.store.history import EventRow
from chatmesh.runtime.postgres import Database, Int8Array

DIRECT = 1
GROUP = 2
SELF = 3
"""Kinds: `chatmesh.v1.ConversationKind` numbers."""

Pair = tuple[int, int]
"""(lower account, higher account); equal = the self conversation."""


@dataclass(frozen=True, slots=True)
class ConversationRow:
    """A conversation, the same for all its members."""

    id: int
    tenant_id: int
    kind: int
    direct_low: int
    """Direct and self: the lower account. Groups: 0."""
    direct_high: int
    """Direct and self: the higher account. Groups: 0."""
    title: str
    member_count: int
    """Members now: timeline rows that one message makes."""
    last_conversation_seq: int
    last_message_no: int
    active_at_ms: int
    join_policy: int
    history_policy: int
    govern_version: int
    """Rises with every change of members, roles, title or policy."""


@dataclass(frozen=True, slots=True)
class MemberStateRow:
    """One member's own state."""

    role: int
    read_message_no: int
    unread: int
    mentions: int
    mute: int
    mute_until_ms: int
    pinned: bool
    archived: bool
    marked_unread: bool
    draft: str
    changed_at_version: int


@dataclass(frozen=True, slots=True)
class ConversationView:
    """A conversation as one member sees it."""

    conversation: ConversationRow
    state: MemberStateRow
    peer_user: str
    """Direct: the other member; self: the owner; group: empty."""
    last_message: EventRow | None


@dataclass(frozen=True, slots=True)
class MemberRow:
    """Somebody in a conversation."""

    account: int
    user_id: str
    role: int
    joined_at_ms: int
    read_message_no: int
    delivered_conversation_seq: int


@dataclass(frozen=True, slots=True)
class MemberChange:
    """What UpdateMemberState sets; None = unchanged. Numbers as in `chatmesh.v1.MemberState`."""

    read_message_no: int | None = None
    mute: int | None = None
    mute_until_ms: int = 0
    pinned: bool | None = None
    archived: bool | None = None
    marked_unread: bool | None = None
    draft: str | None = None


@dataclass(frozen=True, slots=True)
class ActivityCursor:
    """Where a page of `list_conversations` ended, and what the list is as of."""

    as_of_ms: int
    active_at_ms: int
    conversation: int


_MAKE_DIRECT: Final = "SELECT chat.make_direct_1(%s::integer, %s, %s, %s, %s)"
_PAIRS: Final = """
SELECT c.direct_low, c.direct_high, c.id
FROM unnest(%s, %s) x(low, high)
JOIN chat.conversation c ON c.direct_low = x.low AND c.direct_high = x.high
WHERE c.tenant = %s
"""
_BY_ID: Final = """
SELECT c.id, c.tenant, c.kind, coalesce(c.direct_low, 0), coalesce(c.direct_high, 0), c.title,
  c.member_count, c.last_conversation_seq, c.last_message_no, c.last_created_at_ms, c.join_policy,
  c.history_policy, c.govern_version
FROM chat.conversation c WHERE c.id = ANY (%s) AND c.tenant = %s
"""
_MEMBERS: Final = """
SELECT m.conversation, m.account FROM chat.conversation c
JOIN chat.member m ON m.conversation = c.id AND NOT m.gone
WHERE c.id = ANY (%s) AND c.tenant = %s ORDER BY m.conversation, m.account
"""
_ONE: Final = "SELECT * FROM chat.views_1(%s::bigint, ARRAY[%s]::bigint[], %s::integer)"
_DIRECT: Final = """
SELECT v.* FROM chat.conversation c, chat.views_1(%(account)s, ARRAY[c.id], %(exact)s::integer) v
WHERE c.direct_low = least(%(account)s, %(peer)s)
  AND c.direct_high = greatest(%(account)s, %(peer)s)
"""
_CHANGED: Final = """
SELECT * FROM chat.views_1(%(account)s::bigint, ARRAY(SELECT m.conversation FROM chat.member m
  WHERE m.account = %(account)s AND NOT m.gone AND m.changed_at_version > %(since)s),
  %(exact)s::integer)
ORDER BY changed_at_version
"""
_LIST: Final = """
WITH mine AS (
  -- when it was last active as of the first page's moment; created_at never falls with the seq
  SELECT m.conversation, CASE WHEN c.last_created_at_ms <= %(as_of)s THEN c.last_created_at_ms
    ELSE coalesce((SELECT e.created_at_ms FROM chat.event e
      WHERE e.conversation = c.id AND e.created_at_ms <= %(as_of)s
      ORDER BY e.conversation_seq DESC LIMIT 1), c.created_at_ms) END AS active
  FROM chat.member m JOIN chat.conversation c ON c.id = m.conversation
  WHERE m.account = %(account)s AND NOT m.gone AND (%(archived)s OR NOT m.archived)
    AND (c.kind = 2 OR c.last_message_no > 0)
), page AS MATERIALIZED (
  SELECT * FROM mine WHERE (active, conversation) < (%(active)s, %(conversation)s)
  ORDER BY active DESC, conversation DESC LIMIT %(limit)s
)
SELECT page.active, v.*
FROM page, chat.views_1(%(account)s, ARRAY[page.conversation], %(exact)s::integer) v
ORDER BY page.active DESC, page.conversation DESC
"""
_TOTALS: Final = """
SELECT m.account, sum(n.unread)::bigint, sum(n.mentions)::bigint
FROM chat.member m JOIN chat.conversation c ON c.id = m.conversation
CROSS JOIN LATERAL chat.unread_1(m.account, c.id, m.read_message_no, m.read_conversation_seq,
  c.last_message_no, %s::integer) n
WHERE m.account = ANY (%s) AND NOT m.gone AND NOT m.archived
  AND c.last_message_no > m.read_message_no
GROUP BY m.account
"""
_LIST_MEMBERS: Final = """
SELECT m.account, a.external_id, m.role, m.joined_at_ms,
  CASE WHEN shown.marks OR a.id = me.id THEN m.read_message_no ELSE 0 END,
  CASE WHEN shown.marks OR a.id = me.id THEN m.delivered_conversation_seq ELSE 0 END
FROM chat.member own
JOIN chat.account me ON me.id = own.account
JOIN chat.member m ON m.conversation = own.conversation AND NOT m.gone
JOIN chat.account a ON a.id = m.account
CROSS JOIN LATERAL (SELECT a.receipts_audience = 2 AND me.receipts_audience = 2 AS marks) shown
WHERE own.conversation = %(conversation)s AND own.account = %(account)s AND NOT own.gone
  AND a.external_id > %(after)s
ORDER BY a.external_id LIMIT %(limit)s
"""
_IS_MEMBER: Final = """
SELECT 1 FROM chat.member WHERE conversation = %s AND account = %s AND NOT gone
"""
_UPDATE_STATE: Final = """
SELECT chat.update_member_state_1(%s::bigint, %s::bigint, %s::bigint, %s::smallint, %s::bigint,
  %s::boolean, %s::boolean, %s::boolean, %s::text)
"""
_NOW: Final = "SELECT chat.now_ms()"
_TOP: Final = (1 << 63) - 1
_CONVERSATION_WIDTH: Final = 13
_STATE_WIDTH: Final = 11


class ConversationStore:
    """Reads and writes of conversation and member."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def direct_conversations(
        self, tenant_id: int, pairs: Sequence[Pair], new_ids: NewIds, *, make_contacts: bool = True
    ) -> dict[Pair, int]:
        """Conversation of each pair, made where there is none (in key order, a transaction apart).

        Args:
            tenant_id: tenant of all accounts of the pairs; the others are left out of the answer.
            pairs: (low, high); low == high is the self conversation.
            make_contacts: a direct conversation that is made makes the two contacts.
        """
        wanted = sorted(set(pairs))
        found = await self._pairs(tenant_id, wanted)
        missing = [pair for pair in wanted if pair not in found and pair[0] < pair[1]]
        if not missing:
            return found
        lows, highs = _split(missing)
        ids = Int8Array(await new_ids(len(missing)))
        await calls.rows(self._database, _MAKE_DIRECT, (tenant_id, lows, highs, ids, make_contacts))
        return found | await self._pairs(tenant_id, missing)

    async def _pairs(self, tenant_id: int, pairs: Sequence[Pair]) -> dict[Pair, int]:
        if not pairs:
            return {}
        found = await calls.rows(self._database, _PAIRS, (*_split(pairs), tenant_id))
        return {(low, high): conversation for low, high, conversation in found}

    async def conversations(self, tenant_id: int, ids: Sequence[int]) -> dict[int, ConversationRow]:
        """Rows of the tenant by id; others are absent. Says nothing about membership."""
        found = await calls.rows(self._database, _BY_ID, (Int8Array(ids), tenant_id))
        return {columns[0]: ConversationRow(*columns) for columns in found}

    async def members_of(self, tenant_id: int, ids: Sequence[int]) -> dict[int, list[int]]:
        """Accounts of the current members per conversation, sorted; for receipts and typing."""
        members: dict[int, list[int]] = {}
        for conversation, account in await calls.rows(
            self._database, _MEMBERS, (Int8Array(ids), tenant_id)
        ):
            members.setdefault(conversation, []).append(account)
        return members

    async def view(self, account: int, conversation: int) -> ConversationView | None:
        """As this account sees it; None when it is not a member."""
        found = await calls.row(self._database, _ONE, (account, conversation, EXACT_UP_TO))
        return view_of(found) if found else None

    async def view_direct(self, account: int, peer: int) -> ConversationView | None:
        """The direct (or self) conversation with `peer`; None when there is none."""
        values = {"account": account, "peer": peer, "exact": EXACT_UP_TO}
        found = await calls.row(self._database, _DIRECT, values)
        return view_of(found) if found else None

    async def list_views(
        self,
        account: int,
        *,
        after: ActivityCursor | None,
        limit: int,
        include_archived: bool,
    ) -> tuple[list[ConversationView], ActivityCursor | None]:
        """A page by activity, newest first, and where the next begins (None: no more).

        Stable: the order is the one of the first page's moment, whatever is written meanwhile.
        """
        if after is None:
            now = await calls.row(self._database, _NOW)
            after = ActivityCursor(now[0] if now else 0, _TOP, _TOP)
        values: dict[str, Any] = {
            "account": account,
            "as_of": after.as_of_ms,
            "active": after.active_at_ms,
            "conversation": after.conversation,
            "archived": include_archived,
            "limit": limit + 1,
            "exact": EXACT_UP_TO,
        }
        found = await calls.rows(self._database, _LIST, values)
        page = [view_of(columns[1:]) for columns in found[:limit]]
        if len(found) <= limit:
            return page, None
        last = found[limit - 1]
        return page, ActivityCursor(after.as_of_ms, last[0], last[1])

    async def changed_views(self, account: int, since_version: int) -> list[ConversationView]:
        """Those whose own state changed after that account_version."""
        values = {"account": account, "since": since_version, "exact": EXACT_UP_TO}
        return [view_of(columns) for columns in await calls.rows(self._database, _CHANGED, values)]

    async def list_members(
        self, account: int, conversation: int, *, after_user: str, limit: int
    ) -> list[MemberRow] | None:
        """A page by user id, for a current member; None for anybody else."""
        values = {
            "account": account,
            "conversation": conversation,
            "after": after_user,
            "limit": limit,
        }
        found = await calls.rows(self._database, _LIST_MEMBERS, values)
        if not found and not await calls.row(self._database, _IS_MEMBER, (conversation, account)):
            return None
        return [MemberRow(*columns) for columns in found]

    async def update_member_state(
        self, account: int, conversation: int, change: MemberChange
    ) -> MemberStateRow | None:
        """Set own state; raises account_version. None when not a member."""
        written = await calls.row(
            self._database,
            _UPDATE_STATE,
            (
                account,
                conversation,
                change.read_message_no,
                change.mute,
                change.mute_until_ms,
                change.pinned,
                change.archived,
                change.marked_unread,
                change.draft,
            ),
        )
        if not written or not written[0]:
            return None
        view = await self.view(account, conversation)
        return view.state if view else None

    async def unread_totals(self, account: int) -> tuple[int, int]:
        """(unread, mentions) over all conversations that count."""
        return (await self.unread_totals_of([account]))[account]

    async def unread_totals_of(self, accounts: Sequence[int]) -> dict[int, tuple[int, int]]:
        """The same for several accounts, in one read; each of them is in the answer."""
        found = await calls.rows(self._database, _TOTALS, (EXACT_UP_TO, Int8Array(accounts)))
        return dict.fromkeys(accounts, (0, 0)) | {
            account: (unread, mentions) for account, unread, mentions in found
        }


def _split(pairs: Sequence[Pair]) -> tuple[Int8Array, Int8Array]:
    return Int8Array([low for low, _ in pairs]), Int8Array([high for _, high in pairs])


def view_of(columns: calls.Row) -> ConversationView:
    """A row of `chat.views_1` or `chat.views_2`."""
    conversation = ConversationRow(*columns[:_CONVERSATION_WIDTH])
    state_end = _CONVERSATION_WIDTH + _STATE_WIDTH
    peer, *event = columns[state_end:]
    event = [conversation.id, *event, conversation.kind]
    event[5] = event[5] or ""  # who wrote it was erased
    return ConversationView(
        conversation=conversation,
        state=MemberStateRow(*columns[_CONVERSATION_WIDTH:state_end]),
        peer_user=peer,
        last_message=None if event[1] is None else EventRow(*event),
    )
