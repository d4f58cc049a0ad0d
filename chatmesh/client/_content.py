"""What can be said: content kinds, attachments, and the message to send. Plain values.

Rules: frozen; no protobuf and no gRPC in sight. Fields mean what their namesakes in
protos/chatmesh/v1/types.proto mean; positions are ints, times are ms since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias


class MembershipChange(IntEnum):
    """What a membership event did."""

    UNKNOWN = 0
    ADDED = 1
    REMOVED = 2
    LEFT = 3
    ROLE = 4


class MemberRole(IntEnum):
    """What a member may do."""

    UNKNOWN = 0
    MEMBER = 1
    ADMIN = 2
    OWNER = 3


class JoinPolicy(IntEnum):
    """Who may add members to a group."""

    UNCHANGED = 0
    ADMINS_ADD = 1
    MEMBERS_ADD = 2
    OPEN = 3


class HistoryPolicy(IntEnum):
    """What a new member sees of the time before."""

    UNCHANGED = 0
    SINCE_JOINED = 1
    ALL = 2


class PushPriority(IntEnum):
    """How urgently providers should wake a device."""

    DEFAULT = 0
    NORMAL = 1
    HIGH = 2


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text for people."""

    body: str


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes whose form the clients agree upon, such as ciphertext."""

    media_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Edit:
    """Replaces the body of an earlier message of the same sender."""

    target_conversation_seq: int
    body: Text | Data


@dataclass(frozen=True, slots=True)
class Delete:
    """Blanks an earlier message for everyone."""

    target_conversation_seq: int


@dataclass(frozen=True, slots=True)
class Reaction:
    """Sets or takes back one reaction."""

    target_conversation_seq: int
    reaction: str
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Pin:
    """Pins or unpins a message for all."""

    target_conversation_seq: int
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules of a group."""

    join: JoinPolicy = JoinPolicy.UNCHANGED
    history: HistoryPolicy = HistoryPolicy.UNCHANGED


@dataclass(frozen=True, slots=True)
class Membership:
    """From the server only: members came, went or changed role."""

    change: MembershipChange
    user_ids: Sequence[str]
    role: MemberRole


@dataclass(frozen=True, slots=True)
class ConversationChange:
    """From the server only: a group was made, renamed, or has new rules."""

    created: bool
    title: str | None
    policy: Policy | None


@dataclass(frozen=True, slots=True)
class AccountChange:
    """From the server only: contacts, blocks or settings of the account changed.

    Subject `hidden` names a message that this device drops.
    """

    subject: str
    user_id: str
    state: str
    conversation_id: int = 0
    conversation_seq: int = 0


@dataclass(frozen=True, slots=True)
class UnknownContent:
    """A kind that this release of the SDK does not know."""


Sendable: TypeAlias = Text | Data | Edit | Delete | Reaction | Pin
"""What a client may send."""

Content: TypeAlias = Sendable | Membership | ConversationChange | AccountChange | UnknownContent
"""What an event may say."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that lives elsewhere. `sha256`: 32 bytes."""

    uri: str
    media_type: str
    size_bytes: int
    sha256: bytes
    name: str = ""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """How a message was forwarded, for display only."""

    user_id: str
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class Message:
    """A message to send. Exactly one of `to_user` and `conversation_id` is set.

    Attributes:
        content: what is said.
        to_user: a user of the own tenant; makes the direct conversation if there is none.
        conversation_id: a conversation of which the sender is a member.
        reply_to: conversation_seq of the message that this answers; 0 = none.
        silent: never notifies.
        expires_at_ms: reads as erased after this; 0 = never.
        push_priority, push_collapse_key: wishes to push.
        encrypted: the content is ciphertext.
        metadata: at most 16 pairs for applications, carried unchanged.
        mentions: user ids, each a member.
        attachments: by reference.
        forwarded_from: set when it is a forward.
        thread_root: conversation_seq of the thread's first message; 0 = none.
        traceparent: W3C trace context of this message; empty = the server begins a trace.
        key: idempotency key, 16 bytes (UUIDv7); None = the SDK makes one. Give one only to repeat
            a message of which you kept the key.
    """

    content: Sendable
    to_user: str | None = None
    conversation_id: int | None = None
    reply_to: int = 0
    silent: bool = False
    expires_at_ms: int = 0
    push_priority: PushPriority = PushPriority.DEFAULT
    push_collapse_key: str = ""
    encrypted: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    mentions: Sequence[str] = ()
    attachments: Sequence[Attachment] = ()
    forwarded_from: Forwarded | None = None
    thread_root: int = 0
    traceparent: str = ""
    key: bytes | None = None

    def __post_init__(self) -> None:
        """Refuse what no server would take.

        Raises:
            ValueError: none or both destinations, or a key that is not 16 bytes.
        """
        if (self.to_user is None) == (self.conversation_id is None):
            raise ValueError("name exactly one of to_user and conversation_id")
        if self.key is not None and len(self.key) != 16:
            raise ValueError("an idempotency key is a UUIDv7 of 16 bytes")
