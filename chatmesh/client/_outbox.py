"""What a device remembers over restarts: unanswered messages, its cursor, who it is.

Role: the `Store` protocol, which an application may implement on its own database (then message
and cursor can be stored in one transaction), and two stores: memory and SQLite.
Rules: a message is put before it is sent and leaves by its answer; the cursor is saved before it
is acked. SQLite runs in one worker thread, never on the event loop; what was asked for while it
was busy is committed together.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeAlias, TypeVar

from chatmesh.client._progress import Cursor
from chatmesh.client.errors import StoreFailed

_T = TypeVar("_T")
_Job: TypeAlias = Callable[[sqlite3.Connection], object]


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """An unanswered message: its key, its bytes as they go, and the group it is sent in."""

    key: bytes
    body: bytes
    group: int = 0


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a store holds when it is opened. Empty strings and None: nothing yet."""

    user_id: str = ""
    device_id: str = ""
    cursor: Cursor | None = None
    unanswered: Sequence[StoredMessage] = field(default=())
    """In the order in which they were put."""


class Store(Protocol):
    """A device's memory. Calls may overlap; each returns when its effect would survive a crash."""

    async def open(self) -> Remembered:
        """Open it and read everything."""
        ...

    async def put(self, messages: Sequence[StoredMessage]) -> None:
        """Remember messages that are about to be sent, in this order, all or none."""
        ...

    async def settle(self, keys: Sequence[bytes]) -> None:
        """Forget messages that have their answer."""
        ...

    async def save_cursor(self, cursor: Cursor) -> None:
        """Remember how far the application has stored; later calls carry later cursors, except
        after a snapshot."""
        ...

    async def save_identity(self, user_id: str, device_id: str) -> None:
        """Remember who this device is."""
        ...

    async def close(self) -> None:
        """Close it."""
        ...


class MemoryStore:
    """Remembers as long as the object lives; the default. May be given to a later client."""

    def __init__(self) -> None:
        self._identity = ("", "")
        self._cursor: Cursor | None = None
        self._unanswered: dict[bytes, StoredMessage] = {}

    async def open(self) -> Remembered:
        """What was remembered before, if this object was used before."""
        return Remembered(*self._identity, self._cursor, list(self._unanswered.values()))

    async def put(self, messages: Sequence[StoredMessage]) -> None:
        """Remember messages."""
        self._unanswered.update({message.key: message for message in messages})

    async def settle(self, keys: Sequence[bytes]) -> None:
        """Forget messages."""
        for key in keys:
            self._unanswered.pop(key, None)

    async def save_cursor(self, cursor: Cursor) -> None:
        """Remember the cursor."""
        self._cursor = cursor

    async def save_identity(self, user_id: str, device_id: str) -> None:
        """Remember who this device is."""
        self._identity = (user_id, device_id)

    async def close(self) -> None:
        """Nothing to do."""


_SCHEMA: Final = """
create table if not exists device (
    one integer primary key check (one = 1),
    user_id text not null default '', device_id text not null default '',
    timeline_seq integer, message_id integer
);
insert or ignore into device (one) values (1);
create table if not exists outbox (
    position integer primary key autoincrement,
    key blob not null unique, body blob not null, send_group integer not null
);
"""
_VERSION: Final = 1
_SIGN: Final = 1 << 63
"""SQLite's integers are signed; positions and ids are unsigned 64 bits."""


