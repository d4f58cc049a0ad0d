"""Real processes: start without Redis, death of a node, an emptied store, several replicas."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from chatmesh.digest import mix_version
from chatmesh.mesh.v1 import presence_pb2 as pb
from chatmesh.runtime import redis
from chatmesh.v1 import types_pb2
from tests.presence.mesh import Caller, ChatNode, Presence, Refused, Watch
from tests.runtime import stores

ONLINE, AWAY, OFFLINE, UNSPECIFIED = (
    types_pb2.PRESENCE_STATE_ONLINE,
    types_pb2.PRESENCE_STATE_AWAY,
    types_pb2.PRESENCE_STATE_OFFLINE,
    types_pb2.PRESENCE_STATE_UNSPECIFIED,
)
LEASE_SECONDS = "8.5"
"""The shortest that is allowed: these tests wait for leases to end."""
ALICE, BOB, CAROL = 101, 202, 303
A, B = 11, 22

Start = Callable[..., Presence]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts replicas that end with the test."""
    started: list[Presence] = []

    def one(redis_url: str, **settings: str) -> Presence:
        presence = Presence(
            redis_url,
            **{
                "presence_lease_seconds": LEASE_SECONDS,
                "presence_debounce_seconds": "1",
                "presence_digest_seconds": "0.5",
                **settings,
            },
        )
        started.append(presence)
        return presence

    yield one
    for presence in started:
        await presence.end()


@pytest.fixture
async def store(valkey: stores.Store) -> stores.Store:
    """An empty Valkey."""
    await flush(valkey)
    return valkey


async def flush(store: stores.Store) -> None:
    """Lose everything."""
    client = redis.client(store.url)
    await client.flushall()
    await client.aclose()


async def warm(store: stores.Store) -> None:
    """Skip the warm-up of an empty start, which a test has no interest in."""
    client = redis.client(store.url)
    await client.delete("cm:p:{nodes}:warming")
    await client.aclose()


async def settled(presence: Presence, store: stores.Store) -> None:
    """Ready, and certain of its answers."""
    await presence.wait_ready()
    await warm(store)


async def test_starts_without_redis_names_it_and_recovers(start: Start) -> None:
    with stores.valkey() as own:
        own.stop()
        presence = start(own.url)
        await presence.wait_ready(False)
        caller = Caller(presence, "sync_svc")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await caller.lookup(ALICE)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "redis" in (refused.value.details() or "")
        await asyncio.to_thread(own.start)
        await presence.wait_ready()
        assert (await caller.lookup(ALICE)).unknown
        await asyncio.to_thread(own.stop)
        await presence.wait_ready(False)
        await asyncio.to_thread(own.start)
        await presence.wait_ready()
        await caller.lookup(ALICE)
        assert presence.process.poll() is None


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


async def test_attach_needs_a_lease(start: Start, store: stores.Store) -> None:
    presence = start(store.url)
    await settled(presence, store)
    node = ChatNode(presence, A)
    with pytest.raises(Refused, match="no lease") as refused:
        await node.attach((ALICE, "phone", 1))
    assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert (await node.beat()).lease_ms > 0


async def test_fencing_over_replicas(start: Start, store: stores.Store) -> None:
    """The device moved from A to B; what A says late, over another replica, changes nothing."""
    first, second = start(store.url), start(store.url)
    await settled(first, store)
    await settled(second, store)
    old, new = ChatNode(first, A), ChatNode(second, B)
    sync = Caller(first, "sync_svc")
    await old.beat()
    await new.beat()
    await old.attach((ALICE, "phone", 1))
    await new.attach((ALICE, "phone", 2))
    assert await old.attach((ALICE, "phone", 1)) == [(ALICE, "phone", 1)]
    await old.detach((ALICE, "phone", 1))
    assert await sync.routes(ALICE) == [(B, "phone", 2)]
    await new.detach((ALICE, "phone", 2))
    assert await new.attach((ALICE, "phone", 2)) == [(ALICE, "phone", 2)], "it has ended"
    assert await sync.routes(ALICE) == []
    assert not (await old.beat()).reattach
    assert not (await new.beat()).reattach


async def test_a_full_attach_replaces_what_was_known(start: Start, store: stores.Store) -> None:
    presence = start(store.url)
    await settled(presence, store)
    node, sync = ChatNode(presence, A), Caller(presence, "sync_svc")
    await node.beat()
    await node.attach((ALICE, "phone", 1), (BOB, "phone", 1))
    del node.sessions[ALICE, "phone"]  # the detach was lost
    node.sessions[CAROL, "phone"] = 7  # so was this attach
    assert not (await node.beat()).reattach
    assert (await node.beat()).reattach
    await node.attach_all()
    assert not (await node.beat()).reattach
    assert await sync.routes(ALICE) == []
    assert await sync.routes(CAROL) == [(A, "phone", 7)]


async def test_a_leaving_node_is_gone_at_once(start: Start, store: stores.Store) -> None:
    presence = start(store.url)
    await settled(presence, store)
    node, sync = ChatNode(presence, A), Caller(presence, "sync_svc")
    await node.beat()
    await node.attach((ALICE, "phone", 1))
    assert await sync.routes(ALICE) == [(A, "phone", 1)]
    await node.beat(leaving=True)
    assert await sync.routes(ALICE) == []


