"""PostgreSQL against a real server: packed arrays, durability, roles, lost connections."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
import uuid
from typing import Any

import psycopg
import pytest

from chatmesh.runtime.arrays import (
    BoolArray,
    BytesArray,
    Int2Array,
    Int4Array,
    Int8Array,
    PackedArray,
    TextArray,
    UuidArray,
)
from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.postgres import Database, Lane, LostConnection, connection_string
from chatmesh.runtime.readiness import Readiness
from tests.runtime import stores

ROLE = "chatmesh_chat"
U1, U2 = uuid.UUID(int=1), uuid.uuid4()

ARRAYS: list[tuple[str, PackedArray, list[Any]]] = [
    ("int8[]", Int8Array([]), []),
    ("int8[]", Int8Array([0, -1, 2**63 - 1, -(2**63)]), [0, -1, 2**63 - 1, -(2**63)]),
    ("int8[]", Int8Array([1, None, 3]), [1, None, 3]),
    ("int8[]", Int8Array(range(5000)), list(range(5000))),
    ("int4[]", Int4Array([1, -(2**31), 2**31 - 1]), [1, -(2**31), 2**31 - 1]),
    ("int4[]", Int4Array([None]), [None]),
    ("int2[]", Int2Array([1, -(2**15), 2**15 - 1]), [1, -(2**15), 2**15 - 1]),
    ("bool[]", BoolArray([True, False, None]), [True, False, None]),
    ("bytea[]", BytesArray([]), []),
    ("bytea[]", BytesArray([b"", b"\0\xff", b"x" * 70_000]), [b"", b"\0\xff", b"x" * 70_000]),
    ("bytea[]", BytesArray([b"a", None]), [b"a", None]),
    ("text[]", TextArray(["", "é🙂", None, "NULL", '"{}']), ["", "é🙂", None, "NULL", '"{}']),
    ("uuid[]", UuidArray([U1, U2.bytes, None]), [U1, U2, None]),
]


def lane(postgres: stores.Store, **options: Any) -> Lane:
    return Lane(postgres.url, **{"role_name": ROLE, "name": "test", **options})


@pytest.mark.parametrize(("kind", "array", "values"), ARRAYS)
async def test_packed_arrays_arrive_as_they_are(
    postgres: stores.Store, kind: str, array: PackedArray, values: list[Any]
) -> None:
    async with lane(postgres) as connection:
        for cast in (f"::{kind}", ""):  # with and without a type in the statement
            query: Any = f"select %s{cast}, pg_typeof(%s{cast})::text"
            ((back, kind_of),) = await connection.execute(query, (array, array))
            assert list(back) == values
            assert kind_of in (f"{kind[:-2]}[]", *_LONG_NAMES.get(kind, ()))


_LONG_NAMES = {
    "int8[]": ("bigint[]",),
    "int4[]": ("integer[]",),
    "int2[]": ("smallint[]",),
    "bool[]": ("boolean[]",),
}


async def test_arrays_unnest_side_by_side(postgres: stores.Store) -> None:
    async with lane(postgres) as connection:
        rows = await connection.execute(
            "select * from unnest(%s, %s, %s) with ordinality order by ordinality desc",
            (Int8Array([7, 8]), BytesArray([b"a", b"b"]), UuidArray([U1, U2])),
        )
    assert rows == [(8, b"b", U2, 2), (7, b"a", U1, 1)]


def test_what_cannot_be_packed() -> None:
    with pytest.raises(struct.error):
        Int2Array([40_000]).pack()
    with pytest.raises(ValueError, match="16 bytes"):
        UuidArray([b"short"]).pack()
    with pytest.raises(UnicodeEncodeError):
        TextArray(["\ud800"]).pack()


async def test_a_lane_takes_its_role_and_settings(postgres: stores.Store) -> None:
    async with lane(postgres, session_settings=[("lock_timeout", "250ms")]) as connection:
        ((role, login, timeout),) = await connection.execute(
            "select current_user::text, session_user::text, current_setting('lock_timeout')"
        )
    assert (role, login, timeout) == (ROLE, "chatmesh", "250ms")


async def test_tcp_user_timeout_is_in_every_connection_string() -> None:
    made = connection_string("postgresql://u:p@h/d?connect_timeout=9", "name")
    assert "tcp_user_timeout=5000" in made
    assert "connect_timeout=9" in made
    with pytest.raises(ValueError, match="not a PostgreSQL URL") as caught:
        connection_string("postgresql://u:secret@[::1/d", "name")
    assert "secret" not in str(caught.value)


async def test_an_answer_of_the_server_is_no_lost_connection(postgres: stores.Store) -> None:
    async with lane(postgres) as connection:
        for query, error in (
            ("select 1/0", psycopg.errors.DivisionByZero),
            ("selct", psycopg.errors.SyntaxError),
            ("select pg_notify(repeat('x', 100), '')", psycopg.errors.InvalidParameterValue),
        ):
            with pytest.raises(error):
                await connection.execute(query)
        assert await connection.execute("select 1") == [(1,)]


async def test_a_lock_timeout_keeps_the_lane(postgres: stores.Store) -> None:
    settings = [("lock_timeout", "20ms")]
    async with lane(postgres) as holder, lane(postgres, session_settings=settings) as other:
        await holder.execute("select pg_advisory_lock(77)")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await other.execute("select pg_advisory_lock(77)")
        assert await other.execute("select 1") == [(1,)]


async def test_a_killed_backend_is_an_unknown_outcome_and_the_lane_recovers(
    postgres: stores.Store,
) -> None:
    readiness = Readiness()
    component = readiness.require("postgres")
    async with (
        lane(postgres, readiness=component) as victim,
        lane(postgres, role_name="") as killer,
    ):
        ((pid,),) = await victim.execute("select pg_backend_pid()")
        assert component.is_up
        running = asyncio.create_task(victim.execute("select pg_sleep(60)"))
        while not await killer.execute(
            "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'", (pid,)
        ):
            pass
        await killer.execute("select pg_terminate_backend(%s)", (pid,))
        with pytest.raises(LostConnection) as caught:
            await running
        assert caught.value.unknown_outcome
        assert list(readiness.missing()) == ["postgres"]
        assert await victim.terminate_previous()
        ((other,),) = await victim.execute("select pg_backend_pid()")
        assert other != pid
        assert component.is_up


async def test_terminate_previous_ends_what_still_runs(postgres: stores.Store) -> None:
    """The client lost its connection, the backend works on: it must end before the re-run."""
    async with lane(postgres) as victim, lane(postgres, role_name="") as watcher:
        ((pid,),) = await victim.execute("select pg_backend_pid()")
        running = asyncio.create_task(victim.execute("select pg_sleep(60)"))
        alive = "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"
        while not await watcher.execute(alive, (pid,)):
            pass
        connection = victim._connection
        assert connection is not None
        link = socket.socket(fileno=connection.pgconn.socket)
        link.shutdown(socket.SHUT_RDWR)
        link.detach()
        with pytest.raises(LostConnection):
            await running
        assert await watcher.execute(alive, (pid,)), "the backend has not noticed"
        assert await victim.terminate_previous()
        assert not await watcher.execute("select 1 from pg_stat_activity where pid = %s", (pid,))
        assert await victim.terminate_previous(), "nothing is left to end"


async def test_a_cancelled_caller_does_not_cancel_the_statement(postgres: stores.Store) -> None:
    async with lane(postgres) as connection, lane(postgres) as holder:
        await holder.execute("select pg_advisory_lock(88)")
        statement = asyncio.create_task(
            connection.execute("select pg_advisory_lock(88), pg_advisory_lock(99)")
        )
        waiting = "select 1 from pg_locks where locktype = 'advisory' and not granted"
        while not await holder.execute(waiting):
            pass
        statement.cancel()
        await asyncio.sleep(0)
        statement.cancel()
        await asyncio.sleep(0)
        assert await holder.execute(waiting), "the statement was cancelled"
        await holder.execute("select pg_advisory_unlock(88)")
        with pytest.raises(asyncio.CancelledError):
            await statement
        held = "select 1 from pg_locks where locktype = 'advisory' and objid = 99 and granted"
        assert await holder.execute(held), "its effect is missing"
        assert await connection.execute("select 1") == [(1,)], "the lane still works"


async def test_no_server(tmp_path: Any) -> None:
    readiness = Readiness()
    component = readiness.require("postgres")
    nowhere = Lane(
        f"postgresql://u@/d?host={tmp_path}", role_name="", name="x", readiness=component
    )
    with pytest.raises(LostConnection) as caught:
        await nowhere.execute("select 1")
    assert not caught.value.unknown_outcome
    assert component.why is not None
    assert component.why.startswith("PostgreSQL: ")


@pytest.mark.parametrize("setting", ["fsync=off", "full_page_writes=off", "synchronous_commit=off"])
def test_a_server_that_may_lose_commits_is_refused(setting: str) -> None:
    name, value = setting.split("=")

    async def check(url: str) -> None:
        readiness = Readiness()
        component = readiness.require("postgres")
        refused = Lane(url, role_name=ROLE, name="x", readiness=component)
        with pytest.raises(StoreRefused, match=f"{name} = off"):
            await refused.execute("select 1")
        assert component.why is not None
        assert name in component.why
        async with Lane(url, role_name=ROLE, name="x", durable=False) as told_so:
            assert await told_so.execute("select 1") == [(1,)]
        pooled = readiness.require("pool")
        changed = asyncio.Event()
        readiness.on_change(changed.set)
        async with asyncio.timeout(30), Database(url, role_name=ROLE, readiness=pooled):
            while f"{name} = off" not in (pooled.why or "up"):
                changed.clear()
                await changed.wait()

    with stores.postgres({name: value}) as store:
        asyncio.run(check(store.url))


async def wait_for(component: Any, up: bool) -> None:
    changed = asyncio.Event()
    component._owner.on_change(changed.set)
    while component.is_up is not up:
        changed.clear()
        await changed.wait()


async def test_a_database_gives_binary_autocommit_connections(postgres: stores.Store) -> None:
    component = Readiness().require("postgres")
    async with (
        asyncio.timeout(30),
        Database(postgres.url, role_name=ROLE, readiness=component) as database,
    ):
        await wait_for(component, up=True)
        async with database.connection() as connection:
            cursor = await connection.execute("select %s::int8[], current_user::text", ([1, 2],))
            assert await cursor.fetchone() == ([1, 2], ROLE)
            assert cursor.description is not None
            assert cursor.format == psycopg.pq.Format.BINARY
            assert connection.autocommit


def test_a_database_notices_that_its_server_went_and_came() -> None:
    async def check(store: stores.Store) -> None:
        component = Readiness().require("postgres")
        async with (
            asyncio.timeout(60),
            Database(store.url, role_name=ROLE, readiness=component) as database,
        ):
            await wait_for(component, up=True)
            await asyncio.to_thread(store.signal, signal.SIGKILL)
            await wait_for(component, up=False)
            with pytest.raises(LostConnection):
                async with database.connection():
                    pass
            await asyncio.to_thread(store.stop)
            await asyncio.to_thread(store.start)
            await wait_for(component, up=True)
            async with database.connection() as connection:
                cursor = await connection.execute("select 1")
                assert await cursor.fetchone() == (1,)

    with stores.postgres() as store:
        asyncio.run(check(store))


async def test_a_pool_whose_server_is_away_starts(tmp_path: Any) -> None:
    component = Readiness().require("postgres")
    url = f"postgresql://u@/d?host={tmp_path}"
    async with asyncio.timeout(30), Database(url, role_name="", readiness=component):
        await wait_for(component, up=False)
