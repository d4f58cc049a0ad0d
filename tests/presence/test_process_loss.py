"""Real processes: start without Redis, an emptied store, one that stands still."""

from __future__ import annotations

import asyncio
import signal

import grpc
import pytest

from tests.presence.mesh import Caller, ChatNode
from tests.presence.replicas import (
    ALICE,
    AWAY,
    BOB,
    LEASE_SECONDS,
    OFFLINE,
    ONLINE,
    A,
    Start,
    flush,
    settled,
)
from tests.runtime import stores
from tests.sequencer.clocks import clocks


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
    """Redis stands still longer than the leases live, then goes on: unknown, never offline.

    The leases end while it stands still because its clock is set forward, not by waiting.
    """
    with (
        clocks() as maker,
        stores.valkey(environment=(clock := maker.make("c")).environment) as own,
    ):
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
            clock.step(float(LEASE_SECONDS) + 0.5)
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
