"""Leases of nodes, and the rows that a dead one leaves."""

from __future__ import annotations

from chat_svc.store.devices import START_OLDEST
from tests.chat_store.world import World

ALWAYS_MS = 1 << 62


async def test_a_lease_ends_and_is_taken_once(world: World) -> None:
    nodes = world.store.nodes
    dead = await nodes.start_node("a", "127.0.0.1:1", 0)
    live = await nodes.start_node("a", "127.0.0.1:2", 60_000)
    assert live > dead
    assert await nodes.targets([dead, live, 987]) == {live: "127.0.0.1:2"}
    await world.ask("SELECT pg_sleep(0.005)")  # PostgreSQL's clock passes the lease
    assert await nodes.renew(dead, 0)  # over, but nobody took it
    await world.ask("SELECT pg_sleep(0.005)")
    ((now_ms,),) = await world.ask("SELECT chat.now_ms()")
    assert await nodes.take_expired(now_ms - 1) == [], "the call was long under way"
    assert await nodes.take_expired(ALWAYS_MS) == [dead]
    assert await nodes.take_expired(ALWAYS_MS) == []
    assert await nodes.take_expired(ALWAYS_MS, again_after_ms=-1) == [dead]
    assert not await nodes.renew(dead, 60_000)
    assert await nodes.renew(live, 60_000) >= now_ms + 60_000
    await nodes.leave(live)
    assert live in await nodes.take_expired(ALWAYS_MS)


async def test_a_dead_nodes_devices_and_rows_are_handed_over(world: World) -> None:
    one, two, three = await world.users(3)
    conversation = await world.direct(one, two)
    nodes, outbox = world.store.nodes, world.store.outbox
    dead = await nodes.start_node("a", "127.0.0.1:1", 0)
    heir = await nodes.start_node("b", "127.0.0.1:2", 60_000)
    for account, device in ((two, "x"), (two, "y"), (three, "z")):
        await world.store.devices.open_session(account.id, device, 1, "", dead, None, START_OLDEST)
    batch = world.new_id()
    await world.store.commit.commit(
        [world.row(one, conversation)], batch_id=batch, node_id=dead, done=[]
    )
    await world.ask("SELECT pg_sleep(0.005)")
    assert dead in await nodes.take_expired(ALWAYS_MS)
    first = await nodes.stranded_devices(dead, (0, ""), 2)
    last = first[-1]
    rest = await nodes.stranded_devices(dead, (last.account, last.device_id), 2)
    found = [(d.account, d.device_id, d.acked_seq, d.notify_seq) for d in first + rest]
    assert found == [(two.id, "x", 0, 1), (two.id, "y", 0, 1), (three.id, "z", 0, 0)]
    # a newer session of one of them has begun meanwhile
    await world.store.devices.open_session(two.id, "y", 1, "", heir, None, START_OLDEST)
    await nodes.release_devices(first + rest)
    assert await nodes.stranded_devices(dead, (0, ""), 9) == []
    assert [d.device_id for d in await nodes.stranded_devices(heir, (0, ""), 9)] == ["y"]

    assert not await nodes.remove_node(dead)
    assert await outbox.take_over(heir, [dead], 10) == 1
    assert (await outbox.count(dead), await outbox.count(heir)) == (0, 1)
    assert await nodes.remove_node(dead)
    assert [row.batch_id for row in await outbox.due_rows(heir, 1, 10, wait_ms=3_000)] == [batch]


