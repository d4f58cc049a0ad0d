"""Store rows to messages of the contract."""

from __future__ import annotations

from chat_svc.core.entry_bytes import event_bytes
from chat_svc.store.conversations import (
    GROUP,
    ConversationRow,
    ConversationView,
    MemberRow,
    MemberStateRow,
)
from chat_svc.store.history import EventRow, MessagePage
from chat_svc.store.search import Hit
from chatmesh.v1.conversations_pb2 import SearchHit
from chatmesh.v1.types_pb2 import (
    Conversation,
    ConversationKind,
    ConversationPolicy,
    Event,
    Member,
    MemberRole,
    MemberState,
    MuteLevel,
)


def event(row: EventRow, peer_user: str, conversation_kind: int) -> Event:
    """An event as it reads now."""
    return Event.FromString(
        event_bytes(
            row.conversation,
            row.conversation_seq,
            row.message_no,
            row.message_id,
            row.sender_user,
            row.created_at_ms,
            peer_user,
            conversation_kind,
            row.body,
        )
    )


def page_events(page: MessagePage) -> list[Event]:
    """History; the peer of an event is the member who did not send it."""
    low, high = page.peers
    return [
        event(row, high if row.sender_user == low else low, page.conversation_kind)
        for row in page.messages
    ]


def hit(found: Hit) -> SearchHit:
    """A message that was found, and the piece of it that says so."""
    (low, high), row = found.peers, found.message
    peer = high if row.sender_user == low else low
    return SearchHit(message=event(row, peer, row.conversation_kind), highlight=found.highlight)


def conversation(view: ConversationView, caller_user: str) -> Conversation:
    """A conversation as its caller sees it."""
    row = view.conversation
    message = Conversation(
        conversation_id=row.id,
        kind=ConversationKind.ValueType(row.kind),
        title=row.title,
        peer_user_id=view.peer_user,
        last_conversation_seq=row.last_conversation_seq,
        last_message_no=row.last_message_no,
        active_at_ms=row.active_at_ms,
        state=member_state(view.state),
        member_count=row.member_count,
        policy=policy(row),
    )
    last = view.last_message
    if last is not None:
        peer = view.peer_user
        if row.kind != GROUP and last.sender_user != caller_user:
            peer = caller_user
        message.last_message.CopyFrom(event(last, peer, row.kind))
    return message


def policy(row: ConversationRow) -> ConversationPolicy | None:
    """Rules; groups only."""
    if row.kind != GROUP:
        return None
    return ConversationPolicy(
        join=ConversationPolicy.Join.ValueType(row.join_policy),
        history=ConversationPolicy.History.ValueType(row.history_policy),
    )


def member_state(row: MemberStateRow) -> MemberState:
    """The caller's own state."""
    return MemberState(
        role=MemberRole.ValueType(row.role),
        read_message_no=row.read_message_no,
        unread=row.unread,
        mentions=row.mentions,
        mute=MuteLevel.ValueType(row.mute),
        mute_until_ms=row.mute_until_ms,
        pinned=row.pinned,
        archived=row.archived,
        marked_unread=row.marked_unread,
        draft=row.draft,
    )


def member(row: MemberRow) -> Member:
    """Somebody in a conversation."""
    return Member(
        user_id=row.user_id,
        role=MemberRole.ValueType(row.role),
        joined_at_ms=row.joined_at_ms,
        read_message_no=row.read_message_no,
        delivered_conversation_seq=row.delivered_conversation_seq,
    )
