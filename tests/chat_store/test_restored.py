"""A database that was rewound: a dump, 50 messages more, the dump restored, 60 other messages."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql

from chat_svc.api.callers import Caller
from chat_svc.api.snapshot import Snapshots
from chat_svc.core.page_tokens import PageTokens
from chat_svc.store.accounts import AccountRow
from chat_svc.store.bundle import ROLE, ChatStore
from chat_svc.store.devices import START_OLDEST, OpenedSession
from chatmesh.embedded.binaries import postgres_programs
from chatmesh.runtime.clock import SystemClock
from chatmesh.runtime.postgres import Database, Lane
from chatmesh.v1.session_pb2 import GetSnapshotRequest
from tests.chat_store.conftest import Server
from tests.chat_store.world import NODE, World


def run(program: str, *arguments: str) -> None:
    done = subprocess.run(
        [postgres_programs().program(program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr


async def opened(
    world: World, account: AccountRow, device: str, cursor: tuple[int, int] | None
) -> OpenedSession:
    return await world.store.devices.open_session(
        account.id, device, 1, "", NODE, cursor, START_OLDEST
    )


async def say(world: World, sender: AccountRow, conversation: int, count: int) -> int:
    """Messages in batches; the id of the last."""
    last = 0
    for start in range(0, count, 10):
        outcomes = await world.commit(
            *(world.row(sender, conversation, f"{world.url} {start + n}") for n in range(10))
        )
        last = outcomes[-1].message_id
    return last


async def until_after(world: World, session: OpenedSession) -> None:
    """Until the second in which a session was opened is over: a restore takes longer, but not here.

    A session's number is the second of its opening and a count that the restore sets back.
    """
    began = "SELECT chat.now_ms() / 1000 - 1767225600 > %s"
    async with asyncio.timeout(30), await psycopg.AsyncConnection.connect(world.url) as connection:
        while True:
            cursor = await connection.execute(began, (session.session_no >> 24,))
            if (await cursor.fetchone() or (False,))[0]:
                return
            await connection.rollback()


async def test_devices_notice_and_converge(server: Server, world: World, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    kept = await say(world, one, conversation, 10)
    await opened(world, two, "ahead", None)
    run("pg_dump", "--format", "custom", "--file", str(dump), "--dbname", world.url)
    lost = await say(world, one, conversation, 50)
    late = await world.users(1)
    before = await opened(world, two, "ahead", (60, lost))
    assert (before.cursor_ok, before.head_seq) == (True, 60)

    url = server.url_of("restored")
    with psycopg.connect(server.owner_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE restored"))
    run("pg_restore", "--exit-on-error", "--dbname", url, str(dump))
    async with (
        Database(url, role_name=ROLE, max_size=4) as database,
        Lane(url, role_name=ROLE, name="restored") as lane,
    ):
        rewound = World(url, ChatStore.on(database, lane))
        rewound._ids = world._ids
        rewound._user_ids = world._user_ids
        # the head is behind what live sessions were sent: by now, and when others have written on
        cursors = [(two.id, 60, lost), (two.id, 10, kept), (two.id, 0, 0), (late[0].id, 0, 0)]
        for count in (0, 60):
            await say(rewound, one, conversation, count)
            assert await rewound.store.devices.match(cursors) == [False, True, True, False]
        refused = await opened(rewound, two, "ahead", (60, lost))
        assert (refused.cursor_ok, refused.head_seq) == (False, 70)
        # what the device had is void: the snapshot, then the tail
        who = Caller("default", world.name_of(two), two, "")
        tokens = PageTokens(b"k" * 32, SystemClock().wall_ms)
        page = await Snapshots(rewound.store, tokens).page(who, GetSnapshotRequest())
        assert page.conversations[0].last_message.content.text.body == f"{url} 59"
        await until_after(rewound, before)
        again = await opened(
            rewound, two, "ahead", (page.as_of.timeline_seq, page.as_of.message_id)
        )
        assert (again.cursor_ok, again.start_seq) == (True, 70)
        assert again.session_no > before.session_no, "older sessions are fenced, forgotten ones too"
        (tail,) = await rewound.commit(rewound.row(one, conversation, "tail"))
        read = await rewound.store.timeline.read_entries(two.id, again.start_seq, 9, 1 << 20)
        assert [row.message_id for row in read.rows] == [tail.message_id]
        # a device that was not ahead goes on as if nothing had been
        calm = await opened(rewound, two, "calm", (10, kept))
        assert (calm.cursor_ok, calm.start_seq) == (True, 10)
        await rewound.assert_contiguous()
