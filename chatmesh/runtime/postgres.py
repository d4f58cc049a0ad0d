"""PostgreSQL: a pool for ordinary statements, and lanes for the message path.

- `Database`: a pool of autocommit connections with binary results.
- `Lane`: one dedicated connection that survives nothing: when it is lost, the caller is told
  whether the outcome is unknown, terminates the old backend and runs its batch again.

Every new connection takes its role and is checked for durability in one round trip; a server that
may lose acknowledged commits is refused (readiness says why), unless told so.

Rules: no statement is ever cancelled by the client on a lane: a cancelled task waits for its
statement's end, because a half-known commit is worse than a late stop. No transaction spans calls.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, LiteralString, Self, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor, waiting
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Format, TransactionStatus
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from chatmesh.runtime import metrics
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
from chatmesh.runtime.logs import logger
from chatmesh.runtime.readiness import Component

__all__ = [
    "BoolArray",
    "BytesArray",
    "Database",
    "Int2Array",
    "Int4Array",
    "Int8Array",
    "Lane",
    "LostConnection",
    "TextArray",
    "UuidArray",
]

CONNECT_TIMEOUT_SECONDS: Final = 5
TCP_USER_TIMEOUT_MS: Final = 5_000
"""Unacknowledged bytes on a dead link end the connection after this instead of minutes."""
TERMINATE_WAIT_MS: Final = 5_000
"""How long the server waits for a terminated backend to be gone."""
POOL_TIMEOUT_SECONDS: Final = 2.0
"""How long a caller waits for a connection of the pool; while the server is away, too."""
RECONNECT_SECONDS: Final = 2.0
"""How long the pool tries by itself to connect again; the probe makes it try anew."""
PROBE_UP_SECONDS: Final = 2.0
PROBE_DOWN_SECONDS: Final = 0.5
PROBE_TIMEOUT_SECONDS: Final = 5.0

_DEFAULTS: Final[dict[str, str]] = {
    "connect_timeout": str(CONNECT_TIMEOUT_SECONDS),
    "tcp_user_timeout": str(TCP_USER_TIMEOUT_MS),
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "target_session_attrs": "read-write",  # after a failover the old primary is no choice
}

# The backend is looked up before the role is taken: afterwards it may be out of sight.
_SETUP: Final[LiteralString] = """
select case when %s = '' then '' else set_config('role', %s, false) end,
       current_setting('fsync'), current_setting('full_page_writes'),
       current_setting('synchronous_commit'), me.pid, me.backend_start::text
from pg_stat_get_activity(pg_backend_pid()) as me
"""

_TERMINATE: Final[LiteralString] = """
select pg_terminate_backend(pid, %s) from pg_stat_activity
where pid = %s and backend_start = %s::timestamptz
"""

_log = logger(__name__)
_T = TypeVar("_T")


class LostConnection(Exception):
    """The connection ended. `unknown_outcome`: a statement was sent and may have been committed."""

    def __init__(self, why: str, *, unknown_outcome: bool) -> None:
        super().__init__(why)
        self.unknown_outcome = unknown_outcome


@dataclass(frozen=True, slots=True)
class _Backend:
    """A server process, named so that a reused pid is not mistaken for it."""

    pid: int
    started: str


class BinaryCursor(AsyncCursor[Any]):
    """Asks for binary results always."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.format = Format.BINARY


class _LaneConnection(AsyncConnection[Any]):
    """Does not cancel its statement when the waiting task is cancelled; it waits for the end."""

    async def wait(
        self,
        gen: PQGen[_T],
        interval: float = 0.1,
        timeout: float | None = None,  # noqa: ASYNC109 - the base's signature
    ) -> _T:
        """Drive one operation to its end; a cancellation is raised only after it."""
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                result = await waiting.wait_async(
                    gen, self.pgconn.socket, interval=interval, timeout=timeout
                )
            except asyncio.CancelledError as error:
                cancelled = error
                if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                    raise
                continue
            except psycopg.Error:
                if cancelled is not None:
                    raise cancelled from None
                raise
            if cancelled is not None:
                raise cancelled
            return result