async def test_due_rows_come_once_and_later_each_time(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.store.devices.open_session(two.id, "x", 1, "", 5, None, START_OLDEST)
    batches = [world.new_id() for _ in range(3)]
    outcomes = []
    for batch in batches:
        outcomes += await world.store.commit.commit(
            [world.row(one, conversation)], batch_id=batch, node_id=5, done=[]
        )
    outbox = world.store.outbox
    assert await outbox.due_rows(5, 3_600_000, 10, wait_ms=3_000) == []
    assert await outbox.due_rows(6, 0, 10, wait_ms=3_000) == []
    await world.ask("UPDATE chat.outbox SET created_at_ms = 0, next_at_ms = 0 WHERE node = 5")
    assert await outbox.oldest_age_ms(5) > 0
    rows = await outbox.due_rows(5, 3_000, 2, wait_ms=3_000)
    assert [(row.batch_id, row.attempt) for row in rows] == [(b, 1) for b in batches[:2]]
    assert rows[0].accounts == [two.id]
    assert (rows[0].seqs, rows[0].message_ids) == ([1], [outcomes[0].message_id])
    assert rows[0].pushable == [False]
    assert [row.batch_id for row in await outbox.due_rows(5, 3_000, 10, wait_ms=3_000)] == [
        batches[2]
    ]
    assert await outbox.due_rows(5, 3_000, 10, wait_ms=3_000) == []
    waits = await world.ask("SELECT next_at_ms - chat.now_ms() FROM chat.outbox WHERE node = 5")
    assert all(0 < wait <= 3_000 for (wait,) in waits)
    await world.ask("UPDATE chat.outbox SET attempt = 40, next_at_ms = 0 WHERE node = 5")
    assert len(await outbox.due_rows(5, 3_000, 10, wait_ms=3_000)) == 3
    waits = await world.ask("SELECT next_at_ms - chat.now_ms() FROM chat.outbox WHERE node = 5")
    assert all(30_000 < wait <= 60_000 for (wait,) in waits)
    # behind a queue that is minutes late a row must not come back every minute
    await world.ask("UPDATE chat.outbox SET attempt = 0, next_at_ms = 0 WHERE node = 5")
    assert len(await outbox.due_rows(5, 0, 10, wait_ms=600_000)) == 3
    waits = await world.ask("SELECT next_at_ms - chat.now_ms() FROM chat.outbox WHERE node = 5")
    assert all(300_000 < wait <= 600_000 for (wait,) in waits)
    # two of them found no room: due again, as if they had not been read
    await outbox.not_sent(5, batches[:2])
    await outbox.not_sent(6, batches[2:])
    again = await outbox.due_rows(5, 0, 10, wait_ms=3_000)
    assert [(row.batch_id, row.attempt) for row in again] == [(b, 1) for b in batches[:2]]
    assert await outbox.delete_done(batches[:2]) == 2
    assert await outbox.count(5) == 1
    assert await outbox.oldest_age_ms(987) == 0


async def test_what_a_removed_node_left_after_all_is_found(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    nodes, outbox = world.store.nodes, world.store.outbox
    live = await nodes.start_node("a", "127.0.0.1:1", 60_000)
    rows_only, device_only = live + 1_000_000, live + 2_000_000
    open_session = world.store.devices.open_session
    await open_session(two.id, "x", 1, "", live, None, START_OLDEST)
    for node in (rows_only, live):
        row = world.row(one, conversation)
        batch = world.new_id()
        await world.store.commit.commit([row], batch_id=batch, node_id=node, done=[])
    await open_session(one.id, "y", 1, "", device_only, None, START_OLDEST)
    found = await nodes.orphaned_nodes(1_000)
    assert found == sorted(set(found))
    assert {rows_only, device_only} <= set(found)
    assert live not in found
    assert await outbox.take_over(live, [rows_only], 10) == 1
    await nodes.release_devices(await nodes.stranded_devices(device_only, (0, ""), 10))
    assert not {rows_only, device_only} & set(await nodes.orphaned_nodes(1_000))


async def test_nodes_say_how_many_sessions_they_have(world: World) -> None:
    nodes = world.store.nodes
    before, others = await nodes.share(0, 5)  # no such node: only asks
    one = await nodes.start_node("a", "127.0.0.1:1", 60_000)
    two = await nodes.start_node("b", "127.0.0.1:2", 60_000)
    assert await nodes.share(one, 30) == (before + 2, others + 30)
    assert await nodes.share(two, 5) == (before + 2, others + 35)
    assert await nodes.share(one, 7) == (before + 2, others + 12)
    await nodes.leave(one)
    assert await nodes.share(two, 5) == (before + 1, others + 5), "who left has no share"
    await nodes.leave(two)
