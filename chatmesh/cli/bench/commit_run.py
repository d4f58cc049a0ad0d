"""What one commit costs PostgreSQL: measured on the function that stores messages, in a database of
its own beside the mesh's, which is dropped afterwards.

Rules: counts come from the connection's own statistics (PostgreSQL 18), so that neither the mesh
nor autovacuum is counted; times are the client's, one call at a time. Knows the function by its
name in the schema alone: no service is imported.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from psycopg import AsyncConnection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from chatmesh.runtime import migrate
from chatmesh.runtime.arrays import BytesArray, Int2Array, Int4Array, Int8Array, UuidArray

SERVICE: Final = "chat_svc"
NEEDS_VERSION: Final = 180_000
"""pg_stat_get_backend_io and pg_stat_get_backend_wal."""
_VISIBLE_AND_LOUD: Final = 3
_BODY: Final = b"\x4a\x0a\x0a\x08\x0a\x06" + b"hello!"
"""Event.content.text.body, as stored."""

_ONE: Final = """
SELECT count(*) FROM chat.commit_one_1(%s::bigint, %s::integer, %s::bigint, %s::bigint, 1::smallint,
  3::smallint, %s, 1::bigint, 0::bigint, 0::bigint, %s, ''::bytea, ''::bytea, '{}'::bigint[],
  0::bigint, %s::bigint, 1::bigint, %s)
"""
_MANY: Final = """
SELECT count(*) FROM chat.commit_1(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
  '{}'::integer[], '{}'::bigint[], 0::bigint, %s::bigint, 1::bigint, %s)
"""
_SPENT: Final = """
SELECT (SELECT coalesce(sum(hits + reads), 0)::bigint FROM pg_stat_get_backend_io(%(pid)s)),
  (SELECT wal_records FROM pg_stat_get_backend_wal(%(pid)s)),
  (SELECT wal_bytes::bigint FROM pg_stat_get_backend_wal(%(pid)s))
"""
_HOT: Final = """
SELECT sum(n_tup_hot_upd)::float8 / greatest(sum(n_tup_upd), 1)::float8 FROM pg_stat_user_tables
WHERE schemaname = 'chat' AND relname IN ('timeline_head', 'conversation')
"""
_WAITS: Final = """
SELECT count(*) FILTER (WHERE state = 'active'),
  count(*) FILTER (WHERE state = 'active' AND wait_event_type = 'Lock')
FROM pg_stat_activity WHERE pid = ANY (%s)
"""


class Unmeasurable(Exception):
    """This PostgreSQL cannot say what a connection spent."""


@dataclass(frozen=True, slots=True)
class CommitPlan:
    """What is measured."""

    batches: tuple[int, ...] = (1, 8, 32, 128)
    """Messages in one call; from the smallest to the largest."""
    messages: int = 2_560
    """For each batch size."""
    growth: int = 50_000
    """Messages stored between the two measurements of the growth ratio."""
    pairs: int = 128
    """Direct conversations, in turn."""


@dataclass(slots=True)
class CommitOutcome:
    """Per message, by the size of its batch."""

    cost_us_by_batch: dict[int, float] = field(default_factory=dict)
    """Client's time of the call."""
    pages_by_batch: dict[int, float] = field(default_factory=dict)
    """Pages of tables and indexes that were looked at."""
    wal_records_by_batch: dict[int, float] = field(default_factory=dict)
    wal_bytes_by_batch: dict[int, float] = field(default_factory=dict)
    growth_ratio: float = 0.0
    """Pages per message of the largest batch after the growth, over those before."""
    grown_messages: int = 0
    hot_update_ratio: float = 0.0
    """Updates of heads that touched no index."""
    lock_wait_share: float = 0.0
    """Of the time of two lanes on the same conversations, what went in waits for each other."""

    def to_json(self) -> dict[str, Any]:
        """Names as in `--json`; batch sizes as texts."""
        result: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, dict):
                value = {str(size): round(figure, 3) for size, figure in value.items()}
            result[name] = round(value, 4) if isinstance(value, float) else value
        return result


