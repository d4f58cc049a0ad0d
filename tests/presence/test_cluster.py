"""Presence on a Redis Cluster of three primaries: keys, scripts and notices over all shards."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio.cluster import ClusterNode

from chatmesh.runtime import redis
from chatmesh.v1 import types_pb2
from presence_svc.lease import LeaseTimes
from presence_svc.store.accounts import AccountStore, ToldWish
from presence_svc.store.nodes import NodeStore
from presence_svc.store.shards import Shards
from tests.presence.cluster import PRIMARIES, cluster
from tests.presence.mesh import Caller, ChatNode, Presence
from tests.presence.parts import KEEP_MS, NOW_MS, came, node, went

A = 11
ACCOUNTS = range(1, 1_001)


async def test_thousands_of_accounts_are_one_round_trip_per_shard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with cluster() as url:
        client = redis.client(url)
        accounts = AccountStore(Shards(client), keep_ms=KEEP_MS)
        await accounts.attach(A, [came(account, 1) for account in ACCOUNTS], NOW_MS)
        trips: list[str] = []
        pipeline, command = ClusterNode.execute_pipeline, ClusterNode.execute_command

        async def counted_pipeline(self: ClusterNode, commands: Any) -> Any:
            trips.append(self.name)
            return await pipeline(self, commands)

        async def counted_command(self: ClusterNode, *args: Any, **kwargs: Any) -> Any:
            trips.append(self.name)
            return await command(self, *args, **kwargs)

        monkeypatch.setattr(ClusterNode, "execute_pipeline", counted_pipeline)
        monkeypatch.setattr(ClusterNode, "execute_command", counted_command)
        accounts.know_nodes(frozenset((A,)))
        view = await accounts.read(range(1, 5_001))
        assert len(view.records) == 5_000
        assert len(trips) == len(set(trips)) == PRIMARIES, "leases and marks go along"
        monkeypatch.undo()
        await client.aclose()


async def test_the_store_spreads_over_all_shards() -> None:
    async with cluster() as url:
        client = redis.client(url)
        shards = Shards(client)
        accounts, nodes = AccountStore(shards, keep_ms=KEEP_MS), NodeStore(shards, LeaseTimes(10))
        await redis.check(client)
        await nodes.look()
        await nodes.beat(node(A))
        await accounts.attach(A, [came(account, 1) for account in ACCOUNTS], NOW_MS)
        assert (await nodes.beat(node(A)))[1].count == 1_000
        view = await accounts.read(ACCOUNTS)
        assert all(view.live_sessions(view.records[account]) for account in ACCOUNTS)
        assert (view.alive, view.warming) == (True, True)
        sizes = await client.dbsize(target_nodes="primaries")
        assert sizes > 1_000
        held = await nodes.held_by(A)
        assert {one.account_id for one in held} == set(ACCOUNTS)
        changed = await accounts.detach(A, held, NOW_MS, lapsed=True)
        assert changed == 1_000
        assert sum((await nodes.change_counts()).values()) > 100
        assert await accounts.detach(A, [went(1, 1)], NOW_MS) == 0
        await accounts.set_state(ToldWish(7, 4, "x", NOW_MS), NOW_MS)
        await accounts.end_statuses([7, 8], NOW_MS)
        await nodes.leave(A)
        assert (await nodes.look()).dead == (A,)
        assert await nodes.claim_reaping(A)
        assert await nodes.forget(A)
        await client.aclose()


async def test_replicas_tell_each_other_over_the_cluster() -> None:
    async with cluster() as url:
        first = Presence(url, presence_debounce_seconds="0.5")
        second = Presence(url, presence_debounce_seconds="0.5")
        try:
            await first.wait_ready()
            await second.wait_ready()
            chat, friend = ChatNode(first, A), ChatNode(second, 22)
            await chat.beat()
            watch = friend.watch()
            await watch.add(*ACCOUNTS)
            async with chat.alive():  # a busy machine may take longer than one lease
                await chat.attach(*((account, "phone", 1) for account in ACCOUNTS))
                for account in ACCOUNTS:
                    await watch.wait_for(account, types_pb2.PRESENCE_STATE_ONLINE)
                answer = await Caller(second, "sync_svc").lookup(*ACCOUNTS)
                assert all(one.routes for one in answer.accounts)
        finally:
            await first.end()
            await second.end()
