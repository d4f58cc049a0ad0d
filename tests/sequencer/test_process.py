"""Real processes on a real PostgreSQL: start without it, recovery, takeover, a clean stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import grpc
import psycopg
import pytest

from chatmesh.ids import DEFAULT_LAYOUT
from chatmesh.mesh.v1 import sequencer_pb2
from chatmesh.runtime.faults import from_rpc_error
from tests.runtime import stores
from tests.sequencer.processes import Client, Sequencers, expand
from tests.service_process import ServiceProcess


class Clients:
    """Callers that are closed with the test."""

    def __init__(self) -> None:
        self.all: list[Client] = []

    def of(self, sequencer: ServiceProcess, caller: str = "chat_svc") -> Client:
        """A caller of one process."""
        self.all.append(Client(sequencer, caller))
        return self.all[-1]


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    made = Clients()
    yield made
    for one in made.all:
        await one.close()


async def test_starts_without_postgresql_names_it_and_recovers(
    sequencers: Sequencers, clients: Clients, own_postgres: stores.Store
) -> None:
    own_postgres.stop()
    one = sequencers.start(own_postgres.url, sequencer_window_seconds="2")
    found = await one.wait_ready(ready=False)
    assert "postgresql" in found["missing"]
    client = clients.of(one)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.ids(1)
    fault = from_rpc_error(refused.value)
    assert (fault.code, fault.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_SERVING")
    assert "postgresql" in fault.message
    await asyncio.to_thread(own_postgres.start)
    await one.wait_ready()
    ids = await client.ids(100)
    # away again: ids until the window's end, then NOT_SERVING, then ids again
    own_postgres.stop()
    ids += await client.ids(100)
    found = await one.wait_ready(ready=False)
    assert "postgresql" in found["missing"]
    await asyncio.to_thread(own_postgres.start)
    await one.wait_ready()
    ids += await client.ids(100)
    assert len(set(ids)) == 300


async def test_two_processes_give_distinct_ids(
    sequencers: Sequencers, clients: Clients, database: stores.Store
) -> None:
    both = [sequencers.start(database.url) for _ in range(2)]
    for one in both:
        await one.wait_ready()
    callers = [clients.of(one) for one in both]
    # more than a millisecond holds: 4,096
    answers = await asyncio.gather(*(caller.ids(10_000) for caller in callers for _ in range(20)))
    ids = [value for answer in answers for value in answer]
    assert len(set(ids)) == 400_000
    assert {DEFAULT_LAYOUT.decode(value).worker for value in ids} == {0, 1}
    for answer in answers:
        assert answer == sorted(answer)


async def test_stopped_past_its_window_while_a_successor_takes_the_worker(
    sequencers: Sequencers, clients: Clients, database: stores.Store
) -> None:
    """SIGSTOP, the successor takes the very worker, SIGCONT: no duplicate leaves."""
    layout = {
        "sequencer_time_bits": "50",
        "sequencer_worker_bits": "1",
        "sequencer_sequence_bits": "12",
        "sequencer_window_seconds": "2",
    }
    first, second = (sequencers.start(database.url, **layout) for _ in range(2))
    for one in (first, second):
        await one.wait_ready()
    caller = clients.of(first)
    stream = caller.stream()
    ids: list[int] = []

    async def ask() -> None:
        """Ask for more than a window holds, until the stream ends."""
        for _ in range(3_000):
            await stream.write(sequencer_pb2.NextIdsRequest(request_id=1, count=10_000))

    async def hear() -> None:
        while (answer := await stream.read()) is not grpc.aio.EOF:
            ids.extend(expand(answer))

    asking, hearing = asyncio.create_task(ask()), asyncio.create_task(hear())
    first.process.send_signal(signal.SIGSTOP)
    third = sequencers.start(database.url, **layout)
    await third.wait_ready()  # both numbers were held: it waited for the stopped one's window
    successor = clients.of(third)
    after = [value for _ in range(20) for value in await successor.ids(10_000)]
    first.process.send_signal(signal.SIGCONT)
    await asyncio.wait((asking, hearing))
    for task in (asking, hearing):
        task.exception()  # the stream may end with NOT_SERVING: all numbers are held
    after += await successor.ids(10_000)
    assert len(set(ids)) == len(ids)
    assert len(set(after)) == len(after)
    assert not set(ids) & set(after)
    found = await first.wait_ready(ready=False)
    assert "all 2 worker numbers are taken" in found["missing"]["worker"]
    with pytest.raises(grpc.aio.AioRpcError) as crowded:
        await caller.ids(1)
    fault = from_rpc_error(crowded.value)
    assert (fault.code, fault.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_WORKER")
    await second.wait_ready()
    second.process.send_signal(signal.SIGTERM)
    await second.wait_end()
    await first.wait_ready()  # it takes the number that was given back
    after += await caller.ids(100)
    assert len(set(after)) == len(after)


async def test_a_clean_stop_gives_the_worker_back(
    sequencers: Sequencers, clients: Clients, database: stores.Store
) -> None:
    one = sequencers.start(database.url)
    await one.wait_ready()
    caller = clients.of(one)
    stream = caller.stream()
    await stream.write(sequencer_pb2.NextIdsRequest(count=10))
    ids = expand(await stream.read())
    one.process.send_signal(signal.SIGTERM)
    assert await one.wait_end() == 0, one.log()
    assert await stream.code() is grpc.StatusCode.OK  # told to leave, not cut
    with psycopg.connect(database.url) as connection:
        row = connection.execute(
            "SELECT holder, window_end_ms FROM sequencer.worker WHERE worker = 0"
        ).fetchone()
    assert row == (None, DEFAULT_LAYOUT.decode(ids[-1]).created_at_ms + 1)


async def test_two_crashes_in_a_row_cost_no_window(
    sequencers: Sequencers, clients: Clients, database: stores.Store
) -> None:
    """Who was killed keeps its number to the window's end; its successors take others at once."""
    ids: list[int] = []
    for life in range(3):
        one = sequencers.start(database.url, sequencer_window_seconds="600")
        await one.wait_ready()
        ids += await clients.of(one).ids(10_000)
        assert DEFAULT_LAYOUT.decode(ids[-1]).worker == life
        one.process.send_signal(signal.SIGKILL)
        await one.wait_end()
    assert len(set(ids)) == 30_000


