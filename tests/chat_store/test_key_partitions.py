"""Partitions of idempotency keys: made ahead, dropped whole when no key in them counts."""

from __future__ import annotations

import psycopg
from psycopg import sql

from chat_svc.store.commit import CommitStatus
from tests.chat_store.world import World, uuid7

DAY_MS = 86_400_000


async def days(world: World) -> tuple[list[int], int]:
    """Days that have a partition, from today; and today."""
    ((today,),) = await world.ask("SELECT chat.now_ms() / 86400000")
    names = await world.ask(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'chat.idempotency_key'::regclass"
    )
    return sorted(int(name.rpartition("_")[2]) - today for (name,) in names), today


async def test_partitions_reach_from_31_days_ago_to_8_ahead(world: World) -> None:
    roll = world.store.nodes.roll_key_partitions
    await roll()
    assert (await days(world))[0] == list(range(-31, 9))
    assert await roll() == 0
    _, today = await days(world)
    # a day too old and a day that is missing: as if the loop had not run for two days
    ((low, high),) = await world.ask(
        "SELECT chat.uuid_floor(%s), chat.uuid_floor(%s)",
        (today - 32) * DAY_MS,
        (today - 31) * DAY_MS,
    )
    async with await psycopg.AsyncConnection.connect(world.url, autocommit=True) as connection:
        await connection.execute(
            sql.SQL("DROP TABLE chat.{}").format(sql.Identifier(f"idempotency_key_{today + 8}"))
        )
        await connection.execute(
            sql.SQL(
                "CREATE TABLE chat.{} PARTITION OF chat.idempotency_key"
                " FOR VALUES FROM ({}) TO ({})"
            ).format(sql.Identifier(f"idempotency_key_{today - 32}"), str(low), str(high))
        )
    assert (await days(world))[0] == list(range(-32, 8))
    assert await roll() == 2
    assert (await days(world))[0] == list(range(-31, 9))


async def test_the_oldest_and_the_latest_key_that_is_allowed_have_a_partition(
    world: World,
) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    ((now_ms,),) = await world.ask("SELECT chat.now_ms()")
    for at_ms in (now_ms - 30 * DAY_MS, now_ms + DAY_MS):
        row = world.row(one, conversation, key=uuid7(at_ms=at_ms))
        for wanted in (CommitStatus.ACCEPTED, CommitStatus.REPEATED):
            (outcome,) = await world.commit(row)
            assert outcome.status == wanted
            row.message_id = world.new_id()
