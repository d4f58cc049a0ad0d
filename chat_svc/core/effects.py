"""What a session asks of its node: the effects of the sans-I/O machine.

Each is a value; the node does it and tells the machine what came of it by the method named in the
effect's text. Pure data.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from chat_svc.core.content import Checked
from chat_svc.core.window import AckResult


@dataclass(slots=True)
class Open:
    """``hello`` came and is well formed. Answer with ``opened`` or ``close``."""

    device_id: str
    """Empty: make one."""
    device_kind: int
    device_name: str
    cursor: tuple[int, int] | None
    """(timeline_seq, message id)."""
    start: int
    slim_echo: bool
    client_version: str = ""
    """What the application calls itself; for operators."""


@dataclass(slots=True)
class Offer:
    """Messages to commit, in order. Each is answered once with ``result``."""

    messages: Sequence[Checked]
    stop_on_error: bool


@dataclass(slots=True)
class Read:
    """Read entries after a position. Answer with ``read_done`` or ``read_failed``."""

    after_seq: int
    max_entries: int
    max_bytes: int


@dataclass(slots=True)
class WaitForHole:
    """An entry came before its predecessor. Call ``hole_due`` in a few milliseconds."""


@dataclass(slots=True)
class Acked:
    """The device has stored up to a position: write its cursor, tell the senders."""

    ack: AckResult


@dataclass(slots=True)
class PushOwed:
    """No ack came in time: hand the device over to push up to a position."""

    timeline_seq: int


@dataclass(slots=True)
class PushVoid:
    """The device acked after a hand-over: void the job up to a position."""

    timeline_seq: int


@dataclass(slots=True)
class AccountStateWanted:
    """A ping came and the counts may have changed. Answer with ``account_state``."""

    nonce: int


@dataclass(slots=True)
class MarkRead:
    """The user has read a conversation up to a visible message."""

    conversation_id: int
    message_no: int


@dataclass(slots=True)
class Typing:
    """The user types, or stopped."""

    conversation_id: int
    active: bool


@dataclass(slots=True)
class PresenceWish:
    """The user chose a lasting presence; ``text`` None leaves the status text."""

    state: int
    text: str | None
    until_ms: int


@dataclass(slots=True)
class ActivityChanged:
    """The application went to the foreground or the background."""

    active: bool


@dataclass(slots=True)
class WatchChanged:
    """What the session watches beside the contacts, as a whole."""

    users: frozenset[str]
    open_conversation: int
    """Its members are watched; 0 = none."""


@dataclass(slots=True)
class VerifyToken:
    """A fresh token came. Answer with ``token_renewed`` or ``close``."""

    token: str


Effect = (
    Open
    | Offer
    | Read
    | WaitForHole
    | Acked
    | PushOwed
    | PushVoid
    | AccountStateWanted
    | MarkRead
    | Typing
    | PresenceWish
    | ActivityChanged
    | WatchChanged
    | VerifyToken
)
