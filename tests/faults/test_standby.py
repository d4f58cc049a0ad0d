"""A real synchronous standby that stands still: nobody is answered for a commit that it has not,
whatever is cancelled meanwhile; then a standby that is promoted has what was answered, once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
import pytest

from chatmesh.embedded import keys
from chatmesh.embedded.layout import DataFolder
from chatmesh.embedded.postgres import OWNER, EmbeddedPostgres
from chatmesh.embedded.privilege import choose
from chatmesh.runtime.postgres import Lane, LostConnection
from tests.runtime import stores

pytestmark = pytest.mark.slow

NAME = "follower"
INSERT = "insert into kept values (%s) on conflict do nothing"


@contextmanager
def standby_of(primary: stores.Store) -> Iterator[stores.Store]:
    """A second server that follows the first one; `url` is the owner's."""
    with stores.folder() as data:
        sockets = data.path / "s"
        sockets.mkdir(mode=0o700)
        server = EmbeddedPostgres(data, sockets)
        _copy(primary.url, data, server)
        server.prepare()
        password = primary.url.split(":", 2)[2].split("@")[0]
        url = server.url_of(OWNER).replace(
            keys.postgres_password(data, OWNER).read_text(), password
        )
        store = stores.Store(server.command(), lambda: _answers(url), url)
        store.start()
        try:
            yield store
        finally:
            store.stop()


def _copy(url: str, data: DataFolder, server: EmbeddedPostgres) -> None:
    """The primary's cluster as it is, told to follow it."""
    program = server.programs.program("pg_basebackup")
    privilege = choose(program, data.postgres)
    data.postgres.mkdir(mode=0o700)
    privilege.own(data.postgres)
    uid, gid = privilege.account or (None, None)
    source = f"{url}&application_name={NAME}"
    subprocess.run(
        privilege.argv([program, "-D", str(data.postgres), "-d", source, "-R", "-c", "fast"]),
        check=True,
        capture_output=True,
        cwd="/",
        user=uid,
        group=gid,
        extra_groups=[] if privilege.account else None,
    )


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


async def ask(url: str, query: LiteralString, *params: object) -> list[tuple[Any, ...]]:
    """A question as the owner."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(query, params)
        return await cursor.fetchall() if cursor.description else []


async def until(url: str, query: LiteralString, *params: object) -> list[tuple[Any, ...]]:
    """Until a question has an answer."""
    async with asyncio.timeout(60):
        while not (found := await ask(url, query, *params)):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
    return found


async def commit_and_cancel(primary: stores.Store, lane: Lane) -> asyncio.Task[Any]:
    """A commit whose wait somebody cancels, and one that waits."""
    committing = asyncio.create_task(lane.execute(INSERT, (2,)))
    waiting: LiteralString = "select pid from pg_stat_activity where wait_event = 'SyncRep'"
    ((pid,),) = await until(primary.url, waiting)
    await ask(primary.url, "select pg_cancel_backend(%s)", pid)
    with pytest.raises(LostConnection) as lost:
        await committing
    assert lost.value.unknown_outcome
    assert await lane.terminate_previous()
    again = asyncio.create_task(lane.execute(INSERT, (3,)))
    await until(primary.url, waiting)
    return again


async def test_what_a_standby_has_not_got_is_an_unknown_outcome() -> None:
    with stores.postgres() as primary, standby_of(primary) as standby:
        await ask(primary.url, "create table kept (number integer primary key)")
        await ask(primary.url, f"alter system set synchronous_standby_names = '{NAME}'")
        await ask(primary.url, "select pg_reload_conf()")
        await until(primary.url, "select 1 from pg_stat_replication where sync_state = 'sync'")
        async with Lane(primary.url, role_name="", name="test") as lane:
            await lane.execute(INSERT, (1,))
            ((receiver,),) = await ask(standby.url, "select pid from pg_stat_wal_receiver")
            os.kill(receiver, signal.SIGSTOP)
            try:
                again = await commit_and_cancel(primary, lane)
            finally:
                os.kill(receiver, signal.SIGCONT)
            await again
        # the primary is gone for good: what was answered is there
        primary.stop()
        await ask(standby.url, "select pg_promote()")
        assert await ask(standby.url, "select number from kept order by number") == [
            (1,), (2,), (3,),
        ]  # fmt: skip