def connection_string(url: str, application_name: str, **defaults: str) -> str:
    """A libpq connection string: the URL with our defaults for what it does not say.

    Raises ValueError without a word of the URL, which may hold a password.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise ValueError("not a PostgreSQL URL (postgresql://user@host/database)") from None
    wanted: dict[str, Any] = {
        **_DEFAULTS,
        "application_name": application_name,
        **defaults,
        **given,
    }
    return make_conninfo("", **wanted)


async def _set_up(connection: AsyncConnection[Any], role: str, durable: bool) -> _Backend:
    """Take the role and check durability. Raises StoreRefused."""
    cursor = await connection.execute(_SETUP, (role, role))
    row = await cursor.fetchone()
    if row is None:
        raise StoreRefused("PostgreSQL did not answer its settings")
    _, fsync, full_page_writes, synchronous_commit, pid, started = row
    if durable:
        _require(fsync == "on", "fsync", fsync)
        _require(full_page_writes == "on", "full_page_writes", full_page_writes)
        _require(synchronous_commit != "off", "synchronous_commit", synchronous_commit)
    return _Backend(int(pid), str(started))


def _require(good: bool, setting: str, value: str) -> None:
    if not good:
        raise StoreRefused(
            f"PostgreSQL has {setting} = {value} and may lose acknowledged commits: set it to on, "
            "or CHATMESH_POSTGRES_DURABLE=false if losing messages is acceptable"
        )


def _why(error: BaseException) -> str:
    """The first line of a driver's error; connection errors name hosts, never passwords."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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
    ) -> None:
        """`role_name` is taken by SET ROLE on each connection; empty: the login's own role.

        `prepare_threshold` None switches prepared statements off (PgBouncer before 1.21).
        """
        self._url = url
        self._role = role_name
        self._durable = durable
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

        Raises LostConnection when none can be had within 2 s, and when it is lost in the body.
        """
        try:
            connection = await self._pool.getconn()
        except (PoolTimeout, psycopg.OperationalError) as error:
            raise LostConnection(self._refused or _why(error), unknown_outcome=False) from None
        try:
            yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if not connection.closed:
                raise  # the server's answer (lock timeout, deadlock): the connection lives
            raise LostConnection(_why(error), unknown_outcome=True) from None
        finally:
            await self._pool.putconn(connection)

    async def _configure(self, connection: AsyncConnection[Any]) -> None:
        try:
            await _set_up(connection, self._role, self._durable)
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
                self._readiness.down(self._refused or f"PostgreSQL: {_why(error)}")
            await self._pool.check()  # the other connections are dead, too: replace them
            return False
        if self._readiness is not None:
            self._readiness.up()
        return True


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
    ) -> None:
        """`name` is for logs and metrics. `session_settings` (lock_timeout …) hold per session."""
        self._dsn = connection_string(url, f"{role_name or 'chatmesh'} {name}")
        self._role = role_name
        self.name = name
        self._durable = durable
        self._readiness = readiness
        self._settings = tuple(session_settings)
        self._connection: _LaneConnection | None = None
        self._backend: _Backend | None = None
        self._previous: _Backend | None = None
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
                connection = await _LaneConnection.connect(
                    self._dsn, autocommit=True, cursor_factory=BinaryCursor
                )
        except (psycopg.Error, TimeoutError) as error:
            self._down(f"PostgreSQL: {_why(error)}")
            raise LostConnection(_why(error), unknown_outcome=False) from None
        try:
            backend = await _set_up(connection, self._role, self._durable)
            for setting, value in self._settings:
                await connection.execute("select set_config(%s, %s, false)", (setting, value))
        except psycopg.Error as error:
            await connection.close()
            self._down(f"PostgreSQL: {_why(error)}")
            raise LostConnection(_why(error), unknown_outcome=False) from None
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

        Raises LostConnection when the connection ends (connecting included), StoreRefused, and
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
            return await cursor.fetchall() if cursor.description else []
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if not connection.closed:
                raise  # the server's answer (lock timeout, deadlock): the connection lives
            raise LostConnection(_why(error), unknown_outcome=True) from None
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
            raise LostConnection(_why(error), unknown_outcome=False) from None
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


def process_name(service: str) -> str:
    """An application_name that tells processes of one service apart."""
    return f"{service} {os.getpid()}"
