"""Bodies of the events that only the mesh writes: membership, conversation, account.

Pure. A body is what is stored of an event: fields 9 and above of `chatmesh.v1.Event`.
"""

from __future__ import annotations

from collections.abc import Sequence

from chatmesh.v1.types_pb2 import (
    SENDER_KIND_SYSTEM,
    AccountContent,
    Content,
    ConversationContent,
    ConversationPolicy,
    Event,
    MemberRole,
    MembershipChange,
    MembershipContent,
)


def membership_body(change: int, users: Sequence[str], role: int) -> bytes:
    """Members came, went or changed role; numbers as in the contract, role 0 = not said."""
    content = MembershipContent(
        change=MembershipChange.ValueType(change),
        user_ids=users,
        role=MemberRole.ValueType(role),
    )
    return _body(Content(membership=content))


def conversation_body(
    *, created: bool, title: str | None, policy: ConversationPolicy | None
) -> bytes:
    """A group was made, or its title or rules changed; None = unchanged."""
    content = ConversationContent(created=created, title=title, policy=policy)
    return _body(Content(conversation=content))


def policy_of(join: int | None, history: int | None) -> ConversationPolicy | None:
    """Rules as they are said in an event; None when neither is set."""
    if not join and not history:
        return None
    return ConversationPolicy(
        join=ConversationPolicy.Join.ValueType(join or 0),
        history=ConversationPolicy.History.ValueType(history or 0),
    )


def account_body(
    subject: str, user: str, state: str, *, conversation: int = 0, seq: int = 0
) -> bytes:
    """Something of the owner's own account changed; `hidden` names a message."""
    content = AccountContent(
        subject=subject,
        user_id=user,
        state=state,
        conversation_id=conversation,
        conversation_seq=seq,
    )
    return _body(Content(account=content))


def _body(content: Content) -> bytes:
    return Event(content=content, sender_kind=SENDER_KIND_SYSTEM).SerializeToString()
