"""The queue on a real Valkey: loss, emptiness, fullness, replicas, lag, a clean stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import redis.asyncio
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from chatmesh.mesh.v1.sync_pb2 import GetQueueStatusRequest, GetQueueStatusResponse
from chatmesh.runtime import trace
from chatmesh.runtime.tally import TALLY, counting_task_factory
from chatmesh.runtime.trace import Tracer
from tests.runtime import stores
from tests.sync.peers import PATIENCE_SECONDS, Node, Peers
from tests.sync.replica import Replica, Replicas, Source, hint

BOB, CAROL = 102, 103


@pytest.fixture
async def client(valkey: stores.Store) -> AsyncIterator[Any]:
    """A client of the shared Valkey."""
    made = redis.asyncio.Redis.from_url(valkey.url, decode_responses=True)
    yield made
    await made.aclose()


async def status(source: Source) -> GetQueueStatusResponse:
    answer: GetQueueStatusResponse = await source.stub.GetQueueStatus(
        GetQueueStatusRequest(), metadata=source.metadata
    )
    return answer


async def online_bob(peers: Peers) -> tuple[Node, Node]:
    sender, receiver = await peers.node(), await peers.node()
    peers.presence.online(BOB, receiver)
    return sender, receiver


async def until_redis(replica: Replica, up: bool) -> None:
    """Return once the replica knows that Redis is up or away."""
    changed = asyncio.Event()
    replica.lifecycle.readiness.on_change(changed.set)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while replica.parts.redis_up.is_up is not up:
            changed.clear()
            await changed.wait()


async def test_redis_away_is_bridged_by_memory(
    replicas: Replicas, peers: Peers, own_valkey: stores.Store
) -> None:
    sender, receiver = await online_bob(peers)
    replica = await replicas.start(own_valkey.url)
    source = await replicas.source(replica, sender)
    await source.enqueue(source.batch(1, [hint(BOB, 1)]))
    await source.until_done(1)
    own_valkey.signal(signal.SIGKILL)
    own_valkey.stop()
    await source.enqueue(source.batch(2, [hint(BOB, 2)]))
    await source.until_accepted(2)
    await source.until_done(2)
    await until_redis(replica, False)
    assert not (await status(source)).redis_up
    assert replica.lifecycle.readiness.is_ready  # it still takes batches
    await asyncio.to_thread(own_valkey.start)
    await until_redis(replica, True)
    await source.enqueue(source.batch(3, [hint(BOB, 3)]))
    await source.until_done(3)
    assert receiver.places() == [(BOB, 1), (BOB, 2), (BOB, 3)]


async def test_redis_that_hangs_is_bridged_by_memory(
    replicas: Replicas, peers: Peers, own_valkey: stores.Store
) -> None:
    sender, _ = await online_bob(peers)
    replica = await replicas.start(own_valkey.url)
    source = await replicas.source(replica, sender)
    own_valkey.signal(signal.SIGSTOP)
    try:
        await source.enqueue(source.batch(1, [hint(BOB, 1)]))
        await source.until_done(1)
    finally:
        own_valkey.signal(signal.SIGCONT)
    await until_redis(replica, True)
    await source.enqueue(source.batch(2, [hint(BOB, 2)]))
    await source.until_done(2)


async def test_emptied_redis_gets_its_groups_back(
    replicas: Replicas, peers: Peers, valkey: stores.Store, client: Any
) -> None:
    sender, receiver = await online_bob(peers)
    source = await replicas.source(await replicas.start(valkey.url), sender)
    for number in range(1, 6):
        await client.flushall()
        await source.enqueue(source.batch(number, [hint(BOB, number)]))
        await source.until_accepted(number)
        if (BOB, number) not in receiver.places():  # flushed again before it was read: sent again
            await source.enqueue(source.batch(number, [hint(BOB, number)]))
        await source.until_done(number)


async def test_what_lies_in_a_stream_without_a_group_is_read(
    replicas: Replicas, peers: Peers, valkey: stores.Store, client: Any
) -> None:
    sender, _ = await online_bob(peers)
    replica = await replicas.start(valkey.url)
    source = await replicas.source(replica, sender)
    await replica.stop()
    batch = source.batch(1, [hint(BOB, 1)])
    for key in replica.parts.readers[0]._keys:
        await client.delete(key)
    await client.xadd(replica.parts.readers[0]._keys[0], {b"b": batch.SerializeToString()})
    await replicas.start(valkey.url)
    await source.until_done(1)


async def test_a_full_redis_is_bridged_by_memory(
    replicas: Replicas, peers: Peers, own_valkey: stores.Store
) -> None:
    sender, _ = await online_bob(peers)
    replica = await replicas.start(own_valkey.url)
    source = await replicas.source(replica, sender)
    client = redis.asyncio.Redis.from_url(own_valkey.url)
    await client.config_set("maxmemory", "1")
    await source.enqueue(source.batch(1, [hint(BOB, 1)]), source.batch(2, [hint(BOB, 2)]))
    await source.until_done(1, 2)
    assert replica.parts.redis_up.is_up
    await source.enqueue(source.batch(3, [hint(BOB, 3)]))
    await source.until_done(3)
    await client.aclose()


async def test_a_redis_that_may_evict_is_refused(
    replicas: Replicas, own_valkey: stores.Store
) -> None:
    client = redis.asyncio.Redis.from_url(own_valkey.url)
    await client.config_set("maxmemory-policy", "allkeys-lru")
    replica = await replicas.start(own_valkey.url, ready=False)
    readiness = replica.lifecycle.readiness
    changed = asyncio.Event()
    readiness.on_change(changed.set)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while "noeviction" not in readiness.missing()["redis"]:
            changed.clear()
            await changed.wait()
        await client.config_set("maxmemory-policy", "noeviction")
        await readiness.wait_ready()
    await client.aclose()


async def test_memory_full_refuses_and_the_node_sends_again(
    replicas: Replicas, peers: Peers, own_valkey: stores.Store
) -> None:
    sender, _ = await online_bob(peers)
    replica = await replicas.start(own_valkey.url, sync_memory_mib=8)
    source = await replicas.source(replica, sender)
    await peers.presence.stop()
    own_valkey.signal(signal.SIGKILL)
    own_valkey.stop()
    entry = b"x" * 1_000_000
    for number in range(1, 7):
        await source.enqueue(source.batch(number, [hint(BOB, number, entry=entry)]))
    await source.enqueue(source.batch(0))  # answered after the others
    await source.until_accepted(1, 2)
    await peers.presence.start()
    await asyncio.to_thread(own_valkey.start)
    await until_redis(replica, True)
    lost = [number for number in range(1, 7) if number not in source.accepted]
    for number in lost:
        await source.enqueue(source.batch(number, [hint(BOB, number)]))
    await source.until_done(*range(1, 7))


async def test_replicas_share_the_work_and_come_and_go(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, receiver = await online_bob(peers)
    first = await replicas.start(valkey.url)
    second = await replicas.start(valkey.url)
    source = await replicas.source(first, sender)
    for number in range(1, 201):
        await source.enqueue(source.batch(number, [hint(BOB, number)]))
    await source.until_done(*range(1, 201))
    assert sorted(receiver.places()) == [(BOB, number) for number in range(1, 201)]  # each once
    await second.stop()
    third = await replicas.start(valkey.url)
    for number in range(201, 301):
        await source.enqueue(source.batch(number, [hint(BOB, number)]))
    await source.until_done(*range(201, 301))
    assert third.lifecycle.readiness.is_ready
    assert receiver.streams >= 2


async def test_one_command_and_one_frame_a_batch_at_most(
    replicas: Replicas, peers: Peers, valkey: stores.Store, client: Any
) -> None:
    sender, receiver = await online_bob(peers)
    source = await replicas.source(await replicas.start(valkey.url), sender)
    await source.enqueue(source.batch(1_000, [hint(BOB, 1)]))  # opens the streams to both nodes
    await source.until_done(1_000)
    await client.config_resetstat()
    for node in (sender, receiver):
        node.frames = 0
        node.hints.clear()
    peers.presence.asked.clear()
    batches = [
        source.batch(number, [hint(BOB, 10 * number + at) for at in range(10)])
        for number in range(1, 51)
    ]
    loop = asyncio.get_running_loop()
    loop.set_task_factory(counting_task_factory)
    tasks_before = TALLY.tasks
    try:
        await source.enqueue(*batches)
        await source.until_done(*range(1, 51))
    finally:
        loop.set_task_factory(None)
    tasks = TALLY.tasks - tasks_before
    calls = {
        name.removeprefix("cmdstat_"): found["calls"]
        for name, found in (await client.info("commandstats")).items()
    }
    assert calls["xadd"] == 50
    assert len(receiver.hints) == 500
    assert receiver.frames <= 50
    assert len(peers.presence.asked) <= 50
    assert sender.frames <= 50
    assert tasks <= 5, "tasks belong to streams, not to batches or messages"


async def test_what_was_read_is_cut_off_and_the_state_is_told(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, _ = await online_bob(peers)
    replica = await replicas.start(valkey.url)
    source = await replicas.source(replica, sender)
    for number in range(1, 101):
        await source.enqueue(source.batch(number, [hint(BOB, number)]))
    await source.until_done(*range(1, 101))
    await replica.parts.lag.look()
    found = await status(source)
    assert found.redis_up
    assert len(found.streams) == 4
    assert sum(stream.length for stream in found.streams) == 0
    assert [stream.unread for stream in found.streams] == [0, 0, 0, 0]
    assert found.in_memory == 0


async def test_lag_covers_redis_and_memory(
    replicas: Replicas, peers: Peers, valkey: stores.Store, client: Any
) -> None:
    sender, _ = await online_bob(peers)
    replica = await replicas.start(valkey.url)
    source = await replicas.source(replica, sender)
    await replica.parts.lag.look()
    assert replica.parts.lag.lag_ms == 0
    # held in memory: presence does not answer
    peers.presence.answering.clear()
    now_ms = replica.parts.worker._clock.wall_ms()
    batch = source.batch(1, [hint(BOB, 1)])
    batch.enqueued_at_ms = now_ms - 7_000
    await client.xadd(replica.parts.readers[0]._keys[0], {b"b": batch.SerializeToString()})
    await peers.presence.until(lambda: bool(peers.presence.asked))
    await replica.parts.lag.look()
    assert replica.parts.lag.lag_ms >= 7_000
    assert (await status(source)).in_memory == 1
    # what a node kept for an hour while nobody took it is no lag of the queue
    kept = source.batch(2, [hint(BOB, 2)])
    kept.enqueued_at_ms = now_ms - 3_600_000
    await source.enqueue(kept)
    await source.until_accepted(2)
    await replica.parts.lag.look()
    assert replica.parts.lag.lag_ms < 3_600_000
    peers.presence.answering.set()
    await source.until_done(1, 2)
    await replica.parts.lag.look()
    assert replica.parts.lag.lag_ms == 0
    # unread in Redis: an entry of a minute ago that no reader has taken
    key = "{sync:0}:hints"
    await replica.stop()
    seconds, _micros = await client.time()
    await client.delete(key)
    await client.xadd(key, {b"b": b""}, id=f"{(seconds - 60) * 1000}-1")
    await client.xgroup_create(key, "sync", id="0")
    [state, *_] = await replica.parts.lag._queue.look()
    assert state.unread == 1
    assert 59_000 <= state.lag_ms <= 120_000


async def test_a_clean_stop_finishes_what_was_taken(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    sender, receiver = await online_bob(peers)
    receiver.answering.clear()
    replica = await replicas.start(valkey.url)
    source = await replicas.source(replica, sender)
    await source.enqueue(
        source.batch(1, [hint(BOB, 1), hint(CAROL, 2, pushable=True)]),
    )
    await receiver.until(lambda: bool(receiver.hints))
    stopping = asyncio.create_task(replica.stop())
    assert await source.call.code() is grpc.StatusCode.OK  # told to leave
    assert not stopping.done()
    receiver.answering.set()
    await stopping
    assert sender.done == [1]
    assert [target.account_id for target in peers.push.targets] == [CAROL]


class Spans(SpanProcessor):
    """Keeps what was recorded."""

    def __init__(self) -> None:
        self.all: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """One more."""
        self.all.append(span)


async def test_hops_are_recorded_for_sampled_hints_only(
    replicas: Replicas, peers: Peers, valkey: stores.Store
) -> None:
    spans = Spans()
    sender, _ = await online_bob(peers)
    replica = await replicas.start(valkey.url, tracer=Tracer("sync_svc", [spans]))
    source = await replicas.source(replica, sender)
    sampled, other = trace.new_root(True), trace.new_root(False)
    batch = source.batch(
        1,
        [
            hint(BOB, 1, trace_context=sampled),
            hint(BOB, 2, trace_context=other),
            hint(BOB, 3),
        ],
    )
    batch.enqueued_at_ms = replica.parts.worker._clock.wall_ms()
    await source.enqueue(batch)
    await source.until_done(1)
    assert sorted(span.name for span in spans.all) == [
        "sync.deliver",
        "sync.enqueue",
        "sync.lookup",
        "sync.queue",
    ]
    trace_id = int.from_bytes(sampled[:16], "big")
    for span in spans.all:
        assert span.context is not None
        assert span.context.trace_id == trace_id
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time <= span.end_time
