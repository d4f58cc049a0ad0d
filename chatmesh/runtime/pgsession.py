"""One PostgreSQL connection: how it is made, checked, waited for, and how its loss is told.

Role: what the pool (`postgres.Database`) and the lanes (`lane.Lane`) share.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, LiteralString, TypeVar
from weakref import WeakSet, ref

import psycopg
from psycopg import AsyncConnection, AsyncCursor, waiting
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Format, TransactionStatus

from chatmesh.runtime.errors import StoreRefused

CONNECT_TIMEOUT_SECONDS: Final = 5
TCP_USER_TIMEOUT_MS: Final = 5_000
"""Unacknowledged bytes on a dead link end the connection after this instead of minutes."""

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

_T = TypeVar("_T")

_STANDBY_WAIT: Final = "SyncRepWaitForLSN"
"""Where PostgreSQL says that it no longer waits for the standby; named by function, since the text
depends on the server's language."""
NOT_REPLICATED: Final = "PostgreSQL stopped waiting for its standby: a failover may lose the commit"
_unreplicated: WeakSet[AsyncConnection[Any]] = WeakSet()


class LostConnection(Exception):
    """The connection ended. `unknown_outcome`: a statement was sent and may have been committed."""

    def __init__(self, why: str, *, unknown_outcome: bool) -> None:
        super().__init__(why)
        self.unknown_outcome = unknown_outcome


@dataclass(frozen=True, slots=True)
class Backend:
    """A server process, named so that a reused pid is not mistaken for it."""

    pid: int
    started: str


class BinaryCursor(AsyncCursor[Any]):
    """Asks for binary results always."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.format = Format.BINARY


class UninterruptedConnection(AsyncConnection[Any]):
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


async def set_up(connection: AsyncConnection[Any], role: str, durable: bool) -> Backend:
    """Take the role and check durability. Raises StoreRefused."""
    cursor = await connection.execute(_SETUP, (role, role))
    row = await cursor.fetchone()
    if row is None:
        raise StoreRefused("PostgreSQL did not answer its settings")
    _, fsync, full_page_writes, synchronous_commit, pid, started = row
    if durable:
        connection.add_notice_handler(partial(_on_notice, ref(connection)))
        _demand(fsync == "on", "fsync", fsync)
        _demand(full_page_writes == "on", "full_page_writes", full_page_writes)
        _demand(synchronous_commit != "off", "synchronous_commit", synchronous_commit)
    return Backend(int(pid), str(started))


def is_unreplicated(connection: AsyncConnection[Any]) -> bool:
    """Whether a commit on this connection was answered before its synchronous standby had it.

    Somebody cancelled the wait: the server answers as if all were well, with a warning. Such a
    commit is durable here and nowhere else, so its outcome is unknown.
    """
    return connection in _unreplicated


def _on_notice(
    connection: ref[AsyncConnection[Any]], diagnostic: psycopg.errors.Diagnostic
) -> None:
    found = connection()
    if diagnostic.source_function == _STANDBY_WAIT and found is not None:
        _unreplicated.add(found)


def _demand(good: bool, setting: str, value: str) -> None:
    if not good:
        raise StoreRefused(
            f"PostgreSQL has {setting} = {value} and may lose acknowledged commits: set it to on, "
            "or CHATMESH_POSTGRES_DURABLE=false if losing messages is acceptable"
        )


def reason(error: BaseException) -> str:
    """The first line of a driver's error; connection errors name hosts, never passwords."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
