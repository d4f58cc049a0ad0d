"""Values of users and the audit log, for back ends. Rules as in `_content`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from chatmesh.client._values import SenderKind


@dataclass(frozen=True, slots=True)
class User:
    """A user of the tenant. `disabled`: cannot sign in, is not reachable."""

    user_id: str
    kind: SenderKind
    disabled: bool
    created_at_ms: int


class AuditAction(IntEnum):
    """What a record of the audit log is about. UNKNOWN: in questions, all."""

    UNKNOWN = 0
    LOGIN_FAILED = 1
    MEMBERSHIP = 2
    BLOCK = 3
    DEVICE = 4
    ACTED_FOR = 5
    USER = 6
    USER_DELETED = 7
    AUDIT_READ = 8


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A record of the tenant's log. Empty names: nobody who is known, or erased; conversation 0:
    none. `hash`: see docs/users.md."""

    record_no: int
    at_ms: int
    action: AuditAction
    actor: str
    user_id: str
    conversation_id: int
    detail: str
    hash: bytes
