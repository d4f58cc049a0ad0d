"""Conversations, members and history: reads, and the making of direct conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chat_svc.store.accounts import NewIds

if TYPE_CHECKING:
    from chatmesh.runtime.postgres import Database

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
class EventRow:
    """An event as history reads it now: body blank when erased."""

    conversation: int
    conversation_seq: int
    message_no: int
    message_id: int
    sender: int
    sender_user: str
    created_at_ms: int
    kind: int
    body: bytes


@dataclass(frozen=True, slots=True)
class ConversationView:
    """A conversation as one member sees it."""

    conversation: ConversationRow
    state: MemberStateRow
    peer_user: str
    """Direct: the other member; self: the owner; group: empty."""
    last_message: EventRow | None
    left: bool
    """The caller was a member and is no longer: positions and title are those of the leaving."""


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
class MessagePage:
    """Visible messages by conversation_seq, rising."""

    messages: list[EventRow]
    more: bool


@dataclass(frozen=True, slots=True)
class ActivityCursor:
    """Where a page of `list_conversations` ended, and what the list is as of."""

    as_of_ms: int
    active_at_ms: int
    conversation: int


class ConversationStore:
    """Reads and writes of conversation, member, event."""

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
        raise NotImplementedError

    async def conversations(self, tenant_id: int, ids: Sequence[int]) -> dict[int, ConversationRow]:
        """Rows of the tenant by id; others are absent. Says nothing about membership."""
        raise NotImplementedError

    async def members_of(self, tenant_id: int, ids: Sequence[int]) -> dict[int, list[int]]:
        """Accounts of the current members per conversation, sorted; for receipts and typing."""
        raise NotImplementedError

    async def view(self, account: int, conversation: int) -> ConversationView | None:
        """As this account sees it; None when it never was a member."""
        raise NotImplementedError

    async def view_direct(self, account: int, peer: int) -> ConversationView | None:
        """The direct (or self) conversation with `peer`; None when there is none."""
        raise NotImplementedError

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
        raise NotImplementedError

    async def changed_views(self, account: int, since_version: int) -> list[ConversationView]:
        """Those whose own state changed after that account_version."""
        raise NotImplementedError

    async def list_messages(
        self,
        account: int,
        conversation: int,
        *,
        from_seq: int,
        forward: bool,
        limit: int,
        thread_root_seq: int = 0,
    ) -> MessagePage | None:
        """History as it reads now, within what this account may see; None: never was a member.

        Args:
            from_seq: exclusive; 0 = the newest end (backwards) or the beginning (forwards).
        """
        raise NotImplementedError

    async def list_members(
        self, account: int, conversation: int, *, after_user: str, limit: int
    ) -> list[MemberRow] | None:
        """A page by user id, for a current member; None for anybody else."""
        raise NotImplementedError

    async def update_member_state(
        self, account: int, conversation: int, change: MemberChange
    ) -> MemberStateRow | None:
        """Set own state; raises account_version. None when not a member."""
        raise NotImplementedError

    async def unread_totals(self, account: int) -> tuple[int, int]:
        """(unread, mentions) over all conversations that count."""
        raise NotImplementedError
