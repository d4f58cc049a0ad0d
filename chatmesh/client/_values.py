"""What comes back: entries, events, receipts, presence, conversations, devices. Plain values.

Rules: as in `_content`. A number in place of an enum's unknown value becomes its UNKNOWN member,
so that a newer server does not break an older client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from chatmesh.client._content import (
    Attachment,
    Content,
    Forwarded,
    MemberRole,
    Policy,
    Text,
)
from chatmesh.client._progress import Cursor


class DeviceKind(IntEnum):
    """Kind of an installation."""

    UNKNOWN = 0
    PHONE = 1
    TABLET = 2
    DESKTOP = 3
    WEB = 4
    BOT = 5


class ConversationKind(IntEnum):
    """Kind of a conversation."""

    UNKNOWN = 0
    DIRECT = 1
    GROUP = 2
    SELF = 3


class SenderKind(IntEnum):
    """Kind of the account that wrote an event."""

    UNKNOWN = 0
    PERSON = 1
    BOT = 2
    SYSTEM = 3


class PresenceState(IntEnum):
    """What is shown of a user. UNKNOWN: the server cannot tell yet, show what was shown before."""

    UNKNOWN = 0
    OFFLINE = 1
    AWAY = 2
    ONLINE = 3
    DO_NOT_DISTURB = 4
    INVISIBLE = 5


class MuteLevel(IntEnum):
    """How loud a conversation or account is."""

    UNCHANGED = 0
    NONE = 1
    MENTIONS_ONLY = 2
    ALL = 3


@dataclass(frozen=True, slots=True)
class Sent:
    """Where a message went: it is durable. Times in ms since the Unix epoch.

    `repeated`: the key had been accepted before; these are the positions of the first time.
    """

    message_id: int
    conversation_id: int
    conversation_seq: int
    message_no: int
    timeline_seq: int
    created_at_ms: int
    repeated: bool = False
    key: bytes = b""


@dataclass(frozen=True, slots=True)
class Event:
    """Anything with a place in a conversation. `content` None: erased."""

    conversation_id: int
    conversation_seq: int
    message_no: int
    message_id: int
    sender: str
    created_at_ms: int
    peer: str
    """Direct: the other user. Self: oneself. Group: empty."""
    conversation_kind: ConversationKind
    content: Content | None
    reply_to: int = 0
    silent: bool = False
    expires_at_ms: int = 0
    encrypted: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    mentions: Sequence[str] = ()
    attachments: Sequence[Attachment] = ()
    forwarded_from: Forwarded | None = None
    thread_root: int = 0
    sender_kind: SenderKind = SenderKind.UNKNOWN
    sent_by: str = ""
    traceparent: str = ""
    key: bytes = b""
    """Idempotency key; only on the sender's own entries."""

    @property
    def text(self) -> str | None:
        """The text of a text message; None for everything else."""
        return self.content.body if isinstance(self.content, Text) else None


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the account's timeline. Ack it after storing it."""

    timeline_seq: int
    event: Event
    _acker: Callable[[Entry], None] = field(repr=False, compare=False)
    _epoch: int = field(default=0, repr=False, compare=False)

    @property
    def text(self) -> str | None:
        """The event's text, if it is a text message."""
        return self.event.text

    @property
    def cursor(self) -> Cursor:
        """The place of this entry, for an application that keeps its own cursor."""
        return Cursor(self.timeline_seq, self.event.message_id)

    def ack(self) -> None:
        """This entry and all before it are stored by the application. Never blocks."""
        self._acker(self)


@dataclass(frozen=True, slots=True)
class Receipt:
    """How far a member has got in a conversation; 0 = not said.

    `member_count` above 0: that many members are at least that far, `user_id` is empty.
    """

    conversation_id: int
    user_id: str
    delivered_conversation_seq: int
    read_message_no: int
    member_count: int = 0


@dataclass(frozen=True, slots=True)
class Presence:
    """What may be seen of a user."""

    user_id: str
    state: PresenceState
    last_seen_ms: int = 0
    status_text: str = ""
    online_kinds: Sequence[DeviceKind] = ()

    @property
    def is_online(self) -> bool:
        """Whether a session of theirs lives, as far as may be seen."""
        return self.state in (
            PresenceState.ONLINE, PresenceState.AWAY, PresenceState.DO_NOT_DISTURB
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Typing:
    """Somebody types, or stopped. True ends by itself after `expires_in_ms`."""

    conversation_id: int
    user_id: str
    active: bool
    expires_in_ms: int = 0


@dataclass(frozen=True, slots=True)
class Unread:
    """Totals over all conversations that count."""

    messages: int = 0
    mentions: int = 0


@dataclass(frozen=True, slots=True)
class MemberState:
    """The caller's own state in one conversation."""

    role: MemberRole
    read_message_no: int
    unread: int
    mentions: int
    mute: MuteLevel
    mute_until_ms: int
    pinned: bool
    archived: bool
    marked_unread: bool
    draft: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as its caller sees it."""

    conversation_id: int
    kind: ConversationKind
    title: str
    peer: str
    last_conversation_seq: int
    last_message_no: int
    last_message: Event | None
    active_at_ms: int
    state: MemberState
    member_count: int
    policy: Policy | None


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody in a conversation; positions are 0 where their privacy hides them."""

    user_id: str
    role: MemberRole
    joined_at_ms: int
    read_message_no: int
    delivered_conversation_seq: int


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Messages by conversation_seq, rising. `more`: there is more in the direction asked for."""

    messages: Sequence[Event]
    more: bool


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list of conversations. `next_page_token` empty: the last."""

    conversations: Sequence[Conversation]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A message found. `highlight`: a piece of it, hits between U+E000 and U+E001."""

    message: Event
    highlight: str


@dataclass(frozen=True, slots=True)
class SearchPage:
    """One page of hits, newest first. `next_page_token` empty: the last."""

    hits: Sequence[SearchHit]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All conversations as of one position; replaces what the application has up to there."""

    as_of: Cursor
    conversations: Sequence[Conversation]
    account_version: int


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What the server said when the session opened."""

    user_id: str
    device_id: str
    chat_node: str
    session_no: int
    head_timeline_seq: int
    start_timeline_seq: int
    account_version: int
