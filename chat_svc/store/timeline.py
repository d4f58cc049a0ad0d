"""Timelines: entries by position, for resume, holes and pull."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from chat_svc.store import calls
from chatmesh.runtime.postgres import Database, Int4Array, Int8Array

MAX_RANGE_ENTRIES: Final = 1_000
"""Most entries of one range in one read."""
MAX_RANGE_BYTES: Final = 1 << 20
"""Bodies of one range in one read."""


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


_READ: Final = """
SELECT h.min_seq, h.seq, r.*
FROM chat.timeline_head h
LEFT JOIN LATERAL chat.entries_1(%(account)s, %(after)s, h.seq, %(entries)s::integer,
  %(bytes)s::bigint) r ON true
WHERE h.account = %(account)s
ORDER BY r.timeline_seq
"""
_READ_RANGES: Final = """
SELECT x.n, h.min_seq, h.seq, r.*
FROM unnest(%s, %s, %s, %s) WITH ORDINALITY x(account, after, up_to, entries, n)
JOIN chat.timeline_head h ON h.account = x.account
LEFT JOIN LATERAL chat.entries_1(x.account, x.after, x.up_to, x.entries, %s::bigint) r ON true
ORDER BY x.n, r.timeline_seq
"""
_MATCHES: Final = "SELECT chat.cursor_matches(%s::bigint, %s::bigint, %s::bigint)"
_HEAD: Final = """
SELECT h.seq, coalesce(e.id, 0), h.account_version FROM chat.timeline_head h
LEFT JOIN chat.timeline t ON t.account = %(account)s AND t.timeline_seq = h.seq
LEFT JOIN chat.event e ON e.conversation = t.conversation
  AND e.conversation_seq = t.conversation_seq
WHERE h.account = %(account)s
"""
_KEY: Final = 10
"""Column of the idempotency key, a UUID or NULL."""
_NO_KEY: Final = b""


class TimelineStore:
    """Reads of timeline and event."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read_entries(
        self, account: int, after_seq: int, max_entries: int, max_bytes: int
    ) -> TimelineRead:
        """Entries after a position: up to `max_entries`, up to `max_bytes` of bodies (but one)."""
        values = {
            "account": account,
            "after": after_seq,
            "entries": max_entries,
            "bytes": max_bytes,
        }
        read = TimelineRead([], 1, 0)
        for low, head, *columns in await calls.rows(self._database, _READ, values):
            _add(read, low, head, columns)
        return read

    async def read_ranges(
        self, ranges: Sequence[EntryRange], *, max_bytes: int = MAX_RANGE_BYTES
    ) -> list[TimelineRead]:
        """Holes of many accounts in one statement; answers in the order of `ranges`.

        Args:
            max_bytes: of bodies, for each range; one entry comes always.
        """
        reads = [TimelineRead([], 1, 0) for _ in ranges]
        if not ranges:
            return reads
        arguments = (
            Int8Array([wanted.account for wanted in ranges]),
            Int8Array([wanted.after_seq for wanted in ranges]),
            Int8Array([wanted.up_to_seq for wanted in ranges]),
            Int4Array([_count(wanted) for wanted in ranges]),
            max_bytes,
        )
        for n, low, head, *columns in await calls.rows(self._database, _READ_RANGES, arguments):
            _add(reads[n - 1], low, head, columns)
        return reads

    async def head_cursor(self, account: int) -> tuple[int, int, int]:
        """(timeline_seq, message id there or 0, account_version) of the head."""
        found = await calls.row(self._database, _HEAD, {"account": account})
        return (found[0], found[1], found[2]) if found else (0, 0, 0)

    async def cursor_matches(self, account: int, seq: int, message_id: int) -> bool:
        """Whether a cursor can be resumed from: retained, and the id is the one there."""
        found = await calls.row(self._database, _MATCHES, (account, seq, message_id))
        return bool(found and found[0])


def _count(wanted: EntryRange) -> int:
    return max(0, min(wanted.up_to_seq - wanted.after_seq, MAX_RANGE_ENTRIES))


def _add(read: TimelineRead, low: int, head: int, columns: list[Any]) -> None:
    read.min_seq, read.head_seq = low, head
    if columns[0] is not None:
        key = columns[_KEY]
        columns[_KEY] = _NO_KEY if key is None else key.bytes
        read.rows.append(EntryRow(*columns))