async def test_a_second_process_with_the_same_fixed_worker_refuses_to_start(
    sequencers: Sequencers, clients: Clients, database: stores.Store
) -> None:
    fixed = {"sequencer_worker": "7", "sequencer_window_seconds": "2"}
    first = sequencers.start(database.url, **fixed)
    await first.wait_ready()
    second = sequencers.start(database.url, **fixed)
    assert await second.wait_end() == 1
    assert "worker 7 (CHATMESH_SEQUENCER_WORKER) is held by" in second.log()
    assert "Traceback" not in second.log()
    assert DEFAULT_LAYOUT.decode((await clients.of(first).ids(1))[0]).worker == 7


async def test_bad_counts_and_callers(
    sequencers: Sequencers, clients: Clients, database: stores.Store
) -> None:
    one = sequencers.start(database.url, sequencer_extra_callers='["billing_svc"]')
    await one.wait_ready()
    caller = clients.of(one)
    for count in (0, -1, 10_001):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await caller.ids(count)
        fault = from_rpc_error(refused.value)
        assert (fault.code, fault.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "COUNT_INVALID")
    # on the stream it is answered, and the stream goes on
    stream = caller.stream()
    for request_id, count in ((1, 0), (2, 2), (3, 10_001), (4, 10_000)):
        await stream.write(sequencer_pb2.NextIdsRequest(request_id=request_id, count=count))
    answers = [await stream.read() for _ in range(4)]
    assert [answer.request_id for answer in answers] == [1, 2, 3, 4]
    assert [answer.error_reason for answer in answers] == ["COUNT_INVALID", "", "COUNT_INVALID", ""]
    assert answers[0].error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert [len(expand(answer)) for answer in answers] == [0, 2, 0, 10_000]
    assert len(answers[3].ranges) <= 4  # compact
    await stream.done_writing()
    assert await stream.code() is grpc.StatusCode.OK
    assert len(await clients.of(one, "billing_svc").ids(1)) == 1
    with pytest.raises(grpc.aio.AioRpcError) as denied:
        await clients.of(one, "push_svc").ids(1)
    assert from_rpc_error(denied.value).reason == "CALLER_NOT_ALLOWED"


async def test_bad_settings_are_told_together(sequencers: Sequencers) -> None:
    one = sequencers.start(
        "", sequencer_worker_bits="3", sequencer_window_seconds="0", sequencer_extra_callers="x"
    )
    assert await one.wait_end() == 2
    log = one.log()
    assert "CHATMESH_SEQUENCER_WINDOW_SECONDS" in log
    assert "CHATMESH_SEQUENCER_EXTRA_CALLERS" in log
    other = sequencers.start("postgresql://nowhere/x", sequencer_worker_bits="3")
    assert await other.wait_end() == 2
    assert "must add up to 63" in other.log()
