"""Real processes: what a watching node is told, over replicas, and that nothing is missed."""

from __future__ import annotations

import asyncio
import signal
import time

import grpc
import pytest

from chatmesh.digest import mix_version
from chatmesh.mesh.v1 import presence_pb2 as pb
from chatmesh.runtime import redis
from chatmesh.v1 import types_pb2
from tests.presence.mesh import Caller, ChatNode, Watch
from tests.presence.replicas import ALICE, AWAY, BOB, OFFLINE, ONLINE, A, B, Start, settled
from tests.runtime import stores


async def test_login_is_told_and_a_killed_node_takes_its_users_offline(
    start: Start, store: stores.Store
) -> None:
    """Two replicas: the node talks to one, the watching node and sync to the other."""
    first, second = start(store.url), start(store.url)
    await settled(first, store)
    await settled(second, store)
    node, friend = ChatNode(first, A), ChatNode(second, B)
    sync = Caller(second, "sync_svc")
    watch = friend.watch()
    await watch.add(ALICE)
    async with friend.alive():
        assert (await watch.wait_for(ALICE, OFFLINE)).generation != 0
        await node.beat()
        async with node.alive():
            await node.attach((ALICE, "phone", 1))
            fact = await watch.wait_for(ALICE, ONLINE)
            assert list(fact.online_kinds) == [types_pb2.DEVICE_KIND_PHONE]
            assert await sync.routes(ALICE) == [(A, "phone", 1)]
            answer = await sync.lookup(ALICE, BOB)
            assert [one.account_id for one in answer.accounts] == [ALICE, BOB]
            assert [ref.target for ref in answer.nodes] == [node.ref.target]
            assert not answer.unknown
        died = time.monotonic()
        offline = await watch.wait_for(ALICE, OFFLINE)
        took = time.monotonic() - died
        answer = await sync.lookup(ALICE)
        assert (list(answer.accounts[0].routes), answer.unknown) == ([], False)
        assert offline.last_seen_ms > 0
        print(f"offline told {took:.2f} s after the node's death")


async def test_a_reconnect_shows_nothing_and_a_real_end_is_told(
    start: Start, store: stores.Store
) -> None:
    presence = start(store.url)
    await settled(presence, store)
    node = ChatNode(presence, A)
    watch = node.watch()
    await node.beat()
    await node.attach((ALICE, "phone", 1))
    await watch.add(ALICE)
    await watch.wait_for(ALICE, ONLINE)
    await node.detach((ALICE, "phone", 1))
    await node.attach((ALICE, "phone", 2))
    await node.attach((ALICE, "phone", 2), active=False)
    await watch.wait_for(ALICE, AWAY)
    await node.detach((ALICE, "phone", 2))
    await watch.wait_for(ALICE, OFFLINE)
    assert watch.states[ALICE] == [ONLINE, AWAY, OFFLINE]


async def test_the_digest_is_that_of_what_was_sent(start: Start, store: stores.Store) -> None:
    presence = start(store.url)
    await settled(presence, store)
    node = ChatNode(presence, A)
    watch = node.watch()
    await node.beat()
    await watch.add(ALICE, BOB)
    await watch.wait_for(BOB, OFFLINE)
    await node.attach((ALICE, "phone", 1))
    await watch.wait_for(ALICE, ONLINE)
    await until_digest(watch)
    await watch.remove(BOB)
    del watch.facts[BOB]
    await until_digest(watch)


async def until_digest(watch: Watch) -> None:
    """Read until a digest agrees with what was read; one may be under way that does not."""
    while True:
        if (await watch.read()).has_digest:
            wanted = 0
            for fact in watch.facts.values():
                wanted ^= mix_version(fact.account_id, fact.generation, fact.version)
            if watch.digests[-1] == wanted:
                return


async def test_lost_notices_are_found(start: Start, store: stores.Store) -> None:
    """The subscription of a replica is cut again and again; it still ends with the truth."""
    presence = start(store.url)
    await settled(presence, store)
    node = ChatNode(presence, A)
    watch = node.watch()
    await node.beat()
    await watch.add(ALICE)
    await watch.wait_for(ALICE, OFFLINE)
    client = redis.client(store.url)
    for number in range(1, 6):
        for one in await client.client_list(_type="pubsub"):
            await client.client_kill_filter(_id=one["id"])
        await node.attach((ALICE, "phone", number), active=number % 2 == 1)
        await watch.wait_for(ALICE, ONLINE if number % 2 else AWAY)
    await client.aclose()


async def test_wishes_and_their_checks(start: Start, store: stores.Store) -> None:
    presence = start(store.url)
    await settled(presence, store)
    node = ChatNode(presence, A)
    watch = node.watch()
    await node.beat()
    await node.attach((ALICE, "phone", 1))
    await watch.add(ALICE)
    await watch.wait_for(ALICE, ONLINE)
    until = int(time.time() * 1000) + 1_500
    await node.stub.SetState(
        pb.SetStateRequest(
            account_id=ALICE,
            state=types_pb2.PRESENCE_STATE_DO_NOT_DISTURB,
            status_text="at lunch",
            status_until_ms=until,
        ),
        metadata=node.metadata,
    )
    fact = await watch.wait_for(ALICE, types_pb2.PRESENCE_STATE_DO_NOT_DISTURB)
    assert fact.status_text == "at lunch"
    version = fact.version
    while watch.facts[ALICE].status_text:
        await watch.read()
    assert watch.facts[ALICE].version == version + 1, "the end of a text is a change like others"
    for bad in (
        pb.SetStateRequest(account_id=0, state=ONLINE),
        pb.SetStateRequest(account_id=ALICE, state=AWAY),
        pb.SetStateRequest(account_id=ALICE, state=99),  # type: ignore[arg-type]
        pb.SetStateRequest(account_id=ALICE, status_text="x" * 141),
        pb.SetStateRequest(account_id=ALICE, status_text="a\x1b[2Jb"),
        pb.SetStateRequest(account_id=ALICE, status_until_ms=-1),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await node.stub.SetState(bad, metadata=node.metadata)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_replica_that_leaves_sends_its_watchers_to_another(
    start: Start, store: stores.Store
) -> None:
    first, second = start(store.url), start(store.url)
    await settled(first, store)
    await settled(second, store)
    node, friend = ChatNode(second, A), ChatNode(first, B)
    await node.beat()
    async with node.alive(), friend.alive():
        await node.attach((ALICE, "phone", 1))
        watch = friend.watch()
        await watch.add(ALICE)
        before = await watch.wait_for(ALICE, ONLINE)
        first.process.send_signal(signal.SIGTERM)
        assert await watch.end() is grpc.StatusCode.OK, "told to leave, not cut"
        moved = ChatNode(second, B).watch()
        await moved.add(ALICE)
        after = await moved.wait_for(ALICE, ONLINE)
        assert (after.generation, after.version) == (before.generation, before.version)
        assert moved.states == {ALICE: [ONLINE]}, "nobody was shown offline"
        moved.cancel()
    assert await asyncio.to_thread(first.process.wait, 60) == 0
    assert "Traceback" not in first.log()
