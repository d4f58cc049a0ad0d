"""Users as a back end manages them: their standing, and how nodes learn that it changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chat_svc.store import calls
from chat_svc.store.accounts import AccountRow
from chatmesh.runtime.postgres import Database

OVERLAP_MS: Final = 60_000
"""A change is written within this time of the moment that it bears, so a look this far back sees
what a look before could not see yet."""
MAX_CHANGES: Final = 5_000


@dataclass(frozen=True, slots=True)
class UserRow:
    """One user. Times: ms since the Unix epoch."""

    account: int
    tenant_id: int
    user_id: str
    kind: int
    disabled: bool
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class Changed:
    """Set anew."""

    account: int
    not_before_ms: int


@dataclass(frozen=True, slots=True)
class StandingRow:
    """An account whose standing changed."""

    tenant: str
    user: str
    row: AccountRow


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since the last look."""

    standings: Sequence[StandingRow]
    erased: Sequence[tuple[str, int]]
    """(tenant, account)."""
    next_ms: int
    """Where the next look begins."""
    more: bool


_GET: Final = """
SELECT a.id, a.tenant, a.external_id, a.kind, a.disabled_at_ms > 0, a.created_at_ms
FROM chat.tenant t JOIN chat.account a ON a.tenant = t.id AND a.external_id = %s
WHERE t.name = %s
"""
_SET: Final = """
SELECT * FROM chat.set_standing_1(%s, %s, %s::boolean, %s::smallint, %s, %s, %s)
"""
_CHANGES: Final = """
SELECT t.name, a.external_id, a.id, a.tenant, a.kind, a.disabled_at_ms > 0, a.tokens_not_before_ms,
  a.standing_changed_at_ms
FROM chat.account a JOIN chat.tenant t ON t.id = a.tenant
WHERE a.standing_changed_at_ms > 0 AND a.standing_changed_at_ms >= %s
ORDER BY a.standing_changed_at_ms LIMIT %s
"""
_ERASED: Final = """
SELECT t.name, e.account FROM chat.erased_account e JOIN chat.tenant t ON t.id = e.tenant
WHERE e.erased_at_ms >= %s LIMIT %s
"""
_NOW: Final = "SELECT chat.now_ms()"
_NODES: Final = """
SELECT DISTINCT n.id, n.target FROM chat.device d
JOIN chat.chat_node n ON n.id = d.session_node AND n.lease_until_ms > chat.now_ms()
WHERE d.account = %s
"""


class UserStore:
    """Reads and writes of a tenant's users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, tenant: str, user: str) -> UserRow | None:
        """One user of the tenant; None: there is none. A user of another tenant is none, and costs
        the same two index lookups."""
        found = await calls.row(self._database, _GET, (user, tenant))
        return None if found is None else UserRow(*found)

    async def change(
        self,
        tenant: str,
        user: str,
        *,
        actor: str,
        detail: str,
        disabled: bool | None = None,
        kind: int | None = None,
        revoke: bool = False,
    ) -> Changed | None:
        """Change what is set, with its audit record when something changed; None: no such user."""
        found = await calls.row(
            self._database, _SET, (tenant, user, disabled, kind, revoke, actor, detail)
        )
        return None if found is None else Changed(*found)

    async def changes(self, since_ms: int) -> Changes:
        """Whose standing changed since then; 0 = only what a running change may still bring."""
        if not since_ms:
            found = await calls.row(self._database, _NOW)
            since_ms = (found[0] if found else 0) - OVERLAP_MS
        clock = await calls.row(self._database, _NOW)
        now_ms = clock[0] if clock else since_ms
        rows = await calls.rows(self._database, _CHANGES, (since_ms, MAX_CHANGES))
        gone = await calls.rows(self._database, _ERASED, (since_ms, MAX_CHANGES))
        standings = [StandingRow(row[0], row[1], AccountRow(*row[2:7])) for row in rows]
        more = len(rows) == MAX_CHANGES
        following = rows[-1][7] if more else now_ms - OVERLAP_MS
        return Changes(standings, [(tenant, account) for tenant, account in gone], following, more)

    async def nodes_of(self, account: int) -> list[tuple[int, str]]:
        """(id, mesh target) of the live nodes that hold sessions of an account."""
        return [(node, target) for node, target in await calls.rows(
            self._database, _NODES, (account,)
        )]  # fmt: skip
