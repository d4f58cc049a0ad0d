"""Accounts, their tenants, and who knows or blocks whom."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, LiteralString

from chat_svc.store import calls
from chatmesh.runtime.postgres import Database, Int8Array, TextArray

NewIds = Callable[[int], Awaitable[list[int]]]
"""Gives that many Snowflake ids."""


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account as the mesh knows it."""

    id: int
    tenant_id: int
    kind: int
    """`chatmesh.v1.SenderKind` number."""
    disabled: bool
    not_before_ms: int = 0
    """Tokens issued before this are refused; 0 = none were revoked."""


class ContactState(IntEnum):
    """Where two accounts stand, seen from the owner: `chatmesh.v1.ContactState` numbers."""

    NONE = 0
    REQUESTED = 1
    INCOMING = 2
    ACCEPTED = 3
    BLOCKED = 4


@dataclass(frozen=True, slots=True)
class ContactRow:
    """One line of the owner's list."""

    account: int
    user_id: str
    state: ContactState
    changed_at_ms: int


@dataclass(frozen=True, slots=True)
class Privacy:
    """`chatmesh.v1.Audience` numbers, each 1 (nobody) or 2 (contacts)."""

    presence: int
    last_seen: int
    typing: int
    read_receipts: int


@dataclass(frozen=True, slots=True)
class NotificationSettings:
    """Account-wide loudness. Minutes of the local day; equal = no quiet hours."""

    mute: int
    quiet_start_minute: int
    quiet_end_minute: int
    time_zone: str


MAX_USER_ID_CHARACTERS: Final = 128

_RESOLVE: Final = """
SELECT a.external_id, a.id, a.tenant, a.kind, a.disabled_at_ms > 0, a.tokens_not_before_ms
FROM chat.tenant t JOIN chat.account a ON a.tenant = t.id AND a.external_id = ANY (%s)
WHERE t.name = %s
"""
_MAKE: Final = "SELECT chat.make_accounts_1(%s, %s, %s, %s, %s::smallint)"
_USERS: Final = "SELECT id, external_id FROM chat.account WHERE id = ANY (%s)"
_BY_ID: Final = """
SELECT a.id, a.tenant, a.kind, a.disabled_at_ms > 0, a.tokens_not_before_ms, a.external_id
FROM chat.account a WHERE a.id = ANY (%s)
"""
_CONTACTS_OF: Final = """
SELECT c.owner, c.other
FROM chat.contact c JOIN chat.contact r ON r.owner = c.other AND r.other = c.owner
WHERE c.owner = ANY (%s) AND c.state = 3 AND r.state = 3 AND NOT EXISTS (
  SELECT FROM chat.block b WHERE b.owner = c.owner AND b.blocked = c.other
    OR b.owner = c.other AND b.blocked = c.owner)
ORDER BY c.owner, c.other
"""
_LINES: Final = """
SELECT x.other, a.external_id, x.state, x.changed_at_ms
FROM (
  SELECT c.other, c.state, c.changed_at_ms FROM chat.contact c
  WHERE c.owner = %(owner)s AND NOT EXISTS (
    SELECT FROM chat.block b WHERE b.owner = c.owner AND b.blocked = c.other)
  UNION ALL
  SELECT b.blocked, 4, b.changed_at_ms FROM chat.block b WHERE b.owner = %(owner)s
) x JOIN chat.account a ON a.id = x.other
"""
_LIST: Final = (
    _LINES
    + """
WHERE a.external_id > %(after)s
  AND CASE WHEN %(state)s = 0 THEN x.state <> 4 ELSE x.state = %(state)s END
ORDER BY a.external_id LIMIT %(limit)s
"""
)
_ONE: Final = _LINES + "WHERE x.other = %(other)s"
_BLOCKED: Final = "SELECT blocked FROM chat.block WHERE owner = %s"
_PRIVACY: Final = """
SELECT id, presence_audience, last_seen_audience, typing_audience, receipts_audience
FROM chat.account WHERE id = ANY (%s)
"""
_SET_PRIVACY: Final = """
WITH raised AS (
  UPDATE chat.timeline_head SET account_version = account_version + 1 WHERE account = %(owner)s
)
UPDATE chat.account SET
  presence_audience = coalesce(nullif(%(presence)s, 0), presence_audience),
  last_seen_audience = coalesce(nullif(%(last_seen)s, 0), last_seen_audience),
  typing_audience = coalesce(nullif(%(typing)s, 0), typing_audience),
  receipts_audience = coalesce(nullif(%(receipts)s, 0), receipts_audience)
WHERE id = %(owner)s
RETURNING presence_audience, last_seen_audience, typing_audience, receipts_audience
"""
_LOUDNESS: Final = """
SELECT mute, quiet_start_minute, quiet_end_minute, time_zone FROM chat.account WHERE id = %s
"""
_SET_LOUDNESS: Final = """
WITH raised AS (
  UPDATE chat.timeline_head SET account_version = account_version + 1 WHERE account = %(owner)s
)
UPDATE chat.account SET mute = %(mute)s, quiet_start_minute = %(start)s,
  quiet_end_minute = %(end)s, time_zone = %(zone)s
WHERE id = %(owner)s
RETURNING mute, quiet_start_minute, quiet_end_minute, time_zone
"""


