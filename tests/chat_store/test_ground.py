"""What a node's stores are opened with."""

from __future__ import annotations

from contextlib import AsyncExitStack

import psycopg
import pytest
from pydantic import SecretStr

from chat_svc.assembly import lay_ground
from chat_svc.settings import ChatSettings
from chat_svc.store import calls
from chatmesh.runtime.lifecycle import Lifecycle
from chatmesh.runtime.trace import Tracer
from tests.chat_store.world import World

NOWHERE = "127.0.0.1:1"


async def test_no_statement_waits_for_a_lock_for_ever(world: World) -> None:
    settings = ChatSettings(
        postgres_url=SecretStr(world.url),
        hint_key=SecretStr("a key of the hints' digests"),
        embedded=True,
        dev_secret=SecretStr("a secret of 32 characters or more"),
        public_listen="127.0.0.1:0",
        mesh_listen="127.0.0.1:0",
        sequencer_target=NOWHERE,
        presence_target=NOWHERE,
        sync_target=NOWHERE,
        push_target=NOWHERE,
    )
    (account,) = await world.users(1)
    async with (
        AsyncExitStack() as stack,
        await psycopg.AsyncConnection.connect(world.url) as other,
    ):
        ground = await lay_ground(settings, Lifecycle(1), Tracer("test"), stack)
        pools = (ground.database, ground.call_store.nodes._database)
        assert pools[0] is not pools[1]
        for pool in pools:
            assert await calls.row(pool, "SHOW lock_timeout") == ("5s",)
        for lane, said in ((ground.lane, "250ms"), (ground.waiting_lane, "100ms")):
            assert await lane.execute("SHOW lock_timeout") == [(said,)]
        await other.execute(
            "SELECT FROM chat.timeline_head WHERE account = %s FOR UPDATE", (account.id,)
        )
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await calls.change(
                ground.database,
                "UPDATE chat.timeline_head SET devices = devices WHERE account = %s",
                (account.id,),
            )
