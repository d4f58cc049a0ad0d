"""A lane: one dedicated PostgreSQL connection for one loop of the message path.

It survives nothing: when it is lost, the caller is told whether the outcome is unknown, terminates
the old backend and runs its batch again.

Rules: no statement is ever cancelled by the client: a cancelled task waits for its statement's
end, because a half-known commit is worse than a late stop. One statement at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, LiteralString, Self

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import Format

from chatmesh.runtime import metrics
from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.pgsession import (
    CONNECT_TIMEOUT_SECONDS,
    NOT_REPLICATED,
    Backend,
    BinaryCursor,
    LostConnection,
    UninterruptedConnection,
    connection_string,
    is_unreplicated,
    reason,
    set_up,
)
from chatmesh.runtime.readiness import Component
from chatmesh.runtime.store_room import StoreRoom

TERMINATE_WAIT_MS: Final = 5_000
"""How long the server waits for a terminated backend to be gone."""

_TERMINATE: Final[LiteralString] = """
select pg_terminate_backend(pid, %s) from pg_stat_activity
where pid = %s and backend_start = %s::timestamptz
"""


class Lane:
    """One dedicated connection; one statement at a time, which the caller sees to."""

    def __init__(
        self,
        url: str,
        *,
        role_name: str,
        name: str,
        readiness: Component | None = None,
        durable: bool = True,
        session_settings: Sequence[tuple[str, str]] = (),
        room: StoreRoom | None = None,
    ) -> None:
        """`name` is for logs and metrics. `session_settings` (lock_timeout …) hold per session."""
        self._dsn = connection_string(url, f"{role_name or 'chatmesh'} {name}")
        self._role = role_name
        self.name = name
        self._durable = durable
        self._room = room
        self._readiness = readiness
        self._settings = tuple(session_settings)
        self._connection: UninterruptedConnection | None = None
        self._backend: Backend | None = None
        self._previous: Backend | None = None
        self._calls = metrics.counter(metrics.POSTGRES_CALLS).labels(name)
        self._lost = metrics.counter(metrics.POSTGRES_LOST).labels(name)

    @property
    def is_connected(self) -> bool:
        """Whether the next statement needs no new connection."""
        return self._connection is not None and not self._connection.closed

    async def connect(self) -> None:
        """Connect now instead of at the next statement. Raises LostConnection, StoreRefused."""
        if self.is_connected:
            return
        await self.close()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                connection = await UninterruptedConnection.connect(
                    self._dsn, autocommit=True, cursor_factory=BinaryCursor
                )
        except (psycopg.Error, TimeoutError) as error:
            self._down(f"PostgreSQL: {reason(error)}")
            raise LostConnection(reason(error), unknown_outcome=False) from None
        try:
            backend = await set_up(connection, self._role, self._durable)
            for setting, value in self._settings:
                await connection.execute("select set_config(%s, %s, false)", (setting, value))
        except psycopg.Error as error:
            await connection.close()
            self._down(f"PostgreSQL: {reason(error)}")
            raise LostConnection(reason(error), unknown_outcome=False) from None
        except BaseException as error:
            await connection.close()
            if isinstance(error, StoreRefused):
                self._down(str(error))
            raise
        self._connection, self._backend = connection, backend
        if self._readiness is not None:
            self._readiness.up()

    async def execute(
        self, query: LiteralString, params: Sequence[Any] = (), binary: bool = True
    ) -> list[tuple[Any, ...]]:
        """Run one statement in its own transaction; its rows ([] for none).

        Raises LostConnection when the connection ends (connecting included) or the commit was not
        waited for (a synchronous standby that hangs, and somebody cancels), StoreRefused, and
        psycopg.Error for what the server answers. A cancelled caller waits for the statement's end.
        """
        await self.connect()
        connection = self._connection
        if connection is None:
            raise LostConnection("not connected", unknown_outcome=False)
        self._calls.inc()
        try:
            cursor = connection.cursor()
            if not binary:
                cursor.format = Format.TEXT
            await cursor.execute(query, params)
            rows = await cursor.fetchall() if cursor.description else []
            if is_unreplicated(connection):
                await connection.close()
                raise LostConnection(NOT_REPLICATED, unknown_outcome=True)
            return rows
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if not connection.closed:
                if self._room is not None:
                    self._room.note(error)
                raise  # the server's answer (lock timeout, deadlock): the connection lives
            raise LostConnection(reason(error), unknown_outcome=True) from None
        finally:
            if connection.closed and connection is self._connection:
                self._lost.inc()
                self._previous = self._backend
                self._connection = self._backend = None
                self._down("PostgreSQL: the connection was lost")

    async def terminate_previous(self) -> bool:
        """End the backend of the connection lost last, so that its statement cannot still commit.

        True when it is certainly gone. To be called before a batch is run again. Uses a short
        connection of the login role (the role taken by SET ROLE may not signal the login's
        processes). Raises LostConnection when the server cannot be reached.
        """
        previous = self._previous
        if previous is None:
            return True
        try:
            async with (
                asyncio.timeout(CONNECT_TIMEOUT_SECONDS + TERMINATE_WAIT_MS / 1000),
                await AsyncConnection.connect(self._dsn, autocommit=True) as connection,
            ):
                cursor = await connection.execute(
                    _TERMINATE, (TERMINATE_WAIT_MS, previous.pid, previous.started)
                )
                row = await cursor.fetchone()
        except (psycopg.Error, TimeoutError) as error:
            raise LostConnection(reason(error), unknown_outcome=False) from None
        gone = row is None or bool(row[0])
        if gone:
            self._previous = None
        return gone

    async def close(self) -> None:
        """Close the connection; the next statement opens a new one."""
        connection, self._connection, self._backend = self._connection, None, None
        if connection is not None:
            with suppress(psycopg.Error):
                await connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _down(self, why: str) -> None:
        if self._readiness is not None:
            self._readiness.down(why)