_ERASED_AT: Final = "SELECT chat.erased_at_1(t.id, %s) FROM chat.tenant t WHERE t.name = %s"


class AccountStore:
    """Reads and writes of account, contact, block."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def resolve_accounts(
        self, tenant: str, users: Sequence[str], make: bool, new_ids: NewIds, *, kind: int = 1
    ) -> dict[str, AccountRow]:
        """Accounts by user id; absent from the answer: unknown (and `make` is False).

        An account is made with its timeline head, its self conversation and, if need be, its
        tenant, in one transaction. `make` is for the caller's own account (a valid token is proof
        enough) and for deployments where unknown recipients are made. User ids that cannot be
        (empty, too long, with U+0000) stay unknown.
        """
        possible = sorted({user for user in users if _can_be(user)})
        found = await self._resolve(tenant, possible)
        missing = [user for user in possible if user not in found]
        if not missing or not make:
            return found
        ids = await new_ids(2 * len(missing))
        half = len(missing)
        await calls.rows(
            self._database,
            _MAKE,
            (tenant, TextArray(missing), Int8Array(ids[:half]), Int8Array(ids[half:]), kind),
        )
        return await self._resolve(tenant, possible)

    async def _resolve(self, tenant: str, users: Sequence[str]) -> dict[str, AccountRow]:
        if not users:
            return {}
        found = await calls.rows(self._database, _RESOLVE, (TextArray(users), tenant))
        return {user: AccountRow(*columns) for user, *columns in found}

    async def erased_at_ms(self, tenant: str, user: str) -> int:
        """When the last account of that name was erased; 0 = never."""
        found = await calls.row(self._database, _ERASED_AT, (user, tenant))
        return found[0] if found else 0

    async def users_of(self, accounts: Sequence[int]) -> dict[int, str]:
        """User ids by account, for entries and receipts of conversations already authorised."""
        return dict(await calls.rows(self._database, _USERS, (Int8Array(accounts),)))

    async def accounts_by_id(self, accounts: Sequence[int]) -> dict[int, tuple[AccountRow, str]]:
        """Rows and user ids by account."""
        found = await calls.rows(self._database, _BY_ID, (Int8Array(accounts),))
        return {columns[0]: (AccountRow(*columns), user) for *columns, user in found}

    async def contacts_of(self, accounts: Sequence[int]) -> dict[int, list[int]]:
        """Mutually accepted contacts per account, without blocks either way: for presence."""
        contacts: dict[int, list[int]] = {account: [] for account in accounts}
        for owner, other in await calls.rows(self._database, _CONTACTS_OF, (Int8Array(accounts),)):
            contacts[owner].append(other)
        return contacts

    async def list_contacts(
        self, owner: int, *, state: ContactState, after_user: str, limit: int
    ) -> list[ContactRow]:
        """A page by user id. `state` NONE: all but blocked."""
        values = {"owner": owner, "state": int(state), "after": after_user, "limit": limit}
        return [_contact(line) for line in await calls.rows(self._database, _LIST, values)]

    async def contact(self, owner: int, other: int) -> ContactRow | None:
        """One line."""
        line = await calls.row(self._database, _ONE, {"owner": owner, "other": other})
        return _contact(line) if line else None

    async def blocked_by(self, owner: int) -> set[int]:
        """Whom this account blocks."""
        return {blocked for (blocked,) in await calls.rows(self._database, _BLOCKED, (owner,))}

    async def privacy(self, accounts: Sequence[int]) -> dict[int, Privacy]:
        """Privacy per account."""
        found = await calls.rows(self._database, _PRIVACY, (Int8Array(accounts),))
        return {account: Privacy(*columns) for account, *columns in found}

    async def set_privacy(self, owner: int, privacy: Privacy) -> Privacy:
        """Write; fields that are 0 stay. Raises account_version. Answers what holds now."""
        values = {
            "owner": owner,
            "presence": privacy.presence,
            "last_seen": privacy.last_seen,
            "typing": privacy.typing,
            "receipts": privacy.read_receipts,
        }
        return Privacy(*await _written(self._database, _SET_PRIVACY, values))

    async def notification_settings(self, owner: int) -> NotificationSettings:
        """Account-wide loudness."""
        found = await calls.row(self._database, _LOUDNESS, (owner,))
        return NotificationSettings(*found) if found else NotificationSettings(1, 0, 0, "")

    async def set_notification_settings(
        self, owner: int, settings: NotificationSettings
    ) -> NotificationSettings:
        """Write all of it. Raises account_version."""
        values = {
            "owner": owner,
            "mute": settings.mute,
            "start": settings.quiet_start_minute,
            "end": settings.quiet_end_minute,
            "zone": settings.time_zone,
        }
        return NotificationSettings(*await _written(self._database, _SET_LOUDNESS, values))


def _can_be(user: str) -> bool:
    return 0 < len(user) <= MAX_USER_ID_CHARACTERS and "\0" not in user


def _contact(line: calls.Row) -> ContactRow:
    account, user, state, changed_at_ms = line
    return ContactRow(account, user, ContactState(state), changed_at_ms)


async def _written(database: Database, query: LiteralString, values: dict[str, Any]) -> calls.Row:
    found = await calls.row(database, query, values)
    if found is None:
        raise LookupError(f"there is no account {values['owner']}")
    return found