async def test_an_emptied_store_is_unknown_and_rebuilt(start: Start, store: stores.Store) -> None:
    presence = start(store.url)
    await settled(presence, store)
    node, sync = ChatNode(presence, A), Caller(presence, "sync_svc")
    watch = node.watch()
    await node.beat()
    async with node.alive():
        await node.attach((ALICE, "phone", 1))
        await watch.add(ALICE, BOB)
        generation = (await watch.wait_for(ALICE, ONLINE)).generation
        await watch.wait_for(BOB, OFFLINE)
        await flush(store)
        answer = await sync.lookup(BOB)
        assert answer.unknown, "nobody may be pushed because of this"
        await sync.wait_for(ALICE, online=True)
        assert (await sync.lookup(BOB)).unknown, "the warm-up goes on for one lease"
        answer = await sync.wait_for(BOB, online=False)
        assert not answer.unknown
        await node.attach((ALICE, "phone", 1), active=False)
        fact = await watch.wait_for(ALICE, AWAY)
        assert fact.generation != generation
        assert watch.states[ALICE] == [ONLINE, AWAY], "no flap was shown"
        assert watch.states[BOB] == [OFFLINE]


async def test_a_stopped_store_takes_nobody_offline(start: Start) -> None:
    """Redis stands still longer than the leases live, then goes on: unknown, never offline."""
    with stores.valkey() as own:
        presence = start(own.url)
        await settled(presence, own)
        node, sync = ChatNode(presence, A), Caller(presence, "sync_svc")
        watch = node.watch()
        await node.beat()
        await node.attach((ALICE, "phone", 1))
        await watch.add(ALICE)
        await watch.wait_for(ALICE, ONLINE)
        own.signal(signal.SIGSTOP)
        try:
            await presence.wait_ready(False)
            await asyncio.sleep(float(LEASE_SECONDS) + 0.5)
        finally:
            own.signal(signal.SIGCONT)
        await presence.wait_ready()
        answer = await sync.lookup(ALICE)
        assert (list(answer.accounts[0].routes), answer.unknown) == ([], True)
        back = ChatNode(presence, A)
        back.sessions = node.sessions
        assert (await back.beat()).reattach
        await back.attach_all()
        assert await sync.routes(ALICE) == [(A, "phone", 1)]
        watch.cancel()
        again = back.watch()
        await again.add(ALICE)
        await again.wait_for(ALICE, ONLINE)
        assert watch.states[ALICE] == [ONLINE]


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


async def test_bad_input_ends_its_own_stream_only(start: Start, store: stores.Store) -> None:
    presence = start(store.url)
    await settled(presence, store)
    good, bad = ChatNode(presence, A), ChatNode(presence, B)
    await good.beat()
    await bad.beat()
    await good.attach((ALICE, "phone", 1))
    for session in (
        (0, "phone", 1),
        (1 << 63, "phone", 1),
        (ALICE, "", 1),
        (ALICE, "a b", 1),
        (ALICE, "x" * 65, 1),
        (ALICE, "phone", 0),
        (ALICE, "phone", 1 << 53),
    ):
        with pytest.raises(Refused) as refused:
            await bad.attach(session)
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT, session
    sync = Caller(presence, "sync_svc")
    with pytest.raises(grpc.aio.AioRpcError) as too_many:
        await sync.lookup(*range(1, 10_002))
    assert too_many.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.aio.AioRpcError) as denied:
        await Caller(presence, "push_svc").stub.SetState(
            pb.SetStateRequest(account_id=ALICE), metadata=sync.metadata
        )
    assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert await sync.routes(ALICE) == [(A, "phone", 1)]
    await good.attach((BOB, "phone", 1))


async def test_lookups_by_stream_are_answered_in_order(start: Start, store: stores.Store) -> None:
    presence = start(store.url)
    await settled(presence, store)
    node, sync = ChatNode(presence, A), Caller(presence, "sync_svc")
    await node.beat()
    await node.attach(*((account, "phone", 1) for account in range(1, 2_001)))
    call = sync.stub.LookupSessionsStream(metadata=sync.metadata)
    for number in range(1, 6):
        await call.write(
            pb.LookupSessionsRequest(request_id=number, account_ids=range(number, 2_001, number))
        )
    for number in range(1, 6):
        answer = await call.read()
        assert isinstance(answer, pb.LookupSessionsResponse)
        assert answer.request_id == number
        assert [one.account_id for one in answer.accounts] == list(range(number, 2_001, number))
        assert all(one.routes for one in answer.accounts)
    call.cancel()


async def test_a_replica_dies_and_nothing_is_lost(start: Start, store: stores.Store) -> None:
    first, second = start(store.url), start(store.url)
    await settled(first, store)
    await settled(second, store)
    node = ChatNode(first, A)
    await node.beat()
    await node.attach((ALICE, "phone", 1))
    first.kill()
    moved = ChatNode(second, A)
    moved.sessions = node.sessions
    assert not (await moved.beat()).reattach, "no replica owns a node"
    assert await Caller(second, "sync_svc").routes(ALICE) == [(A, "phone", 1)]


async def test_stops_cleanly(start: Start, store: stores.Store) -> None:
    presence = start(store.url)
    await settled(presence, store)
    node = ChatNode(presence, A)
    watch = node.watch()
    await watch.add(ALICE)
    await watch.wait_for(ALICE, OFFLINE)
    presence.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0)
    watch.cancel()
    assert await asyncio.to_thread(presence.process.wait, 60) == 0
    assert "Traceback" not in presence.log()


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


def test_bad_settings_are_told(start: Start) -> None:
    presence = start("", presence_lease_seconds="3")
    assert presence.process.wait(60) == 2
    log = presence.log()
    assert "CHATMESH_REDIS_URL" in log
    assert "at least 8.5 s" in log
