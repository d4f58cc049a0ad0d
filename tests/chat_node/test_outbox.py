"""Rows wait to be settled, ride along, and are sent again; a lag never becomes a storm."""

import pytest

from chat_svc.node.outbox import (
    MAX_BATCHES_IN_FLIGHT,
    MAX_BYTES_IN_FLIGHT,
    RESEND_MARGIN_MS,
)
from chat_svc.store.outbox import OutboxRow
from chatmesh.digest import settle_digest
from chatmesh.mesh.v1.sync_pb2 import EnqueueRequest, EnqueueResponse, QueueLag
from chatmesh.runtime.postgres import LostConnection
from tests.chat_node import parts
from tests.chat_node.parts import ScriptedRows, StepClock

DIGEST = b"d" * 16
"""What is said of a batch whose hints these tests do not look into."""


def digest_of(batch_id: int) -> bytes:
    """settle_digest of `row`'s hints."""
    return settle_digest(batch_id, [(3, 6, False), (2, 5, True)])


def row(batch_id: int, attempt: int = 1) -> OutboxRow:
    return OutboxRow(batch_id, [2, 3], [5, 6], [50, 60], [True, False], attempt, 0)


class AwayRows(ScriptedRows):
    """A store that is away at first."""

    away = True

    async def due_rows(
        self, node_id: int, older_than_ms: int, limit: int, *, wait_ms: int
    ) -> list[OutboxRow]:
        if self.away:
            raise LostConnection("away", unknown_outcome=False)
        return await super().due_rows(node_id, older_than_ms, limit, wait_ms=wait_ms)


async def test_accepted_frames_are_not_sent_again_but_rows_wait_for_done() -> None:
    outbox = parts.outbox()
    outbox.enqueue(1, b"one", DIGEST)
    outbox.enqueue(2, b"two", DIGEST)
    outbox._on_answer(EnqueueResponse(accepted_batch_ids=[1]))
    assert [number for number, _ in outbox.stream.take_back()] == [2]
    assert outbox.unsettled == 2
    outbox.on_done([(1, DIGEST)])
    assert (outbox.unsettled, outbox.take_done(), outbox.take_done()) == (1, [1], [])


@pytest.mark.parametrize(
    "said",
    [b"", b"\0" * 16, settle_digest(1, []), settle_digest(1, [(2, 5, True)]), digest_of(2)],
    ids=["nothing", "anything", "no hints", "fewer hints", "those of another batch"],
)
async def test_a_batch_that_is_not_what_was_committed_settles_nothing(said: bytes) -> None:
    outbox = parts.outbox()
    outbox.enqueue(1, b"one", digest_of(1))
    outbox.on_done([(1, said)])
    assert (outbox.unsettled, outbox.take_done()) == (1, [])
    assert outbox._counters.done_refused == 1
    assert [number for number, _ in outbox.stream.take_back()] == [1], "it is still sent"
    outbox.on_done([(1, digest_of(1))])
    assert (outbox.unsettled, outbox.take_done()) == (0, [1])


async def test_a_row_read_again_may_be_settled_as_it_was_sent_first_or_as_it_is() -> None:
    for said in (DIGEST, digest_of(1)):
        rows = ScriptedRows()
        outbox = parts.outbox(rows)
        outbox.enqueue(1, b"with a hint more than the row", DIGEST)
        rows.due = [[row(1)]]
        await outbox.took_over()
        outbox.on_done([(1, said)])
        assert outbox.take_done() == [1]


async def test_done_rows_that_no_commit_took_are_deleted_alone() -> None:
    rows, clock = ScriptedRows(), StepClock()
    outbox = parts.outbox(rows, clock)
    outbox.enqueue(1, b"x", DIGEST)
    outbox.on_done([(1, DIGEST)])
    loop = await parts.running(outbox.flush_done)
    await parts.until(lambda: rows.deleted == [1])
    await parts.stop(loop)


async def test_what_a_failed_call_took_comes_back() -> None:
    outbox = parts.outbox()
    outbox.enqueue(1, b"x", DIGEST)
    outbox.on_done([(1, DIGEST)])
    outbox.give_back(outbox.take_done())
    assert outbox.take_done() == [1]


async def test_old_rows_are_read_and_sent_again_without_their_entries() -> None:
    rows, clock = ScriptedRows(), StepClock()
    outbox = parts.outbox(rows, clock)
    outbox.stream._call = object()  # type: ignore[assignment] # the stream is open
    outbox.enqueue(1, b"x", DIGEST)
    rows.due = [[row(1)]]
    loop = await parts.running(outbox.resend)
    await parts.until(lambda: rows.asked)
    await parts.stop(loop)
    assert clock.now - 1_000 >= RESEND_MARGIN_MS / 1_000
    ((number, frame),) = outbox.stream.take_back()
    (batch,) = EnqueueRequest.FromString(frame).batches
    assert (number, batch.batch_id, batch.attempt, batch.node_id) == (1, 1, 1, 7)
    assert [(h.account_id, h.timeline_seq, h.message_id, h.pushable) for h in batch.hints] == [
        (2, 5, 50, True),
        (3, 6, 60, False),
    ]
    assert not any(hint.entry for hint in batch.hints)


async def test_nothing_younger_than_the_queues_lag_is_sent_again() -> None:
    rows, clock = ScriptedRows(), StepClock()
    outbox = parts.outbox(rows, clock)
    outbox.stream._call = object()  # type: ignore[assignment] # the stream is open
    outbox._on_answer(EnqueueResponse(lag=[QueueLag(lag_ms=20_000)]))
    outbox.enqueue(1, b"x", DIGEST)
    loop = await parts.running(outbox.resend)
    await parts.until(lambda: rows.asked)
    await parts.stop(loop)
    assert clock.now - 1_000 >= 23
    assert set(rows.asked) == {23_000}
    assert set(rows.waits) == {23_000}


