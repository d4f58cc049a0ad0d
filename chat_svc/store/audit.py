"""The audit log: appended by one function in PostgreSQL, read by page, proved by its hashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chat_svc.core.audit import AuditRow, Note
from chat_svc.store import calls
from chatmesh.runtime.postgres import Database, Int8Array, TextArray


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which records are wanted; 0 and empty = all."""

    action: int = 0
    user: str = ""
    after_no: int = 0


_APPEND: Final = "SELECT chat.audit_append_1(%s, %s::smallint[], %s, %s, %s, %s)"
_REFUSED: Final = "SELECT chat.audit_refused_1(%s, %s, %s)"
_TRIM: Final = "SELECT chat.audit_trim_1(%s, %s)"
_TENANT: Final = """
WITH made AS (
  INSERT INTO chat.tenant (name) VALUES (%(name)s) ON CONFLICT (name) DO NOTHING RETURNING id
) SELECT id FROM made UNION ALL SELECT id FROM chat.tenant WHERE name = %(name)s LIMIT 1
"""
_FIND_TENANT: Final = "SELECT id FROM chat.tenant WHERE name = %s"
# Each arm is a range of one index; a record that names the user twice comes once.
_LIST: Final = """
SELECT record_no, at_ms, action, actor, user_id, conversation, detail, hash FROM chat.audit
WHERE tenant = %(tenant)s AND record_no > %(after)s
  AND (%(action)s = 0 OR action = %(action)s)
  AND (%(user)s = '' OR actor = %(user)s OR user_id = %(user)s)
ORDER BY record_no LIMIT %(limit)s
"""


class AuditStore:
    """Reads and appends."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, tenant_id: int, notes: Sequence[Note]) -> None:
        """Append records to a tenant's log, in order, in one transaction."""
        await calls.rows(
            self._database,
            _APPEND,
            (
                tenant_id,
                Int8Array([int(note.action) for note in notes]),
                TextArray([note.actor for note in notes]),
                TextArray([note.user for note in notes]),
                Int8Array([note.conversation for note in notes]),
                TextArray([note.detail for note in notes]),
            ),
        )

    async def append_refused(self, tenant: str, counts: Sequence[tuple[str, int]]) -> set[str]:
        """Append (reason, refused tokens); the reasons that were recorded: others had a record
        within the last minute."""
        reasons, numbers = zip(*counts, strict=True)
        rows = await calls.rows(
            self._database, _REFUSED, (tenant, TextArray(reasons), Int8Array(numbers))
        )
        return {reason for (reason,) in rows}

    async def tenant_id(self, tenant: str) -> int:
        """A tenant's number, made at first sight."""
        found = await calls.row(self._database, _FIND_TENANT, (tenant,))
        found = found or await calls.row(self._database, _TENANT, {"name": tenant})
        found = found or await calls.row(self._database, _FIND_TENANT, (tenant,))
        if found is None:
            raise LookupError("a tenant that was made is not there")
        number: int = found[0]
        return number

    async def list(self, tenant_id: int, wanted: AuditFilter, limit: int) -> list[AuditRow]:
        """Records, oldest first."""
        values = {
            "tenant": tenant_id,
            "after": wanted.after_no,
            "action": wanted.action,
            "user": wanted.user,
            "limit": limit,
        }
        return [AuditRow(*row) for row in await calls.rows(self._database, _LIST, values)]

    async def trim(self, keep_days: int, rows: int) -> int:
        """Cut records older than that off the logs' beginnings; how many."""
        found = await calls.row(self._database, _TRIM, (keep_days, rows))
        return found[0] if found else 0
