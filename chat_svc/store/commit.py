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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Final
from uuid import UUID

from chatmesh import errors
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.postgres import (
    BytesArray,
    Int2Array,
    Int4Array,
    Int8Array,
    Lane,
    UuidArray,
)
from chatmesh.v1.types_pb2 import Content, Event


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
    ERASED = 8
    """Of stored events alone: nothing is left of the body."""
    EDITED = 16
    """Of stored events alone: whose text it is depends on who reads (chat.edited_body_1)."""


class CommitStatus(IntEnum):
    """What became of one message."""

    ACCEPTED = 0
    REPEATED = 1
    """This key had been accepted before; the positions are those of the first time."""
    KEY_REUSED = 2
    NOT_A_MEMBER = 3
    """No such conversation in the tenant, or the sender is not in it (or is disabled)."""
    NOT_REACHABLE = 4
    """Direct: one blocks the other, the other is disabled, or they are no contacts where only
    contacts may write to each other."""
    TARGET_UNKNOWN = 5
    """The message that is edited, deleted, answered … is not there for this sender, or erased."""
    NOT_YOURS = 6
    EDIT_WINDOW_OVER = 7
    MENTION_UNKNOWN = 8
    """A mentioned account is not a member."""
    STALE = 9
    """Only of the slow commit: what was read before has changed meanwhile."""
    TOO_MANY_REACTIONS = 10
    """This sender has reacted to this message as often as is allowed."""


_STATUS: Final = tuple(CommitStatus)

