"""What the audit log holds, and the proof that nobody changed it.

Pure. The hash of a record covers the hash before it and everything of the record but its names, so
that an erased user's name can be taken out and the chain still holds. The chain shows a record that
was changed, removed or put in; it cannot show that the newest ones were cut off: whoever wants to
know that keeps the newest hash elsewhere.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Final

HASH_BEFORE_FIRST: Final = bytes(32)
_FIXED: Final = struct.Struct(">qqiq")


class AuditAction(IntEnum):
    """Numbers of `chatmesh.v1.AuditAction`."""

    LOGIN_FAILED = 1
    MEMBERSHIP = 2
    BLOCK = 3
    DEVICE = 4
    ACTED_FOR = 5
    USER = 6
    USER_DELETED = 7
    AUDIT_READ = 8


@dataclass(frozen=True, slots=True)
class Note:
    """A record that is to be appended. No name and no content may stand in `detail`."""

    action: AuditAction
    actor: str
    user: str = ""
    conversation: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """A record as it stands."""

    record_no: int
    at_ms: int
    action: int
    actor: str
    user: str
    conversation: int
    detail: str
    hash: bytes


def hash_of(before: bytes, row: AuditRow) -> bytes:
    """What a record's hash must be after the hash before it."""
    fixed = _FIXED.pack(row.record_no, row.at_ms, row.action, row.conversation)
    return sha256(before + fixed + row.detail.encode()).digest()


def first_broken(rows: Sequence[AuditRow], before: bytes | None = None) -> int:
    """Number of the first record that does not follow from the one before it; 0 = all do.

    Args:
        rows: all records of a tenant from some number on, in order, without a filter.
        before: hash of the record before the first; None: the first is taken as it is, unless it is
            record 1.
    """
    number = None
    for row in rows:
        if row.record_no == 1:
            before = HASH_BEFORE_FIRST
        gap = number is not None and row.record_no != number + 1
        if gap or (before is not None and hash_of(before, row) != row.hash):
            return row.record_no
        number, before = row.record_no, row.hash
    return 0
