"""Timelines: entries by position, for resume, holes and pull."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatmesh.runtime.postgres import Database


@dataclass(slots=True)
class EntryRow:
    """One entry, with all that an Event's position fields need."""

    timeline_seq: int
    conversation_id: int
    conversation_seq: int
    message_no: int
    message_id: int
    sender_user: str
    created_at_ms: int
    peer_user: str
    """Direct: the member who is not the sender; self: the owner; group: empty."""
    conversation_kind: int
    body: bytes
    """Empty: erased, expired, or past retention."""
    key: bytes
    """Idempotency key, 16 bytes, in the sender's own timeline; else empty."""
    notifies: bool
    """May notify the owner: visible, not silent, somebody else's."""


@dataclass(slots=True)
class TimelineRead:
    """Contiguous entries, and where the timeline stands as of the same statement."""

    rows: list[EntryRow]
    min_seq: int
    """Oldest retained position. Above what was asked for: the reader's cursor is too old."""
    head_seq: int


@dataclass(frozen=True, slots=True)
class EntryRange:
    """Entries of one account that are wanted: after_seq + 1 to up_to_seq."""

    account: int
    after_seq: int
    up_to_seq: int


class TimelineStore:
    """Reads of timeline and event."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read_entries(
        self, account: int, after_seq: int, max_entries: int, max_bytes: int
    ) -> TimelineRead:
        """Entries after a position: up to `max_entries`, up to `max_bytes` of bodies (but one)."""
        raise NotImplementedError

    async def read_ranges(self, ranges: Sequence[EntryRange]) -> list[TimelineRead]:
        """Holes of many accounts in one statement; answers in the order of `ranges`."""
        raise NotImplementedError

    async def cursor_matches(self, account: int, seq: int, message_id: int) -> bool:
        """Whether a cursor can be resumed from: retained, and the id is the one there."""
        raise NotImplementedError
