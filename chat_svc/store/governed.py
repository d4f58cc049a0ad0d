"""What the slow commits share: who asks, what came of it, earlier keys, fresh keys."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from chat_svc.store import calls
from chat_svc.store.commit import REFUSALS, CommitOutcome, CommitStatus, outcomes_of
from chatmesh import errors
from chatmesh.runtime.postgres import Database

MAX_TRIES: Final = 20
"""Each try that fails is another change that succeeded; so many in a row are no accident."""

_EARLIER: Final = """
SELECT content_hash, message_id, conversation, conversation_seq, message_no, created_at_ms,
  timeline_seq
FROM chat.idempotency_key WHERE key = %s AND sender = %s
"""


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks for a change, and under which key."""

    tenant_id: int
    actor: int
    actor_user: str
    key: bytes
    """UUIDv7, 16 bytes, its age already checked."""
    content_hash: int
    """As in CommitRow."""
    node_id: int
    """Owner of the outbox row."""


@dataclass(frozen=True, slots=True)
class GovernedEvent:
    """An event of a slow commit, ready to be handed over. Its flags are 0."""

    outcome: CommitOutcome
    sender: int
    sender_user: str
    peer_user: str
    """Self conversation: the owner; group: empty."""
    conversation_kind: int
    key: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Governed:
    """What a slow commit did."""

    batch_id: int
    events: list[GovernedEvent]
    """Empty: nothing changed, or the key had been answered before."""
    first: CommitOutcome | None
    """Outcome of the caller's key; None: nothing changed."""


NOTHING: Final = Governed(0, [], None)


async def earlier(database: Database, request: Request) -> Governed | None:
    """The answer to a key that was used before, which comes before any rule.

    Raises:
        Fault: KEY_REUSED.
    """
    found = await calls.row(database, _EARLIER, (UUID(bytes=request.key), request.actor))
    if found is None:
        return None
    content_hash, message_id, conversation, seq, no, at_ms, timeline_seq = found
    if content_hash >> 56 == request.content_hash >> 56 and content_hash != request.content_hash:
        raise errors.KEY_REUSED()
    outcome = CommitOutcome(
        CommitStatus.REPEATED, message_id, conversation, seq, no, at_ms, timeline_seq, []
    )
    return Governed(0, [], outcome)


def outcomes(
    senders: Sequence[int], answer: Sequence[tuple[Any, ...]]
) -> list[CommitOutcome] | None:
    """Outcomes of a slow commit's events; None: the state was stale.

    An answer from an earlier key is one REPEATED outcome.

    Raises:
        Fault: KEY_REUSED, NOT_FOUND, NOT_REACHABLE.
    """
    status = CommitStatus(answer[0][1])
    if status is CommitStatus.STALE:
        return None
    if status is CommitStatus.NOT_A_MEMBER:
        raise errors.NOT_FOUND()
    if status in REFUSALS:
        raise REFUSALS[status]()
    if status is CommitStatus.REPEATED:
        return outcomes_of(senders[:1], answer)
    return outcomes_of(senders, answer)


def fresh_key() -> bytes:
    """A key of the server's own, for an event that no client asked for under a key: UUIDv7."""
    raw = bytearray((time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10))
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return bytes(raw)
