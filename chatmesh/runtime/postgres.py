"""PostgreSQL: a pool for ordinary statements. What services import is all here.

- `Database`: a pool of autocommit connections with binary results.
- `Lane` (lane.py): one dedicated connection for the message path.
- `Int8Array` … (arrays.py): packed array parameters.

Every new connection takes its role and is checked for durability in one round trip; a server that
may lose acknowledged commits is refused (readiness says why), unless told so.

Rules: no transaction spans calls.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from chatmesh.runtime.arrays import (
    BoolArray,
    BytesArray,
    Int2Array,
    Int4Array,
    Int8Array,
    TextArray,
    UuidArray,
)
from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.lane import Lane
from chatmesh.runtime.pgsession import (
    NOT_REPLICATED,
    BinaryCursor,
    LostConnection,
    connection_string,
    is_unreplicated,
    reason,
    set_up,
)
from chatmesh.runtime.readiness import Component
from chatmesh.runtime.store_room import StoreRoom

__all__ = [
    "BoolArray",
    "BytesArray",
    "Database",
    "Int2Array",
    "Int4Array",
    "Int8Array",
    "Lane",
    "LostConnection",
    "StoreRoom",
    "TextArray",
    "UuidArray",
    "connection_string",
]

POOL_TIMEOUT_SECONDS: Final = 2.0
"""How long a caller waits for a connection of the pool; while the server is away, too."""
RECONNECT_SECONDS: Final = 2.0
"""How long the pool tries by itself to connect again; the probe makes it try anew."""
PROBE_UP_SECONDS: Final = 2.0
PROBE_DOWN_SECONDS: Final = 0.5
PROBE_TIMEOUT_SECONDS: Final = 5.0


class Database:
    """A pool of connections of one role."""

    def __init__(
        self,
        url: str,
        *,
        role_name: str,
        min_size: int = 1,
        max_size: int = 4,
        readiness: Component | None = None,
        durable: bool = True,
        prepare_threshold: int | None = 5,
        room: StoreRoom | None = None,
        session_settings: Sequence[tuple[str, str]] = (),
    ) -> None:
        """`role_name` is taken by SET ROLE on each connection; empty: the login's own role.
        `session_settings` hold on each connection.

        `prepare_threshold` None switches prepared statements off (PgBouncer before 1.21).
        """
        self._url = url
        self._role = role_name
        self._durable = durable
        self._room = room
        self._settings = tuple(session_settings)
        self._readiness = readiness
        self._refused: str | None = None
        self._probe_task: asyncio.Task[None] | None = None
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
            connection_string(url, role_name or "chatmesh"),
            kwargs={
                "autocommit": True,
                "cursor_factory": BinaryCursor,
                "prepare_threshold": prepare_threshold,
            },
            min_size=min_size,
            max_size=max_size,
            open=False,
            configure=self._configure,
            timeout=POOL_TIMEOUT_SECONDS,
            reconnect_timeout=RECONNECT_SECONDS,
            name=role_name or "chatmesh",
        )

    async def open(self) -> None:
        """Begin to connect, in the background; readiness tells when it worked."""
        await self._pool.open(wait=False)
        self._probe_task = asyncio.get_running_loop().create_task(
            self._probe(), name=f"probe of {self._pool.name}"
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._probe_task is not None:
            while not self._probe_task.done():
                self._probe_task.cancel()
                await asyncio.wait((self._probe_task,), timeout=1)
        await self._pool.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection in autocommit with binary results.

        Raises LostConnection when none can be had within 2 s, when it is lost in the body, and when
        a commit in the body was answered before its synchronous standby had it.
        """
        try:
            connection = await self._pool.getconn()
        except (PoolTimeout, psycopg.OperationalError) as error:
            raise LostConnection(self._refused or reason(error), unknown_outcome=False) from None
        try:
            yield connection
            if is_unreplicated(connection):
                await connection.close()
                raise LostConnection(NOT_REPLICATED, unknown_outcome=True)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if not connection.closed:
                if self._room is not None:
                    self._room.note(error)
                raise  # the server's answer (lock timeout, deadlock): the connection lives
            raise LostConnection(reason(error), unknown_outcome=True) from None
        finally:
            await self._pool.putconn(connection)

    async def _configure(self, connection: AsyncConnection[Any]) -> None:
        try:
            await set_up(connection, self._role, self._durable)
            for setting, value in self._settings:
                await connection.execute("select set_config(%s, %s, false)", (setting, value))
        except StoreRefused as error:
            self._refused = str(error)
            raise psycopg.OperationalError(str(error)) from None
        self._refused = None

    async def _probe(self) -> None:
        """Tell readiness; lives as long as the pool."""
        while True:
            up = await self._answers()
            pause = PROBE_UP_SECONDS if up else PROBE_DOWN_SECONDS
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS), self.connection() as connection:
                await connection.execute("select 1")
        except (LostConnection, psycopg.Error, TimeoutError) as error:
            if self._readiness is not None:
                self._readiness.down(self._refused or f"PostgreSQL: {reason(error)}")
            await self._pool.check()  # the other connections are dead, too: replace them
            return False
        if self._readiness is not None:
            self._readiness.up()
        return True
