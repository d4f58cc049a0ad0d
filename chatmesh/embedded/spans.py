"""The newest spans of a mesh, in one SQLite file.

Role: `SpanStore` keeps a bounded ring, written by the span receiver; `spans_of_trace` and
`trace_of_message` read it from any process, also while the mesh runs or after it stopped.
Rules: knows OpenTelemetry's fields, no gRPC. Ids are lower-case hex, as on the W3C header. Times
are Unix nanoseconds.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MESSAGE_ID = "chatmesh.message_id"
"""The attribute by which a span says which message it belongs to."""
DEFAULT_CAPACITY = 200_000
PRUNE_SHARE = 10
"""The oldest capacity/PRUNE_SHARE spans go at once, so that pruning is rare."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS span (
    number INTEGER PRIMARY KEY,
    trace_id TEXT NOT NULL,
    span_id TEXT NOT NULL,
    parent_id TEXT NOT NULL,
    name TEXT NOT NULL,
    service TEXT NOT NULL,
    pid INTEGER NOT NULL,
    start_ns INTEGER NOT NULL,
    end_ns INTEGER NOT NULL,
    attributes TEXT NOT NULL,
    links TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS span_by_trace ON span (trace_id);
CREATE TABLE IF NOT EXISTS message (number INTEGER NOT NULL, message_id TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS message_by_id ON message (message_id);
CREATE TABLE IF NOT EXISTS link (number INTEGER NOT NULL, trace_id TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS link_by_trace ON link (trace_id);
"""
_COLUMNS = "trace_id, span_id, parent_id, name, service, pid, start_ns, end_ns, attributes, links"


@dataclass(frozen=True, slots=True)
class Span:
    """One finished span. `parent_id` is "" at a root; `links` are (trace id, span id)."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    service: str
    pid: int
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    links: Sequence[tuple[str, str]] = ()


class SpanStore:
    """The writer's side. One at a time; not for two threads."""

    def __init__(self, path: Path, capacity: int = DEFAULT_CAPACITY) -> None:
        self._capacity = capacity
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=OFF")  # a lost span is no loss
        self._connection.executescript(_SCHEMA)
        (newest, self._oldest) = self._connection.execute(
            "SELECT coalesce(max(number), 0), coalesce(min(number), 1) FROM span"
        ).fetchone()
        self._next = newest + 1

    def add(self, spans: Iterable[Span]) -> None:
        """Stores spans in one transaction; the oldest go when there are too many."""
        rows: list[tuple[Any, ...]] = []
        messages: list[tuple[int, str]] = []
        links: list[tuple[int, str]] = []
        for number, span in enumerate(spans, start=self._next):
            rows.append((number, *_to_row(span)))
            messages.extend((number, message_id) for message_id in _message_ids(span))
            links.extend({(number, trace_id) for trace_id, _ in span.links})
        with self._transaction():
            self._connection.executemany(
                f"INSERT INTO span (number, {_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608
                rows,
            )
            self._connection.executemany("INSERT INTO message VALUES (?, ?)", messages)
            self._connection.executemany("INSERT INTO link VALUES (?, ?)", links)
            self._next += len(rows)
            if self._next - self._oldest > self._capacity:
                self._prune()

    def close(self) -> None:
        """Ends the writing; readers may go on."""
        self._connection.close()

    def _prune(self) -> None:
        self._oldest = self._next - self._capacity + self._capacity // PRUNE_SHARE
        for table in ("span", "message", "link"):
            self._connection.execute(
                f"DELETE FROM {table} WHERE number < ?",  # noqa: S608 - names from the line above
                (self._oldest,),
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


def spans_of_trace(path: Path, trace_id: str) -> list[Span]:
    """The spans of a trace, and those of other traces that link to it, by start time."""
    return _read(
        path,
        f"SELECT {_COLUMNS} FROM span WHERE trace_id = :trace OR number IN "  # noqa: S608
        "(SELECT number FROM link WHERE trace_id = :trace) ORDER BY start_ns, end_ns DESC",
        {"trace": trace_id},
    )


def trace_of_message(path: Path, message_id: int | str) -> str | None:
    """The trace id of a message; None when it was not sampled, is unknown or has left the ring."""
    found = _query(
        path,
        "SELECT span.trace_id FROM message JOIN span USING (number) WHERE message_id = ? "
        "ORDER BY number LIMIT 1",
        (str(message_id),),
    )
    return str(found[0][0]) if found else None


def recent_traces(path: Path, limit: int = 20) -> list[str]:
    """Trace ids of the newest spans, newest first."""
    found = _query(
        path,
        "SELECT trace_id FROM span GROUP BY trace_id ORDER BY max(number) DESC LIMIT ?",
        (limit,),
    )
    return [str(row[0]) for row in found]


def _to_row(span: Span) -> tuple[Any, ...]:
    return (
        span.trace_id,
        span.span_id,
        span.parent_id,
        span.name,
        span.service,
        span.pid,
        span.start_ns,
        span.end_ns,
        json.dumps(span.attributes, separators=(",", ":")),
        json.dumps(list(span.links), separators=(",", ":")),
    )


def _message_ids(span: Span) -> list[str]:
    """A span of one message has one id; a span of a batch may have a list."""
    value = span.attributes.get(MESSAGE_ID)
    if value is None:
        return []
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


def _read(path: Path, query: str, parameters: Mapping[str, Any]) -> list[Span]:
    return [
        Span(
            *(*row[:8], json.loads(row[8]), tuple((t, s) for t, s in json.loads(row[9]))),
        )
        for row in _query(path, query, parameters)
    ]


def _query(path: Path, query: str, parameters: Any) -> list[tuple[Any, ...]]:
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as c:
        return c.execute(query, parameters).fetchall()
