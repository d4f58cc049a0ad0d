"""A checked file into PostgreSQL, in steps that may be run again.

Each step is one call of one function in autocommit, which writes its rows and moves the import on:
a run that died goes on at the line that comes next. Stages: lines, timelines, opening.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final
from uuid import UUID

import psycopg

from chatmesh.cli import CommandError
from chatmesh.cli.transfer import events
from chatmesh.cli.transfer.checking import Checker
from chatmesh.cli.transfer.lines import ANY_LINE, End, Header, Message

LINES_AT_ONCE: Final = 500
BYTES_AT_ONCE: Final = 4 << 20
ENTRIES_AT_ONCE: Final = 5_000
ACCOUNTS_AT_ONCE: Final = 1_000
KINDS: Final = ("user", "contact", "block", "conversation", "member", "message")
_DONE: Final = 4
_LINES, _TIMELINES, _OPENING = 1, 2, 3
_VISIBLE, _NOTIFIES, _ERASED, _EDITED = 1, 2, 8, 16
_BEGIN: Final = "SELECT * FROM chat.import_begin_1(%s, %s)"
_ROWS: Final = (
    "SELECT chat.import_{}s_1(%s::integer, %s::bigint, %s::bigint, %s::bigint, %s::jsonb)"
)
_MESSAGES: Final = """
SELECT chat.import_messages_1(%s::integer, %s::bigint, %s::bigint, %s::bigint, %s::bigint[],
  %s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[],
  %s::smallint[], %s::smallint[], %s::uuid[], %s::bytea[], %s::integer[], %s::text[])