@dataclass(frozen=True, slots=True)
class _Spent:
    pages: int
    wal_records: int
    wal_bytes: int

    def since(self, before: _Spent, messages: int) -> tuple[float, float, float]:
        return (
            (self.pages - before.pages) / messages,
            (self.wal_records - before.wal_records) / messages,
            (self.wal_bytes - before.wal_bytes) / messages,
        )


async def measure(owner_url: str, plan: CommitPlan) -> CommitOutcome:
    """Make the database, measure, drop it.

    Raises:
        Unmeasurable: PostgreSQL is older than 18.
        psycopg.Error: what PostgreSQL says.
    """
    async with _scratch(owner_url) as url, _connect(url) as watcher, _connect(url) as one:
        if one.info.server_version < NEEDS_VERSION:
            raise Unmeasurable("PostgreSQL 18 or newer is needed to count what a connection spends")
        lane = _Lane(one, watcher)
        await lane.prepare(plan.pairs)
        outcome = CommitOutcome()
        await lane.run(plan.batches[-1], plan.messages)  # plans made, pages of every table there
        for size in plan.batches:
            await lane.measure(outcome, size, plan.messages)
        await _grow(outcome, lane, plan)
        async with _connect(url) as two:
            outcome.lock_wait_share = await _waits(lane, _Lane(two, watcher, lane), plan, watcher)
        await lane.flush()
        cursor = await watcher.execute(_HOT)
        ((outcome.hot_update_ratio,),) = await cursor.fetchall()
        return outcome


async def _grow(outcome: CommitOutcome, lane: _Lane, plan: CommitPlan) -> None:
    largest, after = plan.batches[-1], CommitOutcome()
    await lane.run(largest, plan.growth)
    await lane.measure(after, largest, plan.messages)
    outcome.grown_messages = plan.growth
    outcome.growth_ratio = after.pages_by_batch[largest] / outcome.pages_by_batch[largest]


async def _waits(one: _Lane, two: _Lane, plan: CommitPlan, watcher: AsyncConnection[Any]) -> float:
    """Look at both lanes again and again while they commit to the same conversations."""
    pids = [lane.pid for lane in (one, two)]
    work = asyncio.gather(*(lane.run(plan.batches[-1], plan.messages) for lane in (one, two)))
    active = waiting = 0
    while not work.done():
        cursor = await watcher.execute(_WAITS, (pids,))
        ((running, held_up),) = await cursor.fetchall()
        active, waiting = active + running, waiting + held_up
    await work
    return waiting / max(active, 1)


