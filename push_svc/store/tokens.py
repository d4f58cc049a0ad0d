"""Bindings of tokens to devices. A token belongs to one device at a time."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection

from chatmesh.runtime.postgres import Database


@dataclass(frozen=True, slots=True)
class Token:
    """A binding as it is registered."""

    device_id: str
    provider: int
    token: str
    app: str
    locale: str
    privacy: int


@dataclass(frozen=True, slots=True)
class Bound:
    """What binding did."""

    push_devices: int
    """Devices of the account with a token now."""
    moved_from: int
    """Account that lost the token; 0 = none."""
    moved_from_devices: int


_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
_MOVE: Final = """
DELETE FROM push.push_token
WHERE token_key = %s AND NOT (account_id = %s AND device_id = %s)
RETURNING account_id, device_id
"""
_JOBS_GONE: Final = "DELETE FROM push.push_job WHERE account_id = %s AND device_id = ANY (%s)"
# what this device was told stays told, also through a new token of it
_PUT: Final = """
INSERT INTO push.push_token AS t
  (account_id, device_id, provider, token, token_key, app, locale, privacy)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (account_id, device_id) DO UPDATE SET
  provider = excluded.provider, token = excluded.token, token_key = excluded.token_key,
  app = excluded.app, locale = excluded.locale, privacy = excluded.privacy, bound_at = now()
"""
_COUNT: Final = "SELECT count(*) FROM push.push_token WHERE account_id = %s"
_DELETE: Final = """
DELETE FROM push.push_token
WHERE account_id = %s AND (%s::text[] = '{}' OR device_id = ANY (%s::text[]))
RETURNING device_id
"""
_DELETE_ONE: Final = """
DELETE FROM push.push_token WHERE account_id = %s AND device_id = %s AND token_key = %s
"""
_LIST: Final = """
SELECT device_id, provider, '', app, locale, privacy FROM push.push_token
WHERE account_id = %s ORDER BY bound_at DESC, device_id
"""


_FORGET: Final = (
    "DELETE FROM push.push_token WHERE account_id = %s",
    "DELETE FROM push.push_job WHERE account_id = %s",
    "DELETE FROM push.push_log WHERE account_id = %s",
    "DELETE FROM push.dead_letter WHERE account_id = %s",
)


_HIDE_SHOWN: Final = """
UPDATE push.push_log SET title = '', body = ''
WHERE position(%(user)s IN title) > 0 OR position(%(user)s IN body) > 0
"""
_HIDE_LETTERS: Final = """
UPDATE push.dead_letter SET payload = '' WHERE position(%s::bytea IN payload) > 0
"""


def token_key(provider: int, token: str) -> bytes:
    """What makes a token one token, short enough for an index."""
    return hashlib.sha256(f"{provider}\x1f{token}".encode()).digest()


class TokenStore:
    """Tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, account_id: int, token: Token) -> Bound:
        """Bind a token; another device that had it loses it, and its jobs.

        Raises LostConnection, psycopg.Error.
        """
        key = token_key(token.provider, token.token)
        async with self._database.connection() as connection, connection.transaction():
            # two devices binding one token at once, one after the other
            await connection.execute(_LOCK, (key.hex(),))
            moved = await _rows(connection, _MOVE, (key, account_id, token.device_id))
            for other_account, other_device in moved:
                await connection.execute(_JOBS_GONE, (other_account, [other_device]))
            await connection.execute(
                _PUT,
                (
                    account_id, token.device_id, token.provider, token.token, key, token.app,
                    token.locale, token.privacy,
                ),
            )  # fmt: skip
            others = [account for account, _ in moved if account != account_id]
            moved_from = others[0] if others else 0
            return Bound(
                await _count(connection, account_id),
                moved_from,
                await _count(connection, moved_from) if moved_from else 0,
            )

    async def delete(self, account_id: int, device_ids: Sequence[str]) -> int:
        """Unbind devices (all when none is named) and end their jobs; how many are left."""
        wanted = list(device_ids)
        async with self._database.connection() as connection, connection.transaction():
            rows = await _rows(connection, _DELETE, (account_id, wanted, wanted))
            gone = wanted or [device for (device,) in rows]
            await connection.execute(_JOBS_GONE, (account_id, gone))
            return await _count(connection, account_id)

    async def forget(self, account_id: int, user_id: str) -> None:
        """Delete all that is known of an account that was erased, and what others were shown of
        its messages. Safe to repeat."""
        async with self._database.connection() as connection, connection.transaction():
            for statement in _FORGET:
                await connection.execute(statement, (account_id,))
            if user_id:
                await connection.execute(_HIDE_SHOWN, {"user": user_id})
                await connection.execute(_HIDE_LETTERS, (user_id.encode(),))

    async def delete_one(self, account_id: int, device_id: str, key: bytes) -> bool:
        """Unbind a device if it still has this very token; whether it had."""
        async with self._database.connection() as connection, connection.transaction():
            cursor = await connection.execute(_DELETE_ONE, (account_id, device_id, key))
            if not cursor.rowcount:
                return False
            await connection.execute(_JOBS_GONE, (account_id, [device_id]))
            return True

    async def count(self, account_id: int) -> int:
        """Devices of an account with a token."""
        async with self._database.connection() as connection:
            return await _count(connection, account_id)

    async def list(self, account_id: int) -> list[Token]:
        """Bindings of an account, newest first, without the tokens themselves."""
        async with self._database.connection() as connection:
            return [Token(*row) for row in await _rows(connection, _LIST, (account_id,))]


async def _rows(
    connection: AsyncConnection[Any], query: str, parameters: Sequence[Any]
) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(query, parameters)
    rows: list[tuple[Any, ...]] = await cursor.fetchall()
    return rows


async def _count(connection: AsyncConnection[Any], account_id: int) -> int:
    return int((await _rows(connection, _COUNT, (account_id,)))[0][0])
