"""Messages of the contract ↔ values of the SDK. The only place where the two forms meet.

Rules: total: whatever a server of the same major version sends becomes a value.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import TypeVar, cast

from chatmesh.client import _content as c
from chatmesh.client import _values as v
from chatmesh.client._progress import Cursor
from chatmesh.runtime import trace
from chatmesh.v1 import session_pb2 as spb
from chatmesh.v1 import types_pb2 as pb

_E = TypeVar("_E", bound=IntEnum)


def enum_of(kind: type[_E], number: int) -> _E:
    """The member; the one numbered 0 for numbers of a newer server."""
    try:
        return kind(number)
    except ValueError:
        return kind(0)


# -- values to messages ---------------------------------------------------------------------------


def content_message(content: c.Sendable) -> pb.Content:
    """What is said, for the wire."""
    match content:
        case c.Text(body):
            return pb.Content(text=pb.TextContent(body=body))
        case c.Data(media_type, data):
            return pb.Content(data=pb.DataContent(media_type=media_type, body=data))
        case c.Edit(target, body):
            edit = pb.EditContent(target_conversation_seq=target)
            if isinstance(body, c.Text):
                edit.text.body = body.body
            else:
                edit.data.media_type, edit.data.body = body.media_type, body.body
            return pb.Content(edit=edit)
        case c.Delete(target):
            return pb.Content(delete=pb.DeleteContent(target_conversation_seq=target))
        case c.Reaction(target, reaction, removed):
            return pb.Content(
                reaction=pb.ReactionContent(
                    target_conversation_seq=target, reaction=reaction, removed=removed
                )
            )
        case c.Pin(target, removed):
            return pb.Content(pin=pb.PinContent(target_conversation_seq=target, removed=removed))


def outgoing_message(message: c.Message, key: bytes) -> pb.OutgoingMessage:
    """A message with its key, for the wire."""
    out = pb.OutgoingMessage(
        idempotency_key=key,
        content=content_message(message.content),
        reply_to_conversation_seq=message.reply_to,
        silent=message.silent,
        expires_at_ms=message.expires_at_ms,
        encrypted=message.encrypted,
        metadata=message.metadata,
        mention_user_ids=message.mentions,
        thread_root_conversation_seq=message.thread_root,
        trace_context=trace.from_traceparent(message.traceparent),
    )
    if message.to_user is not None:
        out.to_user_id = message.to_user
    if message.conversation_id is not None:
        out.conversation_id = message.conversation_id
    if message.push_priority or message.push_collapse_key:
        priority = cast("pb.PushOptions.Priority.ValueType", int(message.push_priority))
        out.push.priority, out.push.collapse_key = priority, message.push_collapse_key
    for item in message.attachments:
        out.attachments.add(
            uri=item.uri, media_type=item.media_type, size_bytes=item.size_bytes,
            sha256=item.sha256, name=item.name,
        )  # fmt: skip
    if message.forwarded_from is not None:
        out.forwarded_from.user_id = message.forwarded_from.user_id
        out.forwarded_from.created_at_ms = message.forwarded_from.created_at_ms
    return out


def offered(out: pb.OutgoingMessage) -> c.Message:
    """A message from its form on the wire, as the application offered it."""
    said = content(out.content)
    if not isinstance(said, c.Sendable):
        said = c.Data("", b"")  # never: an outbox holds what `outgoing_message` made
    to_user = out.to_user_id if out.WhichOneof("to") == "to_user_id" else None
    return c.Message(
        content=said,
        to_user=to_user,
        conversation_id=out.conversation_id if to_user is None else None,
        reply_to=out.reply_to_conversation_seq,
        silent=out.silent,
        expires_at_ms=out.expires_at_ms,
        push_priority=enum_of(c.PushPriority, out.push.priority),
        push_collapse_key=out.push.collapse_key,
        encrypted=out.encrypted,
        metadata=dict(out.metadata),
        mentions=tuple(out.mention_user_ids),
        attachments=tuple(_attachment(item) for item in out.attachments),
        forwarded_from=_forwarded(out),
        thread_root=out.thread_root_conversation_seq,
        traceparent=trace.to_traceparent(out.trace_context) if out.trace_context else "",
        key=out.idempotency_key,
    )


def policy_message(policy: c.Policy) -> pb.ConversationPolicy:
    """Rules of a group, for the wire."""
    return pb.ConversationPolicy(
        join=cast("pb.ConversationPolicy.Join.ValueType", int(policy.join)),
        history=cast("pb.ConversationPolicy.History.ValueType", int(policy.history)),
    )


# -- messages to values ---------------------------------------------------------------------------


def policy(message: pb.ConversationPolicy) -> c.Policy:
    """Rules of a group."""
    return c.Policy(enum_of(c.JoinPolicy, message.join), enum_of(c.HistoryPolicy, message.history))


def content(message: pb.Content) -> c.Content:
    """What an event says."""
    match message.WhichOneof("kind"):
        case "text":
            return c.Text(message.text.body)
        case "data":
            return c.Data(message.data.media_type, message.data.body)
        case "edit":
            edit = message.edit
            body: c.Text | c.Data = c.Text(edit.text.body)
            if edit.HasField("data"):
                body = c.Data(edit.data.media_type, edit.data.body)
            return c.Edit(edit.target_conversation_seq, body)
        case "delete":
            return c.Delete(message.delete.target_conversation_seq)
        case "reaction":
            said = message.reaction
            return c.Reaction(said.target_conversation_seq, said.reaction, said.removed)
        case "pin":
            return c.Pin(message.pin.target_conversation_seq, message.pin.removed)
        case _:
            return _server_content(message)


def _server_content(message: pb.Content) -> c.Content:
    match message.WhichOneof("kind"):
        case "membership":
            change = message.membership
            return c.Membership(
                enum_of(c.MembershipChange, change.change),
                tuple(change.user_ids),
                enum_of(c.MemberRole, change.role),
            )
        case "conversation":
            about = message.conversation
            return c.ConversationChange(
                about.created,
                about.title if about.HasField("title") else None,
                policy(about.policy) if about.HasField("policy") else None,
            )
        case "account":
            account = message.account
            return c.AccountChange(
                account.subject,
                account.user_id,
                account.state,
                account.conversation_id,
                account.conversation_seq,
            )
        case _:
            return c.UnknownContent()


def event(message: pb.Event, me: str) -> v.Event:
    """An event as the user `me` sees it."""
    peer = message.peer_user_id
    if peer == me and message.sender_user_id:
        peer = message.sender_user_id
    return v.Event(
        conversation_id=message.conversation_id,
        conversation_seq=message.conversation_seq,
        message_no=message.message_no,
        message_id=message.message_id,
        sender=message.sender_user_id,
        created_at_ms=message.created_at_ms,
        peer=peer,
        conversation_kind=enum_of(v.ConversationKind, message.conversation_kind),
        content=content(message.content) if message.HasField("content") else None,
        reply_to=message.reply_to_conversation_seq,
        silent=message.silent,
        expires_at_ms=message.expires_at_ms,
        encrypted=message.encrypted,
        metadata=dict(message.metadata) if message.metadata else {},
        mentions=tuple(message.mention_user_ids),
        attachments=tuple(_attachment(item) for item in message.attachments),
        forwarded_from=_forwarded(message),
        thread_root=message.thread_root_conversation_seq,
        sender_kind=enum_of(v.SenderKind, message.sender_kind),
        sent_by=message.sent_by_user_id,
        traceparent=trace.to_traceparent(message.trace_context) if message.trace_context else "",
        key=message.idempotency_key,
    )


def _attachment(item: pb.Attachment) -> c.Attachment:
    return c.Attachment(item.uri, item.media_type, item.size_bytes, item.sha256, item.name)


def _forwarded(message: pb.Event | pb.OutgoingMessage) -> c.Forwarded | None:
    if not message.HasField("forwarded_from"):
        return None
    return c.Forwarded(message.forwarded_from.user_id, message.forwarded_from.created_at_ms)


def entry(message: pb.Entry, me: str, acker: Callable[[v.Entry], None], epoch: int) -> v.Entry:
    """A row of the timeline."""
    return v.Entry(message.timeline_seq, event(message.event, me), acker, epoch)


def sent(result: spb.SendResult) -> v.Sent:
    """Where an accepted message went."""
    return v.Sent(
        message_id=result.message_id,
        conversation_id=result.conversation_id,
        conversation_seq=result.conversation_seq,
        message_no=result.message_no,
        timeline_seq=result.timeline_seq,
        created_at_ms=result.created_at_ms,
        repeated=result.repeated,
        key=result.idempotency_key,
    )


def receipt(message: spb.Receipt) -> v.Receipt:
    """How far a member has got."""
    return v.Receipt(
        message.conversation_id, message.user_id, message.delivered_conversation_seq,
        message.read_message_no, message.member_count,
    )  # fmt: skip


def presence(message: spb.Presence) -> v.Presence:
    """What may be seen of a user."""
    return v.Presence(
        message.user_id,
        enum_of(v.PresenceState, message.state),
        message.last_seen_ms,
        message.status_text,
        tuple(enum_of(v.DeviceKind, kind) for kind in message.online_kinds),
    )


def typing(message: spb.Typing) -> v.Typing:
    """Somebody types."""
    return v.Typing(message.conversation_id, message.user_id, message.active, message.expires_in_ms)


def member_state(message: pb.MemberState) -> v.MemberState:
    """The caller's own state in a conversation."""
    return v.MemberState(
        role=enum_of(c.MemberRole, message.role),
        read_message_no=message.read_message_no,
        unread=message.unread,
        mentions=message.mentions,
        mute=enum_of(v.MuteLevel, message.mute),
        mute_until_ms=message.mute_until_ms,
        pinned=message.pinned,
        archived=message.archived,
        marked_unread=message.marked_unread,
        draft=message.draft,
    )