async def test_what_the_queue_took_is_not_sent_again_while_it_may_lie_there() -> None:
    """After an outage of the queue all rows are old: their age alone must not double them."""
    rows, clock = ScriptedRows(), StepClock()
    outbox = parts.outbox(rows, clock)
    outbox.enqueue(1, b"x", DIGEST)
    clock.now += 600
    lag = [QueueLag(lag_ms=7_000)]
    outbox._on_answer(EnqueueResponse(accepted_batch_ids=[1], lag=lag))
    for later, sent in ((9.9, []), (0.2, [1])):
        clock.now += later
        rows.due = [[row(1)]]
        await outbox.took_over()
        assert [number for number, _ in outbox.stream.take_back()] == sent
    assert outbox.unsettled == 1


async def test_rows_that_were_taken_over_go_at_once_and_then_wait_like_all() -> None:
    rows = ScriptedRows()
    outbox = parts.outbox(rows)
    rows.due = [[row(1)]]
    await outbox.took_over()
    assert (rows.asked, rows.waits) == ([0], [RESEND_MARGIN_MS])


async def test_no_more_rows_are_read_than_the_stream_takes() -> None:
    rows = ScriptedRows()
    outbox = parts.outbox(rows, max_rows=10_000)
    for number in range(MAX_BATCHES_IN_FLIGHT - 3):
        outbox.enqueue(number, b"", DIGEST)
    rows.due = [[row(5_001), row(5_002), row(5_003)], [row(5_004)]]
    await outbox.took_over()
    assert rows.limits == [3]
    assert len(rows.due) == 1, "those that find no room are not read, and do not wait longer"
    assert rows.given_back == []
    await outbox.took_over()
    assert rows.limits == [3], "a full stream reads nothing"


async def test_a_row_that_found_no_room_is_due_as_if_it_had_not_been_read() -> None:
    class Overtaken(ScriptedRows):
        """New batches take the room while the rows are read."""

        async def due_rows(
            self, node_id: int, older_than_ms: int, limit: int, *, wait_ms: int
        ) -> list[OutboxRow]:
            outbox.enqueue(4_999, b"", DIGEST)
            return await super().due_rows(node_id, older_than_ms, limit, wait_ms=wait_ms)

    rows = Overtaken()
    outbox = parts.outbox(rows, max_rows=10_000)
    for number in range(MAX_BATCHES_IN_FLIGHT - 2):
        outbox.enqueue(number, b"", DIGEST)
    rows.due = [[row(5_001), row(5_002)]]
    await outbox.took_over()
    assert rows.given_back == [5_002]
    assert outbox._counters.outbox_resends == 1


async def test_rows_of_an_unknown_outcome_are_looked_for() -> None:
    rows, clock = ScriptedRows(), StepClock()
    outbox = parts.outbox(rows, clock)
    outbox.stream._call = object()  # type: ignore[assignment] # the stream is open
    outbox.may_have_rows()
    rows.due = [[], [], [row(9)]]
    loop = await parts.running(outbox.resend)
    await parts.until(lambda: outbox.unsettled == 1)
    await parts.stop(loop)


async def test_the_look_for_such_rows_waits_for_stores_that_are_away_for_long() -> None:
    rows, clock = AwayRows(), StepClock()
    outbox = parts.outbox(rows, clock)
    outbox.may_have_rows()
    loop = await parts.running(outbox.resend)
    await parts.until(lambda: clock.now > 1_100)  # sync_svc is away
    outbox.stream._call = object()  # type: ignore[assignment] # the stream is open
    await parts.until(lambda: clock.now > 1_200)  # PostgreSQL is away
    rows.away, rows.due = False, [[], [], [row(9)]]
    await parts.until(lambda: outbox.unsettled == 1)
    await parts.until(lambda: clock.now > 1_300)
    outbox.on_done([(9, digest_of(9))])
    asked = len(rows.asked)
    await parts.until(lambda: clock.now > 1_400)
    await parts.stop(loop)
    assert len(rows.asked) == asked, "it ends when it was possible for long enough"


async def test_nothing_is_resent_while_the_stream_is_away() -> None:
    rows, clock = ScriptedRows(), StepClock()
    outbox = parts.outbox(rows, clock)
    outbox.enqueue(1, b"x", DIGEST)
    loop = await parts.running(outbox.resend)
    await parts.until(lambda: clock.now > 1_100)
    await parts.stop(loop)
    assert rows.asked == []


async def test_memory_is_bounded_while_the_stream_is_away() -> None:
    outbox = parts.outbox(max_rows=10_000)
    frame = b"x" * (1 << 20)
    for number in range(100):
        outbox.enqueue(number, frame, DIGEST)
    kept = sum(len(kept) for _, kept in outbox.stream.take_back())
    assert kept <= MAX_BYTES_IN_FLIGHT
    assert outbox.unsettled == 100, "the rows are in PostgreSQL and are sent from there"


@pytest.mark.parametrize(("rows", "full"), [(1, False), (2, True), (3, True)])
async def test_too_many_unsettled_rows_make_it_full(rows: int, full: bool) -> None:
    outbox = parts.outbox(max_rows=2)
    for number in range(rows):
        outbox.enqueue(number, b"", DIGEST)
    assert outbox.is_full is full
