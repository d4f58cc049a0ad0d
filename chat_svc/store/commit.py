"""The commit of messages: one call of one PL/pgSQL function per batch, in autocommit.

The function (`migrations/pre/*_commit_1.sql`) locks, then checks, then numbers and writes; this
module packs its columns and unpacks its answer. What it promises:

- positions of a conversation and of each timeline are contiguous and follow the order of `rows`;
- a refused message consumes no number and does not touch its neighbours;
- a key of the same sender that was accepted before is answered with its first positions;
- a message is stored with its timeline entries, its outbox row and its key, or not at all.

Must not know: how users are named, what a body says (but for the target of an edit).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Final

from chatmesh import errors
from chatmesh.errors import Refusal

if TYPE_CHECKING:
    from chatmesh.runtime.postgres import Lane


class EventKind(IntEnum):
    """What an event is: the field number of its kind in `chatmesh.v1.Content`."""

    TEXT = 1
    DATA = 2
    EDIT = 3
    DELETE = 4
    REACTION = 5
    PIN = 6
    MEMBERSHIP = 7
    CONVERSATION = 8
    ACCOUNT = 9


class EventFlag(IntFlag):
    """Bits of `CommitRow.flags`; the first two are stored with the event."""

    VISIBLE = 1
    """Counts: gets a message_no. Text and data are."""
    NOTIFIES = 2
    """May notify its recipients (visible and not silent)."""
    NO_SESSION = 4
    """Sent without a session: all of the sender's own devices need a hint, not all but one."""


class CommitStatus(IntEnum):
    """What became of one message."""

    ACCEPTED = 0
    REPEATED = 1
    """This key had been accepted before; the positions are those of the first time."""
    KEY_REUSED = 2
    NOT_A_MEMBER = 3
    """No such conversation in the tenant, or the sender is not in it (or is disabled)."""
    NOT_REACHABLE = 4
    """Direct: one blocks the other, or the other is disabled."""
    TARGET_UNKNOWN = 5
    """The message that is edited, deleted, answered … is not there for this sender, or erased."""
    NOT_YOURS = 6
    EDIT_WINDOW_OVER = 7
    MENTION_UNKNOWN = 8
    """A mentioned account is not a member."""


REFUSALS: Final[dict[CommitStatus, Refusal]] = {
    CommitStatus.KEY_REUSED: errors.KEY_REUSED,
    CommitStatus.NOT_A_MEMBER: errors.NOT_A_MEMBER,
    CommitStatus.NOT_REACHABLE: errors.NOT_REACHABLE,
    CommitStatus.TARGET_UNKNOWN: errors.TARGET_UNKNOWN,
    CommitStatus.NOT_YOURS: errors.NOT_YOURS,
    CommitStatus.EDIT_WINDOW_OVER: errors.EDIT_WINDOW_OVER,
    CommitStatus.MENTION_UNKNOWN: errors.INVALID_FIELD,
}
"""What each refusal is called towards clients."""


@dataclass(slots=True)
class CommitRow:
    """One message to commit."""

    message_id: int
    """Snowflake, used by no other row."""
    tenant_id: int
    """Tenant of the sender: the conversation must be of it."""
    sender: int
    """Account."""
    conversation: int
    """Made before; a direct conversation by `ConversationStore.direct_conversations`."""
    event_kind: int
    """`EventKind`: 1 to 6."""
    flags: int
    """`EventFlag` bits."""
    key: bytes
    """UUIDv7, 16 bytes, its age already checked. No two rows of a call share (sender, key)."""
    content_hash: int
    """int64; its top 8 bits are the hash's version. Unequal versions count as equal content."""
    target_seq: int
    """conversation_seq that is edited, deleted, reacted to, pinned or answered; 0 = none."""
    expires_at_ms: int
    """0 = never."""
    body: bytes
    """Fields 9 and above of `chatmesh.v1.Event`, without 22."""
    trace: bytes
    """25 bytes; empty = not sampled. Stored beside the body for hand-overs after a crash."""
    mentions: Sequence[int] = ()
    """Accounts mentioned: each must be a member."""


@dataclass(slots=True)
class Recipient:
    """One new timeline entry."""

    account: int
    timeline_seq: int
    hinted: bool
    """Named in the outbox row: its hint must be sent and settled."""
    pushable: bool
    """The account has a push token and this entry may notify it."""


@dataclass(slots=True)
class CommitOutcome:
    """What became of one row. Positions are 0 and recipients empty when refused."""

    status: CommitStatus
    message_id: int
    """REPEATED: that of the first time."""
    conversation: int
    conversation_seq: int
    message_no: int
    created_at_ms: int
    sender_timeline_seq: int
    recipients: list[Recipient]
    """ACCEPTED: every current member, the sender included, by account. Else empty."""


class CommitStore:
    """Commits batches over one lane."""

    def __init__(self, lane: Lane, *, edit_window_ms: int = 86_400_000) -> None:
        """Args: lane: its role is `chatmesh_chat`. edit_window_ms: 0 = edits for ever."""
        self._lane = lane
        self._edit_window_ms = edit_window_ms

    async def commit(
        self, rows: Sequence[CommitRow], *, batch_id: int, node_id: int, done: Sequence[int]
    ) -> list[CommitOutcome]:
        """Commit a batch; the answer has the order of `rows`.

        Args:
            rows: may be empty, then only `done` is handled.
            batch_id: names the outbox row (one is made if anybody needs a hint).
            node_id: who resends it.
            done: batch ids whose outbox rows are settled and go.

        Raises:
            LostConnection: the outcome is unknown: run the same rows again.
            psycopg.errors.DeadlockDetected, SerializationFailure, LockNotAvailable: nothing
                happened: run the batch again.
            psycopg.DataError, IntegrityError: nothing happened: one of the rows is poison, bisect.
        """
        raise NotImplementedError
