"""`python -m sync_svc`: alone, killed at each step, told to stop. Real Valkey, recording peers."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from chatmesh.mesh.v1 import sync_pb2
from chatmesh.runtime.faults import from_rpc_error
from tests.runtime import stores
from tests.service_process import ServiceProcess
from tests.sync.peers import Node, Peers
from tests.sync.replica import Source, hint

BOB = 102


class Processes:
    """Starts replicas that end with the test."""

    def __init__(self) -> None:
        self.all: list[ServiceProcess] = []

    def start(self, redis_url: str, peers: Peers, failpoints: str = "") -> ServiceProcess:
        """One more."""
        settings = {
            "redis_url": redis_url,
            "presence_target": peers.presence.address,
            "push_target": peers.push.address,
            "sync_answer_seconds": "30",
        }
        made = ServiceProcess("sync_svc", settings, {"CHATMESH_FAILPOINTS": failpoints})
        self.all.append(made)
        return made


@pytest.fixture
def processes() -> Iterator[Processes]:
    made = Processes()
    yield made
    for one in made.all:
        one.end()


class Sources:
    """Enqueue streams to processes."""

    def __init__(self) -> None:
        self._open: list[tuple[Source, grpc.aio.Channel]] = []

    def to(self, process: ServiceProcess, node: Node) -> Source:
        """One more."""
        channel = grpc.aio.insecure_channel(
            process.address, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        source = Source(node, channel)
        self._open.append((source, channel))
        return source

    async def close(self) -> None:
        """Close all."""
        for source, channel in self._open:
            await source.close()
            await channel.close()


@pytest.fixture
async def sources() -> AsyncIterator[Sources]:
    made = Sources()
    yield made
    await made.close()


async def test_starts_without_its_peers_names_them_and_recovers(
    processes: Processes, sources: Sources, peers: Peers, own_valkey: stores.Store
) -> None:
    own_valkey.stop()
    await peers.presence.stop()
    await peers.push.stop()
    process = processes.start(own_valkey.url, peers)
    found = await process.wait_ready(ready=False)
    assert set(found["missing"]) == {"redis", "presence", "push"}
    sender, receiver = await peers.node(), await peers.node()
    refused = sources.to(process, sender)
    with pytest.raises(grpc.aio.AioRpcError) as answered:
        await refused.call.read()
    fault = from_rpc_error(answered.value)
    assert fault.reason == "NOT_SERVING"
    assert "redis" in fault.message
    # its state can be asked all the same
    status = await refused.stub.GetQueueStatus(
        sync_pb2.GetQueueStatusRequest(), metadata=refused.metadata
    )
    assert not status.redis_up
    own_valkey.start()
    await peers.presence.start()
    await peers.push.start()
    await process.wait_ready()
    peers.presence.online(BOB, receiver)
    source = sources.to(process, sender)
    await source.enqueue(source.batch(1, [hint(BOB, 1)]))
    await source.until_done(1)
    # a peer that goes away later does not make it refuse batches
    await peers.push.stop()
    await source.enqueue(source.batch(2, [hint(BOB, 2)]))
    await source.until_done(2)
    assert (await process.wait_ready())["ready"]


@pytest.mark.parametrize(
    "point", ["sync.read.after", "sync.lookup.after", "sync.deliver.before", "sync.settle.before"]
)
async def test_killed_at_each_step_the_resend_settles_it(
    processes: Processes, sources: Sources, peers: Peers, valkey: stores.Store, point: str
) -> None:
    sender, receiver = await peers.node(), await peers.node()
    peers.presence.online(BOB, receiver)
    doomed = processes.start(valkey.url, peers, f"{point}:kill")
    await doomed.wait_ready()
    source = sources.to(doomed, sender)
    await source.enqueue(source.batch(1, [hint(BOB, 1), hint(103, 2, pushable=True)]))
    assert await doomed.wait_end() == -signal.SIGKILL
    assert sender.done == []
    healthy = processes.start(valkey.url, peers)
    await healthy.wait_ready()
    again = sources.to(healthy, sender)
    batch = again.batch(1, [hint(BOB, 1), hint(103, 2, pushable=True)])
    batch.attempt = 1
    await again.enqueue(batch)
    await again.until_done(1)
    assert set(receiver.places()) == {(BOB, 1)}
    assert peers.push.of(103)


async def test_a_replica_killed_under_load_pauses_nobody_else(
    processes: Processes, sources: Sources, peers: Peers, valkey: stores.Store
) -> None:
    """What the dead one had read is sent again; what comes through the other needs no help."""
    sender, receiver = await peers.node(), await peers.node()
    peers.presence.online(BOB, receiver)
    doomed, other = (processes.start(valkey.url, peers) for _ in range(2))
    for one in (doomed, other):
        await one.wait_ready()
    first, second = sources.to(doomed, sender), sources.to(other, sender)
    for number in range(1, 101):
        source = first if number % 2 else second
        await source.enqueue(source.batch(number, [hint(BOB, number)]))
    await peers.presence.until(lambda: bool(peers.presence.asked))
    doomed.process.kill()
    await doomed.wait_end()
    late = range(101, 151)
    for number in late:
        await second.enqueue(second.batch(number, [hint(BOB, number)]))
    await second.until_done(late[-1])  # one stream, one reader, one receiver: those before, too
    lost = set(range(1, 151)) - set(sender.done)
    # Valkey may not have seen yet that the dead one's blocking read has nobody behind it
    assert len(lost & set(late)) <= 1, "the others need no help"
    for number in sorted(lost):
        again = second.batch(number, [hint(BOB, number)])
        again.attempt = 1
        await second.enqueue(again)
    await second.until_done(*range(1, 151))
    assert {seq for _, seq in receiver.places()} == set(range(1, 151))
    assert not peers.push.targets, "nobody online is pushed because of it"


async def test_a_clean_stop_ends_with_zero(
    processes: Processes, sources: Sources, peers: Peers, valkey: stores.Store
) -> None:
    sender, receiver = await peers.node(), await peers.node()
    peers.presence.online(BOB, receiver)
    process = processes.start(valkey.url, peers)
    await process.wait_ready()
    source = sources.to(process, sender)
    await source.enqueue(source.batch(1, [hint(BOB, 1)]))
    await source.until_accepted(1)
    process.process.send_signal(signal.SIGTERM)
    assert await process.wait_end() == 0, process.log()
    assert await source.call.code() is grpc.StatusCode.OK
    assert sender.done == [1]
    assert "Traceback" not in process.log()


async def test_only_chat_nodes_may_enqueue(
    processes: Processes, peers: Peers, valkey: stores.Store
) -> None:
    process = processes.start(valkey.url, peers)
    await process.wait_ready()
    async with grpc.aio.insecure_channel(process.address) as channel:
        stub = Source(await peers.node(), channel, caller="push_svc")
        with pytest.raises(grpc.aio.AioRpcError) as denied:
            await stub.call.read()
        assert from_rpc_error(denied.value).reason == "CALLER_NOT_ALLOWED"
        await stub.close()


async def test_bad_settings_are_told_together(processes: Processes) -> None:
    process = ServiceProcess("sync_svc", {"sync_streams": "0", "sync_memory_mib": "x"})
    processes.all.append(process)
    assert await process.wait_end() == 2
    log = process.log()
    for name in ("PRESENCE_TARGET", "PUSH_TARGET", "SYNC_STREAMS", "SYNC_MEMORY_MIB"):
        assert f"CHATMESH_{name}" in log
