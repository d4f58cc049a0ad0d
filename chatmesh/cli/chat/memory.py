"""What the terminal client keeps over restarts besides the SDK's outbox and cursor: reactions.

The timeline brings each reaction once and the history does not hold them, so they are written down
before the entry that brought them is acked.
Rules: one SQLite file beside the SDK's, read and written in a thread; knows no widget.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from chatmesh.client import Reaction, StoreFailed

_T = TypeVar("_T")
_SIGN = 1 << 63
"""SQLite's integers are signed, ids are unsigned 64 bits."""


class Reactions:
    """Who reacted how to what. `path` None: as long as the object lives."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chatmesh-reactions")
        self._db: sqlite3.Connection | None = None

    async def remember(self, conversation_id: int, user: str, said: Reaction) -> None:
        """Set or take back one. Raises StoreFailed."""
        row = (conversation_id - _SIGN, said.target_conversation_seq, user, said.reaction)

        def write(db: sqlite3.Connection) -> None:
            with db:
                if said.removed:
                    db.execute(
                        "delete from reaction where conversation_id = ? and target_seq = ? "
                        "and user_id = ? and reaction = ?", row
                    )  # fmt: skip
                else:
                    db.execute("insert or ignore into reaction values (?, ?, ?, ?)", row)

        await self._run(write)

    async def of(self, conversation_id: int) -> list[tuple[str, Reaction]]:
        """All of a conversation, with who set them. Raises StoreFailed."""

        def read(db: sqlite3.Connection) -> list[tuple[str, Reaction]]:
            rows = db.execute(
                "select user_id, target_seq, reaction from reaction where conversation_id = ?",
                (conversation_id - _SIGN,),
            )
            return [(user, Reaction(target, reaction)) for user, target, reaction in rows]

        return await self._run(read)

    async def close(self) -> None:
        """Close the file."""
        db, self._db = self._db, None
        if db is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, db.close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, lambda: work(self._opened())
            )
        except (sqlite3.Error, OSError) as error:
            raise StoreFailed(f"{self._path}: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            if self._path is not None:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._path or ":memory:", check_same_thread=False)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute(
                "create table if not exists reaction (conversation_id integer, "
                "target_seq integer, user_id text, reaction text, "
                "primary key (conversation_id, target_seq, user_id, reaction)) without rowid"
            )
        return self._db