class _Lane:
    """One connection that commits; a second one shares the first one's conversations."""

    def __init__(
        self,
        connection: AsyncConnection[Any],
        watcher: AsyncConnection[Any],
        like: _Lane | None = None,
    ) -> None:
        self._connection = connection
        self._watcher = watcher
        self._next_id = 1 if like is None else 1 << 40
        self._pairs: list[tuple[int, int]] = [] if like is None else like._pairs
        self._tenant: int = 0 if like is None else like._tenant
        self._turn = 0
        self._settled: list[int] = []
        """Batches whose outbox rows go with the next call."""

    @property
    def pid(self) -> int:
        """Of the server process."""
        return self._connection.info.backend_pid

    async def prepare(self, pairs: int) -> None:
        """Accounts, and a conversation for each two of them."""
        users = [f"bench-{n:06}" for n in range(2 * pairs)]
        ids = [self._id() for _ in users]
        await self._connection.execute(
            "SELECT chat.make_accounts_1('bench', %s, %s, %s, 1::smallint)",
            (users, Int8Array(ids), Int8Array([self._id() for _ in users])),
        )
        cursor = await self._connection.execute("SELECT id FROM chat.tenant WHERE name = 'bench'")
        ((self._tenant,),) = await cursor.fetchall()
        conversations = [self._id() for _ in range(pairs)]
        await self._connection.execute(
            "SELECT chat.make_direct_1(%s::integer, %s, %s, %s, false)",
            (self._tenant, Int8Array(ids[::2]), Int8Array(ids[1::2]), Int8Array(conversations)),
        )
        self._pairs = list(zip(conversations, ids[::2], strict=True))
        # two devices each: an outbox row is made and goes, as in a mesh
        await self._connection.execute("UPDATE chat.timeline_head SET devices = 2")

    async def measure(self, outcome: CommitOutcome, size: int, messages: int) -> None:
        """Commit, and note what it cost."""
        before = await self._spent()
        outcome.cost_us_by_batch[size] = await self.run(size, messages) / messages / 1_000
        figures = (await self._spent()).since(before, messages)
        (
            outcome.pages_by_batch[size],
            outcome.wal_records_by_batch[size],
            outcome.wal_bytes_by_batch[size],
        ) = figures

    async def run(self, size: int, messages: int) -> int:
        """Commit so many messages in batches of that size; nanoseconds spent in the calls."""
        spent_ns = 0
        for _ in range(max(1, messages // size)):
            query, values = self._one() if size == 1 else self._many(size)
            begun_ns = time.perf_counter_ns()
            await self._connection.execute(query, values, prepare=True)
            spent_ns += time.perf_counter_ns() - begun_ns
        return spent_ns

    async def flush(self) -> None:
        """Statistics of this connection become visible."""
        await self._connection.execute("SELECT pg_stat_force_next_flush()")

    async def _spent(self) -> _Spent:
        await self.flush()
        cursor = await self._watcher.execute(_SPENT, {"pid": self.pid})
        ((pages, records, size),) = await cursor.fetchall()
        return _Spent(pages, records, size)

    def _one(self) -> tuple[str, Sequence[Any]]:
        conversation, sender = self._next_pair()
        key = UUID(bytes=_key())
        message = (self._id(), self._tenant, sender, conversation, key, _BODY)
        return _ONE, (*message, *self._batch())

    def _many(self, size: int) -> tuple[str, Sequence[Any]]:
        pairs = [self._next_pair() for _ in range(size)]
        zeros, blanks = Int8Array([0] * size), BytesArray([b""] * size)
        return _MANY, (
            Int8Array([self._id() for _ in pairs]),
            Int4Array([self._tenant] * size),
            Int8Array([sender for _, sender in pairs]),
            Int8Array([conversation for conversation, _ in pairs]),
            Int2Array([1] * size),
            Int2Array([_VISIBLE_AND_LOUD] * size),
            UuidArray([_key() for _ in pairs]),
            Int8Array([1] * size),
            zeros,
            zeros,
            BytesArray([_BODY] * size),
            blanks,
            blanks,
            *self._batch(),
        )

    def _batch(self) -> tuple[int, Int8Array]:
        """Id of a batch, and those that are settled."""
        done, self._settled = self._settled, [self._id()]
        return self._settled[0], Int8Array(done)

    def _next_pair(self) -> tuple[int, int]:
        self._turn += 1
        return self._pairs[self._turn % len(self._pairs)]

    def _id(self) -> int:
        self._next_id += 1
        return self._next_id


def _key() -> bytes:
    raw = bytearray((time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10))
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return bytes(raw)


@asynccontextmanager
async def _connect(url: str) -> AsyncIterator[AsyncConnection[Any]]:
    connection = await AsyncConnection.connect(url, autocommit=True)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def _scratch(owner_url: str) -> AsyncIterator[str]:
    """A database with the schema, gone afterwards."""
    name = f"chatmesh_bench_{os.getpid()}_{time.time_ns()}"
    async with _connect(owner_url) as owner:
        await owner.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            url = make_conninfo("", **{**conninfo_to_dict(owner_url), "dbname": name})
            await asyncio.to_thread(migrate.apply, _as_url(owner_url, name), SERVICE, "pre")
            yield url
        finally:
            await owner.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )


def _as_url(owner_url: str, name: str) -> str:
    """The owner's URL with another database: migrations take URLs alone."""
    head, mark, options = owner_url.partition("?")
    return head[: head.rindex("/") + 1] + name + mark + options