REFUSALS: Final[dict[CommitStatus, Callable[[], Fault]]] = {
    CommitStatus.KEY_REUSED: errors.KEY_REUSED,
    CommitStatus.NOT_A_MEMBER: errors.NOT_A_MEMBER,
    CommitStatus.NOT_REACHABLE: errors.NOT_REACHABLE,
    CommitStatus.TARGET_UNKNOWN: errors.TARGET_UNKNOWN,
    CommitStatus.NOT_YOURS: errors.NOT_YOURS,
    CommitStatus.EDIT_WINDOW_OVER: errors.EDIT_WINDOW_OVER,
    CommitStatus.MENTION_UNKNOWN: errors.INVALID_FIELD,
    CommitStatus.TOO_MANY_REACTIONS: lambda: errors.LIMIT_EXCEEDED(limit="max_reactions"),
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


def commit_rules(reach: str, max_reactions: int) -> tuple[tuple[str, str], ...]:
    """Settings that every connection with commits on it needs (`migrations/pre/0031-reach.sql`).

    Args:
        reach: `contacts`: only accepted contacts may write to each other; else anybody.
        max_reactions: of one account to one message.
    """
    return (("chatmesh.reach", reach), ("chatmesh.max_reactions", str(max_reactions)))


_COMMIT: Final = """
SELECT * FROM chat.commit_1(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
  %s::bigint, %s::bigint, %s::bigint, %s)
"""
_COMMIT_ONE: Final = """
SELECT * FROM chat.commit_one_1(%s::bigint, %s::integer, %s::bigint, %s::bigint, %s::smallint,
  %s::smallint, %s, %s::bigint, %s::bigint, %s::bigint, %s, %s, %s, %s,
  %s::bigint, %s::bigint, %s::bigint, %s)
"""
_HINTED: Final = 1
_PUSHABLE: Final = 2


class CommitStore:
    """Commits batches over one lane."""

    def __init__(self, lane: Lane, *, edit_window_ms: int = 86_400_000) -> None:
        """Args: lane: nothing else runs on it. edit_window_ms: 0 = edits for ever."""
        self._lane = lane
        self._edit_window_ms = edit_window_ms

    async def commit(
        self, rows: Sequence[CommitRow], *, batch_id: int, node_id: int, done: Sequence[int]
    ) -> list[CommitOutcome]:
        """Commit a batch; the answer has the order of `rows`.

        Args:
            rows: may be empty, then only `done` is handled.
            batch_id: names the outbox row (one is made if anybody needs a hint). A new one for
                each call, also when the same rows are run again.
            node_id: who resends it.
            done: batch ids whose outbox rows are settled and go.

        Raises:
            LostConnection: the outcome is unknown: run the same rows again.
            psycopg.errors.DeadlockDetected, SerializationFailure, LockNotAvailable: nothing
                happened: run the batch again.
            psycopg.DataError, psycopg.IntegrityError: nothing happened: one of the rows is poison,
                bisect.
            ValueError, struct.error, OverflowError: a row holds what no column can; nothing was
                sent.
        """
        if len(rows) == 1:
            query, arguments = _COMMIT_ONE, _scalars(rows[0])
        else:
            query, arguments = _COMMIT, _arrays(rows)
        arguments += [self._edit_window_ms, batch_id, node_id, Int8Array(sorted(done))]
        answer = await self._lane.execute(query, arguments)
        return outcomes_of([row.sender for row in rows], answer)


def _scalars(row: CommitRow) -> list[Any]:
    return [
        row.message_id,
        row.tenant_id,
        row.sender,
        row.conversation,
        row.event_kind,
        row.flags,
        UUID(bytes=row.key),
        row.content_hash,
        row.target_seq,
        row.expires_at_ms,
        row.body,
        row.trace,
        _patch_of(row),
        Int8Array(sorted(set(row.mentions))),
    ]


def _arrays(rows: Sequence[CommitRow]) -> list[Any]:
    mentions = [(n, account) for n, row in enumerate(rows, 1) for account in set(row.mentions)]
    return [
        Int8Array([row.message_id for row in rows]),
        Int4Array([row.tenant_id for row in rows]),
        Int8Array([row.sender for row in rows]),
        Int8Array([row.conversation for row in rows]),
        Int2Array([row.event_kind for row in rows]),
        Int2Array([row.flags for row in rows]),
        UuidArray([row.key for row in rows]),
        Int8Array([row.content_hash for row in rows]),
        Int8Array([row.target_seq for row in rows]),
        Int8Array([row.expires_at_ms for row in rows]),
        BytesArray([row.body for row in rows]),
        BytesArray([row.trace for row in rows]),
        BytesArray([_patch_of(row) for row in rows]),
        Int4Array([n for n, _ in mentions]),
        Int8Array([account for _, account in mentions]),
    ]


def _patch_of(row: CommitRow) -> bytes:
    """What an edit puts in place of its target's content: field 9 of Event; else empty."""
    if row.event_kind != EventKind.EDIT:
        return b""
    edit = Event.FromString(row.body).content.edit
    if edit.HasField("data"):
        return Event(content=Content(data=edit.data)).SerializeToString()
    return Event(content=Content(text=edit.text)).SerializeToString()


def outcomes_of(senders: Sequence[int], answer: Sequence[tuple[Any, ...]]) -> list[CommitOutcome]:
    """Outcomes from the function's answer: a line per new entry, or one per message without any.

    Args:
        senders: of the messages, in order.
    """
    outcomes: list[CommitOutcome | None] = [None] * len(senders)
    for n, status, message_id, conversation, seq, no, at_ms, account, timeline_seq, bits in answer:
        outcome = outcomes[n - 1]
        if outcome is None:
            outcome = outcomes[n - 1] = CommitOutcome(
                _STATUS[status], message_id, conversation, seq, no, at_ms, 0, []
            )
        if status == 0:
            outcome.recipients.append(
                Recipient(account, timeline_seq, bits & _HINTED != 0, bits & _PUSHABLE != 0)
            )
        if account == senders[n - 1]:
            outcome.sender_timeline_seq = timeline_seq
    missing = [n for n, outcome in enumerate(outcomes) if outcome is None]
    if missing:
        raise RuntimeError(f"the commit answered nothing for {len(missing)} of {len(senders)} rows")
    return [outcome for outcome in outcomes if outcome is not None]
