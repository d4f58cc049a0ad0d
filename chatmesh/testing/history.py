"""What clients did and saw, as JSON lines: one file a process, one line an operation.

Who writes what (all positions as in docs/positions.md):

    send      a sender, before the message may leave: key, where to, digest of the content
    sent      a sender, when the answer came: outcome accepted (with positions), refused (with
              reason) or unknown (connection lost, process restarted)
    opened    a device, when its session opened: timeline_seq it starts after
    received  a device, after it stored an entry: all its positions
    acked     a device, when it acked up to timeline_seq
    snapshot  a device, when a snapshot replaced what it had up to timeline_seq
    members   whoever knows: users who were members of a conversation from conversation_seq
              (0 = from the beginning) up to until_seq (0 = still)
    token     a device that can be pushed from now on; timeline_seq is what it need not be told of
    pushed    whoever sees the provider: timeline_seq is the newest position a notification told a
              device of, content `silent` when nothing was shown, key the notification's id
    away      a device that stayed away to the end: timeline_seq is the newest position that may
              notify its user
    came      a device that may be shown online from now on: written before it opens its session
    went      that device, after it hung up for good
    shown     a device, when it was shown somebody's presence: sender is who, content online or
              offline
    unseen    a device that is shown these users offline, whatever is true
    final     a device that was given time to converge: timeline_seq is the head of its timeline

Rules: a line is one write to a file opened for appending, so that kill -9 loses no line that was
written and tears none. Times are for people; no check orders by them,
but for pushes and presence, which are held to seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, get_args

Kind = Literal[
    "send",
    "sent",
    "opened",
    "received",
    "acked",
    "snapshot",
    "members",
    "token",
    "pushed",
    "away",
    "came",
    "went",
    "shown",
    "unseen",
    "final",
]
Outcome = Literal["", "accepted", "refused", "unknown"]

KINDS: Final = frozenset(get_args(Kind))


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One line. Fields that a kind does not use keep their defaults and are not written."""

    kind: Kind
    at_ns: int = 0
    process: str = ""
    user: str = ""
    device: str = ""
    key: str = ""
    """Idempotency key as hex."""
    outcome: Outcome = ""
    reason: str = ""
    to_user: str = ""
    conversation_id: int = 0
    conversation_seq: int = 0
    until_seq: int = 0
    message_no: int = 0
    message_id: int = 0
    target_seq: int = 0
    """conversation_seq of the message that a received edit or delete changes."""
    timeline_seq: int = 0
    sender: str = ""
    content: str = ""
    """text; what is no text of its own (edits, membership, …) starts with `server.`; `erased`."""
    digest: str = ""
    users: tuple[str, ...] = ()
    where: str = field(default="", compare=False)
    """FILE:LINE, filled by the reader."""

    def to_json(self) -> str:
        """The line, without defaults and without `where`."""
        values = {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.name != "where" and getattr(self, one.name) != one.default
        }
        return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def digest_of(content: bytes | str) -> str:
    """A short fingerprint of what was said; recorded instead of the content."""
    raw = content.encode() if isinstance(content, str) else content
    return hashlib.blake2s(raw, digest_size=8).hexdigest()


class Recorder:
    """Appends the operations of one process."""

    def __init__(self, path: Path, process: str) -> None:
        self._process = process
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o644)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def record(self, kind: Kind, **values: Any) -> Operation:
        """Write one operation; returns after it is in the kernel's hands."""
        operation = Operation(kind=kind, at_ns=time.time_ns(), process=self._process, **values)
        os.write(self._descriptor, operation.to_json().encode() + b"\n")
        return operation

    def close(self) -> None:
        """No more operations."""
        os.close(self._descriptor)


class HistoryBroken(Exception):
    """A file is no history; the text names file and line."""


def read_history(paths: Iterable[Path]) -> list[Operation]:
    """All operations of some files, each file in its own order.

    Raises:
        HistoryBroken: a line is no operation. A torn last line of a file is left out: its process
            was killed while writing.
    """
    operations: list[Operation] = []
    for path in paths:
        try:
            operations.extend(_operations(path))
        except OSError as error:
            raise HistoryBroken(f"{path}: {error.strerror}") from error
    return operations


_NAMES: Final = frozenset(one.name for one in fields(Operation)) - {"where"}


def _operations(path: Path) -> Iterator[Operation]:
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            values = json.loads(line)
            if not isinstance(values, dict) or values.get("kind") not in KINDS:
                raise ValueError("not an operation")
            if unknown := values.keys() - _NAMES:
                raise ValueError(f"unknown fields {', '.join(sorted(unknown))}")
            values["users"] = tuple(values.get("users", ()))
            yield Operation(**values, where=where)
        except (ValueError, TypeError) as error:
            if number == len(lines):
                return
            raise HistoryBroken(f"{where}: {error}") from error