def conversation(message: pb.Conversation, me: str) -> v.Conversation:
    """A conversation as the user `me` sees it."""
    last = event(message.last_message, me) if message.HasField("last_message") else None
    return v.Conversation(
        conversation_id=message.conversation_id,
        kind=enum_of(v.ConversationKind, message.kind),
        title=message.title,
        peer=message.peer_user_id,
        last_conversation_seq=message.last_conversation_seq,
        last_message_no=message.last_message_no,
        last_message=last,
        active_at_ms=message.active_at_ms,
        state=member_state(message.state),
        member_count=message.member_count,
        policy=policy(message.policy) if message.HasField("policy") else None,
    )


def member(message: pb.Member) -> v.Member:
    """Somebody in a conversation."""
    return v.Member(
        message.user_id, enum_of(c.MemberRole, message.role), message.joined_at_ms,
        message.read_message_no, message.delivered_conversation_seq,
    )  # fmt: skip


def cursor(message: pb.Cursor) -> Cursor:
    """A place in a timeline."""
    return Cursor(message.timeline_seq, message.message_id)


def session_info(welcome: spb.Welcome) -> v.SessionInfo:
    """What the server said at the opening."""
    return v.SessionInfo(
        welcome.user_id, welcome.device_id, welcome.chat_node, welcome.session_no,
        welcome.head_timeline_seq, welcome.start_timeline_seq, welcome.account_version,
    )  # fmt: skip