class SqliteStore:
    """Remembers in one SQLite file, safe against kill -9 and loss of power.

    One process at a time: the file is locked while it is open.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._thread: ThreadPoolExecutor | None = None
        self._db: sqlite3.Connection | None = None
        self._jobs: list[tuple[_Job, asyncio.Future[None]]] = []
        self._running: asyncio.Task[None] | None = None

    async def open(self) -> Remembered:
        """Open or make the file.

        Raises StoreFailed when it cannot be used, or another process uses it.
        """
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chatmesh-store")
        try:
            return await self._in_thread(self._open)
        except BaseException:
            await self.close()
            raise

    def _open(self) -> Remembered:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=1)
        self._db = db
        db.execute("pragma locking_mode = exclusive")
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = full")
        version = db.execute("pragma user_version").fetchone()[0]
        if version > _VERSION:
            raise StoreFailed(
                f"{self._path} was written by a newer release (form {version}): update this one"
            )
        db.executescript(f"begin immediate; {_SCHEMA} pragma user_version = {_VERSION}; commit")
        user_id, device_id, seq, message_id = db.execute(
            "select user_id, device_id, timeline_seq, message_id from device"
        ).fetchone()
        rows = db.execute("select key, body, send_group from outbox order by position")
        cursor = None if seq is None else Cursor(seq + _SIGN, message_id + _SIGN)
        return Remembered(user_id, device_id, cursor, [StoredMessage(*row) for row in rows])

    async def put(self, messages: Sequence[StoredMessage]) -> None:
        """Remember messages; returns after the commit."""
        rows = [(message.key, message.body, message.group) for message in messages]
        await self._write(
            lambda db: db.executemany(
                "insert or ignore into outbox (key, body, send_group) values (?, ?, ?)", rows
            )
        )

    async def settle(self, keys: Sequence[bytes]) -> None:
        """Forget messages; returns after the commit."""
        rows = [(key,) for key in keys]
        await self._write(lambda db: db.executemany("delete from outbox where key = ?", rows))

    async def save_cursor(self, cursor: Cursor) -> None:
        """Remember the cursor; returns after the commit."""
        values = (cursor.timeline_seq - _SIGN, cursor.message_id - _SIGN)
        await self._write(
            lambda db: db.execute("update device set timeline_seq = ?, message_id = ?", values)
        )

    async def save_identity(self, user_id: str, device_id: str) -> None:
        """Remember who this device is; returns after the commit."""
        await self._write(
            lambda db: db.execute(
                "update device set user_id = ?, device_id = ?", (user_id, device_id)
            )
        )

    async def close(self) -> None:
        """Finish what was asked for, close the file, end the thread."""
        if self._running is not None:
            await asyncio.wait([self._running])
        thread, self._thread = self._thread, None
        db, self._db = self._db, None
        if thread is None:
            return
        if db is not None:
            await asyncio.get_running_loop().run_in_executor(thread, db.close)
        thread.shutdown(wait=False)

    async def _write(self, job: _Job) -> None:
        if self._thread is None:
            raise StoreFailed(f"{self._path} is not open")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._jobs.append((job, done))
        if self._running is None:
            self._running = asyncio.create_task(self._drain(), name="chatmesh-store")
        await done

    async def _drain(self) -> None:
        """Commit what has gathered, again and again until nothing has."""
        try:
            while self._jobs:
                jobs, self._jobs = self._jobs, []
                error: StoreFailed | None = None
                try:
                    await self._in_thread(partial(self._commit, [job for job, _ in jobs]))
                except StoreFailed as failed:
                    error = failed
                for _, done in jobs:
                    if done.done():
                        continue  # its caller was cancelled; the write happened all the same
                    if error is None:
                        done.set_result(None)
                    else:
                        done.set_exception(StoreFailed(str(error)))
        finally:
            self._running = None

    def _commit(self, jobs: Sequence[_Job]) -> None:
        db = self._db
        if db is None:
            raise StoreFailed(f"{self._path} is not open")
        db.execute("begin immediate")
        try:
            for job in jobs:
                job(db)
            db.execute("commit")
        except BaseException:
            if db.in_transaction:
                db.execute("rollback")
            raise

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise StoreFailed(f"{self._path} is in use by another process") from error
            raise StoreFailed(f"{self._path}: {error}") from error
        except (sqlite3.Error, OSError) as error:
            raise StoreFailed(f"{self._path}: {error}") from error
