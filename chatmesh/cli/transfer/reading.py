"""Out of PostgreSQL into a file: one snapshot, server-side cursors, bounded memory.

Rules: an unfinished file that had come to its messages is gone on with; then positions end where
the file's own conversation lines say. Before that it is written anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

import psycopg

from chatmesh.cli import CommandError
from chatmesh.cli.transfer import events
from chatmesh.cli.transfer.checking import BadFile, Checker
from chatmesh.cli.transfer.lines import End, Header

ROWS_AT_ONCE: Final = 1_000
_ERASED: Final = 8
_NOTIFIES: Final = 2
_EDITED: Final = 16
_LINES: Final = ("users", "contacts", "blocks", "conversations", "members")
_TENANT: Final = "SELECT id FROM chat.tenant WHERE name = %s"
_MESSAGES: Final = "SELECT * FROM chat.export_messages_1(%s::integer, %s::bigint, %s::bigint)"

Progress = Callable[[int, int], None]
"""(messages so far, messages there will be)"""


def export(
    store: psycopg.Connection[Any], tenant: str, file: BinaryIO, *, resume: bool, tell: Progress
) -> End:
    """Write all of a tenant; the counts. `file` is open for reading and writing when resumed.

    Raises CommandError: there is no such tenant, or what is in the file is of another.
    """
    with Checker() as checker:
        goes_on = resume and _catch_up(file, tenant, checker, tell)
        if checker.ended:
            return _end_of(checker)
        with store.transaction():
            store.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            found = store.execute(_TENANT, (tenant,)).fetchone()
            if found is None:
                raise CommandError(f"there is no tenant {tenant!r}")
            out = _Out(file, checker)
            if not goes_on:
                out.write(Header(tenant=tenant).model_dump_json())
                for what in _LINES:
                    for line in _lines(store, what, found[0]):
                        out.write(line)
            _write_messages(store, found[0], out, tell)
        end = _end_of(checker)
        out.write(end.model_dump_json())
        file.flush()
        return end


class _Out:
    """Writes lines that the checker has found good: what comes out can be imported."""

    def __init__(self, file: BinaryIO, checker: Checker) -> None:
        self._file = file
        self.checker = checker

    def write(self, line: str) -> None:
        raw = line.encode() + b"\n"
        try:
            self.checker.take(raw)
        except BadFile as error:
            raise CommandError(f"{error}: the database says what no import takes") from None
        self._file.write(raw)


def _end_of(checker: Checker) -> End:
    counts = checker.counts
    return End.model_validate({name: counts[name[:-1]] for name in (*_LINES, "messages")})


def _lines(store: psycopg.Connection[Any], what: str, tenant: int) -> Iterator[str]:
    query = f"SELECT line::text FROM chat.export_{what}_1(%s::integer)"  # noqa: S608 - of _LINES
    with store.cursor(name=f"export_{what}") as cursor:
        cursor.itersize = ROWS_AT_ONCE
        cursor.execute(query.encode(), (tenant,))
        for (line,) in cursor:
            # PostgreSQL's own spacing and escapes: one form for equal content
            yield json.dumps(json.loads(line), ensure_ascii=False, separators=(",", ":"))


def _write_messages(store: psycopg.Connection[Any], tenant: int, out: _Out, tell: Progress) -> None:
    checker = out.checker
    expected = checker.messages_expected
    # positions come out of the index in order: no sort of everything before the first row
    store.execute("SET LOCAL enable_sort = off")
    store.execute("SET LOCAL enable_hashjoin = off")
    conversation, last = 0, 0
    with store.cursor(name="export_messages", binary=True) as cursor:
        cursor.itersize = ROWS_AT_ONCE
        cursor.execute(_MESSAGES, (tenant, *checker.position))
        for row in cursor:
            if row[0] != conversation:
                conversation, last = row[0], checker.last_seq_of(row[0])
            if row[1] > last:
                continue  # came after the file was begun
            out.write(_message(row))
            if checker.counts["message"] % ROWS_AT_ONCE == 0:
                tell(checker.counts["message"], expected)
    tell(checker.counts["message"], expected)


def _message(row: Any) -> str:
    conversation, seq, no, number, sender, at_ms, expires, target, kind, flags, key, body = row
    values = {
        "type": "message",
        "conversation_id": str(conversation),
        "conversation_seq": seq,
        "message_no": no,
        "message_id": str(number),
        "sender": sender,
        "created_at_ms": at_ms,
        "kind": events.KIND_OF.get(kind, str(kind)),
        "target_conversation_seq": target,
        "expires_at_ms": expires,
        "notifies": flags & _NOTIFIES > 0,
        "erased": flags & _ERASED > 0,
        "edited": flags & _EDITED > 0,
        "idempotency_key": key.hex,
        "event": events.as_json(bytes(body)),
    }
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def _catch_up(file: BinaryIO, tenant: str, checker: Checker, tell: Progress) -> bool:
    """Reads what an earlier run wrote; whether it can be gone on with. Leaves the file there."""
    good = 0
    file.seek(0)
    try:
        for raw in file:
            if not raw.endswith(b"\n"):
                break  # the run ended within this line
            checker.take(raw)
            good += len(raw)
    except BadFile as error:
        raise CommandError(f"cannot go on with this file: {error}") from None
    if checker.header is not None and checker.header.tenant != tenant:
        raise CommandError(f"cannot go on: the file is of the tenant {checker.header.tenant!r}")
    if checker.stage not in ("message", "end"):
        good = 0
        checker.reset()
    file.seek(good)
    file.truncate()
    if good:
        tell(checker.counts["message"], checker.messages_expected)
    return good > 0
