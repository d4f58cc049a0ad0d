"""What a commit costs PostgreSQL: counted in rows, pages and plans, never in time."""

from __future__ import annotations

import json

import psycopg

from chat_svc.store.bundle import ROLE
from chat_svc.store.commit import CommitStatus, CommitStore
from chatmesh.cli.bench.commit import lines
from chatmesh.cli.bench.commit_run import CommitPlan, measure
from chatmesh.runtime.postgres import Lane
from tests.chat_store.conftest import Server
from tests.chat_store.world import World


async def test_updates_of_heads_stay_hot(world: World) -> None:
    users = await world.users(20)
    conversations = [await world.direct(a, b) for a, b in zip(users[::2], users[1::2], strict=True)]
    async with Lane(world.url, role_name=ROLE, name="counted") as lane:
        store = CommitStore(lane)
        for _ in range(150):
            await world.commit(
                *(world.row(users[2 * n], c) for n, c in enumerate(conversations)),
                *(world.row(users[2 * n + 1], c) for n, c in enumerate(conversations)),
                on=store,
            )
        await lane.execute("SELECT pg_stat_force_next_flush()")  # at the end of this statement
    ((updated, hot),) = await world.ask(
        "SELECT sum(n_tup_upd)::bigint, sum(n_tup_hot_upd)::bigint FROM pg_stat_user_tables"
        " WHERE schemaname = 'chat' AND relname IN ('timeline_head', 'conversation')"
    )
    assert updated >= 2_000
    assert hot >= 0.95 * updated


async def test_a_commit_reads_by_index_whatever_the_tables_hold(world: World) -> None:
    owner, *others = await world.users(30)
    group = await world.group(owner, *others)
    direct = await world.direct(owner, others[0])
    async with Lane(world.url, role_name=ROLE, name="fresh") as lane:
        store = CommitStore(lane)

        async def scans() -> int:
            await lane.execute("SELECT pg_stat_force_next_flush()")
            ((count,),) = await world.ask(
                "SELECT sum(seq_scan)::bigint FROM pg_stat_user_tables WHERE schemaname = 'chat'"
            )
            return int(count)

        before = await scans()
        await world.ask("SELECT 1")
        for n in range(12):
            rows = [world.row(owner, direct), world.row(others[0], group, mentions=[owner.id])]
            rows += [world.row(owner, group, target_seq=3)] if n else []
            outcomes = await world.commit(*rows, on=store)
            again = await world.commit(rows[0], on=store)
            one = await world.commit(world.row(owner, group, target_seq=3), on=store)
            await world.commit(*rows, done=[1, 2], on=store)
            assert {o.status for o in outcomes + one} == {CommitStatus.ACCEPTED}
            assert again[0].status == CommitStatus.REPEATED
        assert await scans() == before


async def test_a_group_of_the_greatest_size(world: World) -> None:
    owner, *others = await world.users(1_000)
    group = await world.group(owner, *others)
    outcomes = await world.commit(*(world.row(owner, group) for _ in range(4)))
    for n, outcome in enumerate(outcomes):
        assert outcome.conversation_seq == 3 + n
        assert len({r.account for r in outcome.recipients}) == 1_000
        assert {r.timeline_seq for r in outcome.recipients} == {3 + n}
    (alone,) = await world.commit(world.row(others[7], group))
    assert len(alone.recipients) == 1_000
    await world.assert_contiguous()


async def test_batches_are_cheaper_and_full_tables_not_dearer(server: Server) -> None:
    """What `chatmesh bench commit --json` says: directions, in counts that no machine changes."""
    outcome = await measure(
        server.owner_url, CommitPlan(batches=(1, 32), messages=320, growth=3_200, pairs=32)
    )
    said = json.loads(json.dumps(outcome.to_json()))
    # not bytes: a checkpoint meanwhile adds images of whole pages to whichever came after it
    assert 0 < said["wal_records_by_batch"]["32"] < said["wal_records_by_batch"]["1"], said
    for name in ("cost_us_by_batch", "pages_by_batch", "wal_bytes_by_batch"):
        assert set(said[name]) == {"1", "32"}
        assert min(said[name].values()) > 0
    assert said["grown_messages"] == 3_200
    assert 0 < said["growth_ratio"] < 1.5, said
    assert said["hot_update_ratio"] >= 0.95, said
    assert 0 <= said["lock_wait_share"] <= 1
    assert len(lines(outcome)) == 6
    with psycopg.connect(server.owner_url) as connection:
        cursor = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE '%bench%'")
        assert cursor.fetchall() == [], "the database of the measurement is gone"
