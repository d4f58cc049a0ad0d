"""A whole file, line by line, against itself: what it says is complete, ordered and contiguous.

Role: nothing of a file is written before all of it was found good. `Checker.take` is given each
line in turn; `Checker.finish` after the last. Export uses the same checker to see how far an
unfinished file is. Rules: memory is bounded; what lines refer to lies in a temporary SQLite file.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final, Self

from pydantic import ValidationError

from chatmesh.cli.transfer import events
from chatmesh.cli.transfer.lines import (
    ANY_LINE,
    MAX_LINE_BYTES,
    Block,
    Contact,
    Conversation,
    End,
    Header,
    Member,
    Message,
    User,
)

ORDER: Final = ("export", "user", "contact", "block", "conversation", "member", "message", "end")
DIRECT, GROUP, SELF = 1, 2, 3

_TABLES: Final = """
CREATE TABLE user (name TEXT PRIMARY KEY, self TEXT UNIQUE, has_self INTEGER) WITHOUT ROWID;
CREATE TABLE conversation (id INTEGER PRIMARY KEY, kind INTEGER, first INTEGER, last INTEGER,
  last_no INTEGER, active INTEGER, seen INTEGER, no INTEGER);
CREATE TABLE pair (low TEXT, high TEXT, PRIMARY KEY (low, high)) WITHOUT ROWID;
"""


class BadFile(Exception):
    """A file that is no whole export. Its text says which line and why."""

    def __init__(self, line_no: int, why: str) -> None:
        super().__init__(f"line {line_no}: {why}")
        self.line_no = line_no


class Checker:
    """Takes the lines of one file. A context manager: its temporary file goes with it."""

    def __init__(self) -> None:
        # an empty name: a file of SQLite's own, gone when it is closed
        self._known = sqlite3.connect("", isolation_level=None)
        self._known.executescript(_TABLES)
        self._known.execute("BEGIN")
        self.reset()

    def reset(self) -> None:
        """Forgets all lines."""
        for table in ("user", "conversation", "pair"):
            self._known.execute(f"DELETE FROM {table}")  # noqa: S608 - of this list
        self.line_no = 0
        self.header: Header | None = None
        self.counts = dict.fromkeys(ORDER, 0)
        self.ended = False
        self._stage = 0
        self._last_key: Any = None
        self._at: dict[str, int] = {}
        """The conversation whose messages are coming."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._known.close()

    @property
    def stage(self) -> str:
        """The type of the newest line."""
        return ORDER[self._stage]

    @property
    def messages_expected(self) -> int:
        """Messages that the conversations so far have."""
        row = self._known.execute("SELECT coalesce(sum(last - first + 1), 0) FROM conversation")
        return int(row.fetchone()[0])

    @property
    def position(self) -> tuple[int, int]:
        """Conversation and position of the newest message; (0, 0) before the first."""
        return (self._at["id"], self._at["seq"]) if self._at else (0, 0)

    def last_seq_of(self, conversation: int) -> int:
        """The position up to which a conversation is told; 0: it is not in the file."""
        found = self._row("SELECT last FROM conversation WHERE id = ?", conversation)
        return int(found[0]) if found else 0

    def take(self, raw: bytes) -> Any:
        """The next line, with its end; what it says. Raises BadFile."""
        self.line_no += 1
        if len(raw) > MAX_LINE_BYTES:
            raise self._bad(f"longer than {MAX_LINE_BYTES:,} bytes")
        if not raw.endswith(b"\n"):
            raise self._bad("cut off: the file ends within it")
        try:
            line = ANY_LINE.validate_json(raw)
        except ValidationError as error:
            raise self._bad(_told(error)) from None
        self._in_order(line)
        _CHECKS[line.type](self, line)
        self.counts[line.type] += 1
        return line

    def finish(self) -> None:
        """After the last line. Raises BadFile when it is not the end."""
        if not self.ended:
            raise BadFile(self.line_no + 1, "missing: the file has no end line, it is half a file")

    def _bad(self, why: str) -> BadFile:
        return BadFile(self.line_no, why)

    def _row(self, query: str, *values: object) -> Any:
        return self._known.execute(query, values).fetchone()

    def _in_order(self, line: Any) -> None:
        if self.ended:
            raise self._bad("comes after the end")
        stage = ORDER.index(line.type)
        if (self.header is None) != (stage == 0):
            raise self._bad("is no header" if self.header is None else "is a second header")
        if stage < self._stage:
            raise self._bad(f"a {line.type} after a {self.stage}: the order of lines is fixed")
        key = _key_of(line)
        if stage == self._stage and self._last_key is not None and key <= self._last_key:
            raise self._bad(f"this {line.type} comes twice or out of order")
        self._stage, self._last_key = stage, key

    def _need_user(self, name: str) -> None:
        if not self._row("SELECT 1 FROM user WHERE name = ?", name):
            raise self._bad(f"there is no user {name!r} above")

    def _header(self, line: Header) -> None:
        self.header = line

    def _user(self, line: User) -> None:
        try:
            self._known.execute(
                "INSERT INTO user VALUES (?, ?, 0)", (line.user_id, line.self_conversation_id)
            )
        except sqlite3.IntegrityError:
            raise self._bad("another user has the same self conversation") from None

    def _relation(self, line: Contact | Block) -> None:
        self._need_user(line.owner)
        self._need_user(line.user_id)

    def _conversation(self, line: Conversation) -> None:
        wanted = {DIRECT: 2, GROUP: 0, SELF: 1}[line.kind]
        if len(line.users) != wanted:
            raise self._bad(f"users must hold {wanted} names")
        for name in filter(None, line.users):
            self._need_user(name)
        if line.kind == SELF:
            self._self(line)
        elif self._row("SELECT 1 FROM user WHERE self = ?", line.conversation_id):
            raise self._bad("a user has this as their self conversation")
        if line.kind == DIRECT:
            self._pair(*line.users)
        if line.first_conversation_seq > line.last_conversation_seq + 1:
            raise self._bad("first_conversation_seq lies above last_conversation_seq + 1")
        if line.last_message_no > line.last_conversation_seq:
            raise self._bad("last_message_no lies above last_conversation_seq")
        seen = line.first_conversation_seq - 1
        self._known.execute(
            "INSERT INTO conversation VALUES (?, ?, ?, ?, ?, ?, ?, -1)",
            (
                int(line.conversation_id), line.kind, line.first_conversation_seq,
                line.last_conversation_seq, line.last_message_no, line.active_at_ms, seen,
            ),
        )  # fmt: skip

    def _self(self, line: Conversation) -> None:
        made = self._known.execute(
            "UPDATE user SET has_self = 1 WHERE name = ? AND self = ?",
            (line.users[0], line.conversation_id),
        )
        if made.rowcount != 1:
            raise self._bad("no user above has this as their self conversation")

    def _pair(self, low: str, high: str) -> None:
        if low > high or (low == high and low):
            raise self._bad("users must be two, in order")
        if low:  # of an erased user nobody knows which it was
            try:
                self._known.execute("INSERT INTO pair VALUES (?, ?)", (low, high))
            except sqlite3.IntegrityError:
                raise self._bad("these two have a direct conversation above") from None

    def _member(self, line: Member) -> None:
        self._need_user(line.user_id)
        found = self._row(
            "SELECT last, last_no FROM conversation WHERE id = ?", int(line.conversation_id)
        )
        if not found:
            raise self._bad(f"there is no conversation {line.conversation_id} above")
        last, last_no = found
        if line.read_message_no > last_no:
            raise self._bad("read_message_no lies above the conversation's last_message_no")
        if max(line.read_conversation_seq, line.delivered_conversation_seq) > last:
            raise self._bad("a mark lies above the conversation's last_conversation_seq")
        starts = [start for start, _ in line.intervals]
        if len(set(starts)) < len(starts) or len(set(line.hidden)) < len(line.hidden):
            raise self._bad("an interval or a hidden position comes twice")

    def _message(self, line: Message) -> None:
        conversation = int(line.conversation_id)
        if self._at.get("id") != conversation:
            self._close()
            found = self._row(
                "SELECT first, last, last_no, active FROM conversation WHERE id = ?", conversation
            )
            if not found:
                raise self._bad(f"there is no conversation {line.conversation_id} above")
            first, last, last_no, active = found
            self._at = {
                "id": conversation, "seq": first - 1, "last": last, "last_no": last_no,
                "no": 0 if first == 1 else -1, "at_ms": 0, "active": active,
            }  # fmt: skip
        self._contiguous(line)
        if line.sender:
            self._need_user(line.sender)
        self._said(line)

    def _contiguous(self, line: Message) -> None:
        at = self._at
        if line.conversation_seq != at["seq"] + 1 or line.conversation_seq > at["last"]:
            raise self._bad(f"conversation_seq must be {at['seq'] + 1}: numbers are contiguous")
        if line.message_no:
            if at["no"] >= 0 and line.message_no != at["no"] + 1:
                raise self._bad(f"message_no must be {at['no'] + 1}: numbers are contiguous")
            at["no"] = line.message_no
        if line.created_at_ms < at["at_ms"]:
            raise self._bad("created_at_ms falls within the conversation")
        if line.message_no > at["last_no"] or line.created_at_ms > at["active"]:
            raise self._bad("lies above what its conversation says")
        at["seq"], at["at_ms"] = line.conversation_seq, line.created_at_ms
        self._known.execute(
            "UPDATE conversation SET seen = ?, no = ? WHERE id = ?",
            (line.conversation_seq, at["no"], at["id"]),
        )

    def _said(self, line: Message) -> None:
        if line.kind not in events.NUMBER_OF:
            raise self._bad(f"no kind of message is called {line.kind!r}")
        if (line.message_no > 0) != (line.kind in events.VISIBLE_KINDS):
            raise self._bad(f"a {line.kind} with the message_no {line.message_no}")
        try:
            events.as_body(line.event)
        except events.BadEvent as error:
            raise self._bad(str(error)) from None
        said = list(line.event.get("content", {}))
        if said != ([] if line.erased else [line.kind]) or (line.erased and line.event):
            raise self._bad(f"the event does not say a {line.kind}")

    def _close(self) -> None:
        """The conversation whose messages came must be complete."""
        at = self._at
        if at and at["seq"] < at["last"]:
            raise self._bad(f"conversation {at['id']} lacks messages after {at['seq']}")
        if at and at["no"] not in (-1, at["last_no"]):
            raise self._bad(f"conversation {at['id']} lacks message_no {at['no'] + 1}")

    def _end(self, line: End) -> None:
        self._close()
        for name, count in line.model_dump(exclude={"type"}).items():
            if self.counts[name[:-1]] != count:
                raise self._bad(f"counts {count} {name}, the file has {self.counts[name[:-1]]}")
        lacking = self._row("SELECT id FROM conversation WHERE seen < last LIMIT 1")
        if lacking:
            raise self._bad(f"conversation {lacking[0]} lacks its messages")
        lacking = self._row("SELECT name FROM user WHERE NOT has_self LIMIT 1")
        if lacking:
            raise self._bad(f"user {lacking[0]!r} lacks the self conversation")
        self.ended = True


_CHECKS: Final[dict[str, Any]] = {
    "export": Checker._header,
    "user": Checker._user,
    "contact": Checker._relation,
    "block": Checker._relation,
    "conversation": Checker._conversation,
    "member": Checker._member,
    "message": Checker._message,
    "end": Checker._end,
}


def _key_of(line: Any) -> Any:
    """By what lines of one type are sorted: bytes of names, as PostgreSQL's collation C."""
    match line:
        case User():
            return line.user_id.encode()
        case Contact() | Block():
            return (line.owner.encode(), line.user_id.encode())
        case Conversation():
            return int(line.conversation_id)
        case Member():
            return (int(line.conversation_id), line.user_id.encode())
        case Message():
            return (int(line.conversation_id), line.conversation_seq)
        case _:
            return 0


def _told(error: ValidationError) -> str:
    """The first fault of a line, without its content."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"][1:] or first["loc"])
    return f"{place + ': ' if place else ''}{first['msg']}"