"""
_LINES_DONE: Final = (
    "SELECT chat.import_lines_done_1(%s::integer, %s::bigint, %s::bigint, %s::bigint)"
)
_MOVE: Final = "SELECT chat.import_move_1(%s::integer, %s::bigint, %s::bigint, %s::bigint)"
_NEXT_TIMELINES: Final = "SELECT * FROM chat.import_timelines_1(%s::integer, %s::integer)"
_OPEN: Final = "SELECT * FROM chat.import_open_1(%s::integer, %s::integer)"
_NEW_IDS: Final = """
SELECT source_id::text, conversation::text FROM chat.import_conversation
WHERE tenant = %s AND source_id = ANY (%s::bigint[])
"""

Tell = Callable[[str, int, int], None]
"""(what is being done, how far, of how much; 0 = not known)"""


@dataclass(frozen=True, slots=True)
class Checked:
    """A file that was found good."""

    tenant: str
    digest: bytes
    size_bytes: int
    counts: dict[str, int]


@dataclass(slots=True)
class _Batch:
    """Lines of one type that go in together."""

    kind: str
    lines: list[Any]
    raw: list[bytes]
    size_bytes: int


def check(file: BinaryIO, tell: Tell) -> Checked:
    """The whole file against itself. Raises BadFile with the number of the first bad line."""
    digest = hashlib.sha256()
    size = 0
    file.seek(0)
    with Checker() as checker:
        for raw in file:
            checker.take(raw)
            digest.update(raw)
            size += len(raw)
            if checker.line_no % 1_000 == 0:
                tell("checking", size, 0)
        checker.finish()
        tenant = checker.header.tenant if checker.header else ""
        return Checked(tenant, digest.digest(), size, checker.counts)


def write(
    store: psycopg.Connection[Any], tenant: str, file: BinaryIO, checked: Checked, tell: Tell
) -> bool:
    """Bring all of it in, from where an earlier run ended; False: it was in already.

    Raises CommandError: the tenant holds something else, or users signed in meanwhile.
    """
    begun = store.execute(_BEGIN, (tenant, checked.digest)).fetchone()
    if begun is None:
        raise CommandError(f"the tenant {tenant!r} is not empty: import into another by --tenant")
    number, digest, stage, line_no, offset = begun[:5]
    if bytes(digest) != checked.digest:
        raise CommandError(
            f"another file was imported into the tenant {tenant!r}: import into another by --tenant"
        )
    if stage == _DONE:
        return False
    if stage == _LINES:
        _write_lines(store, number, file, (line_no, offset), checked, tell)
    if stage <= _TIMELINES:
        _write_timelines(store, number, tell)
    _open(store, number, checked, tell)
    return True


def _write_lines(
    store: psycopg.Connection[Any],
    tenant: int,
    file: BinaryIO,
    at: tuple[int, int],
    checked: Checked,
    tell: Tell,
) -> None:
    line_no, offset = at
    file.seek(offset)
    for batch in _batches(file):
        place = (tenant, line_no, len(batch.lines), offset + batch.size_bytes)
        try:
            _write_batch(store, batch, place)
        except psycopg.errors.UniqueViolation as error:
            raise CommandError(
                f"lines {line_no + 1} to {line_no + len(batch.lines)}: "
                f"{error.diag.message_detail or 'something of it is there already'}. Did a user of "
                f"this tenant sign in meanwhile? Nothing of these lines was written"
            ) from None
        line_no += len(batch.lines)
        offset += batch.size_bytes
        tell("lines", offset, checked.size_bytes)


def _write_batch(
    store: psycopg.Connection[Any], batch: _Batch, place: tuple[int, int, int, int]
) -> None:
    if batch.kind == Header.model_fields["type"].default:
        store.execute(_MOVE, place)
    elif batch.kind == End.model_fields["type"].default:
        store.execute(_LINES_DONE, place)
    elif batch.kind == "message":
        store.execute(_MESSAGES, (*place, *_columns(store, place[0], batch.lines)))
    else:
        rows = b"[" + b",".join(batch.raw) + b"]"
        store.execute(_ROWS.format(batch.kind).encode(), (*place, rows.decode()))


def _batches(file: BinaryIO) -> Iterator[_Batch]:
    batch: _Batch | None = None
    for raw in file:
        line = ANY_LINE.validate_json(raw)
        if batch is not None and (
            batch.kind != line.type
            or len(batch.lines) == LINES_AT_ONCE
            or batch.size_bytes + len(raw) > BYTES_AT_ONCE
        ):
            yield batch
            batch = None
        if batch is None:
            batch = _Batch(line.type, [], [], 0)
        batch.lines.append(line)
        batch.raw.append(raw.rstrip(b"\n"))
        batch.size_bytes += len(raw)
    if batch is not None:
        yield batch


def _columns(store: psycopg.Connection[Any], tenant: int, lines: list[Message]) -> list[Any]:
    named = [int(one) for line in lines if (one := events.named_conversation(line.event))]
    new_ids = dict(store.execute(_NEW_IDS, (tenant, named)).fetchall()) if named else {}
    mentions = [
        (n, user)
        for n, line in enumerate(lines, 1)
        for user in dict.fromkeys(line.event.get("mention_user_ids", ()))
    ]
    return [
        [int(line.conversation_id) for line in lines],
        [line.conversation_seq for line in lines],
        [line.message_no for line in lines],
        [int(line.message_id) for line in lines],
        [line.sender for line in lines],
        [line.created_at_ms for line in lines],
        [line.expires_at_ms for line in lines],
        [line.target_conversation_seq for line in lines],
        [events.NUMBER_OF[line.kind] for line in lines],
        [_flags(line) for line in lines],
        [UUID(hex=line.idempotency_key) for line in lines],
        [events.as_body(line.event, new_ids) for line in lines],
        [n for n, _ in mentions],
        [user for _, user in mentions],
    ]


def _flags(line: Message) -> int:
    told = (
        (_VISIBLE, line.message_no > 0),
        (_NOTIFIES, line.notifies),
        (_ERASED, line.erased),
        (_EDITED, line.edited),
    )
    return sum(flag for flag, holds in told if holds)


def _write_timelines(store: psycopg.Connection[Any], tenant: int, tell: Tell) -> None:
    done = 0
    is_over = False
    while not is_over:
        row = store.execute(_NEXT_TIMELINES, (tenant, ENTRIES_AT_ONCE)).fetchone()
        entries, _, is_over = row or (0, 0, True)
        done += entries
        tell("timelines", done, 0)


def _open(store: psycopg.Connection[Any], tenant: int, checked: Checked, tell: Tell) -> None:
    done = 0
    is_over = False
    while not is_over:
        row = store.execute(_OPEN, (tenant, ACCOUNTS_AT_ONCE)).fetchone()
        accounts, is_over = row or (0, True)
        done += accounts
        tell("opening", done, checked.counts["user"])


def counts_json(counts: dict[str, int]) -> str:
    """What came in, for `--json`."""
    return json.dumps({f"{kind}s": counts[kind] for kind in KINDS})
