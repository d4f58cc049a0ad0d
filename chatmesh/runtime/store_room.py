"""Whether PostgreSQL has room to store anything: told by its refusals, found again by trying.

A full disk is no lost connection: PostgreSQL answers each write with 53100 (disk_full) and stores
nothing of it. The first such answer, on whatever connection, makes the component missing; then
every second something is written and thrown away, until that works. So the server recovers without
a restart, and no caller's message is the probe.

When it is the write-ahead log that has no room, PostgreSQL itself ends (PANIC): that is a lost
connection, and the outcome of what was under way is unknown.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import psycopg

from chatmesh.runtime.logs import logger
from chatmesh.runtime.pgsession import LostConnection
from chatmesh.runtime.readiness import Component

if TYPE_CHECKING:
    from chatmesh.runtime.postgres import Database

FULL: Final = (
    "PostgreSQL's disk is full: free some space or enlarge the disk; nothing is lost, and the "
    "server goes on by itself"
)
PROBE_SECONDS: Final = 1.0
PROBE_ROWS: Final = 8_192
"""Of a KiB each: what is free should last for more than the next message."""

# A sort that does not fit its memory goes through temporary files: any role may do that.
_PROBE: Final = """
select count(*) from (
    select repeat('x', 1024) as filler, number from generate_series(1, %s) number
    order by filler, number
) as sorted
"""

_log = logger(__name__)


class StoreRoom:
    """What is known of it. Give it to pools and lanes, and run `watch` in the background."""

    def __init__(self, readiness: Component) -> None:
        self._readiness = readiness
        self._asked = asyncio.Event()
        readiness.up()

    @property
    def is_full(self) -> bool:
        """Whether the next write would be refused, as far as is known."""
        return not self._readiness.is_up

    def note(self, error: BaseException) -> None:
        """An error of PostgreSQL: if it says that the disk is full, everybody is told."""
        if isinstance(error, psycopg.errors.DiskFull):
            self._readiness.down(FULL)
            self._asked.set()

    async def watch(self, database: Database) -> None:
        """Find out when there is room again; for ever."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            while self.is_full:
                await asyncio.sleep(PROBE_SECONDS * random.uniform(0.8, 1.2))
                if await _has_room(database):
                    self._readiness.up()


async def _has_room(database: Database) -> bool:
    try:
        async with database.connection() as connection, connection.transaction():
            await connection.execute("set local work_mem = '64kB'")
            await connection.execute(_PROBE, (PROBE_ROWS,))
    except (psycopg.Error, LostConnection):
        return False
    return True
