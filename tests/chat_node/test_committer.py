"""Each message is answered exactly once, whatever happens to the commit."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import psycopg
import pytest

from chat_svc.core.batch import Chain
from chat_svc.core.entry_bytes import entry_bytes
from chat_svc.node import handover
from chat_svc.node.commit_runner import BatchIds, CommitRunner
from chat_svc.node.committer import Committer
from chat_svc.node.counters import NodeCounters
from chat_svc.node.handover import Handover
from chat_svc.node.hints import NodeAddress
from chat_svc.node.id_blocks import IdBlocks
from chat_svc.node.outbox import Outbox
from chat_svc.node.resolver import Resolver
from chat_svc.node.sessions import Sessions
from chat_svc.node.waiting_lane import WaitingLane
from chat_svc.store.commit import CommitRow, CommitStatus
from chat_svc.store.conversations import ConversationRow
from chatmesh.digest import settle_digest
from chatmesh.mesh.v1.sequencer_pb2 import IdRange, NextIdsRequest, NextIdsResponse
from chatmesh.mesh.v1.sync_pb2 import EnqueueRequest
from chatmesh.runtime import failpoints
from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.postgres import LostConnection
from chatmesh.runtime.trace import Tracer
from tests.chat_node import parts
from tests.chat_node.parts import Answers, ScriptedAccounts, ScriptedCommit, StepClock


class Ids:
    """A sequencer that always answers."""

    def __init__(self) -> None:
        self.next = 1_000

    async def call(self, request: NextIdsRequest, *, timeout_seconds: float) -> NextIdsResponse:
        first, self.next = self.next, self.next + request.count
        return NextIdsResponse(ranges=[IdRange(first=first, count=request.count)])


class Lease:
    """Holds."""

    async def wait_valid(self) -> None:
        """At once."""


@dataclass
class Bench:
    """A committer with everything around it."""

    commit: ScriptedCommit
    second: ScriptedCommit
    accounts: ScriptedAccounts
    conversations: parts.ScriptedConversations
    outbox: Outbox
    waiting: WaitingLane
    committer: Committer
    counters: NodeCounters


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    clock, counters, tracer = StepClock(), NodeCounters(), Tracer("test")
    address = NodeAddress("n", "127.0.0.1:1", 7)
    commit, second = ScriptedCommit(), ScriptedCommit()
    second.keys, second.conversations = commit.keys, commit.conversations
    second.timelines = commit.timelines
    accounts, conversations = ScriptedAccounts(), parts.ScriptedConversations()
    ids = IdBlocks(Ids(), clock, counters)
    outbox = parts.outbox(clock=clock)
    resolver = Resolver(
        accounts,  # type: ignore[arg-type] # only what the resolver uses
        conversations,  # type: ignore[arg-type]
        ids.new_ids,
        makes_unknown=False,
        makes_contacts=True,
    )
    handing = Handover(
        Sessions(), outbox, parts.signer(), resolver, address, clock, counters, tracer
    )
    batch_ids = BatchIds(address)

    def runner(call: ScriptedCommit) -> CommitRunner:
        return CommitRunner(
            call, call, address, batch_ids, outbox, handing, clock, counters, tracer
        )

    waiting = WaitingLane(runner(second), ids, clock)
    committer = Committer(
        runner(commit), waiting, resolver, ids, outbox, handing, Lease(), clock, tracer, 4_000
    )
    loops = [await parts.running(committer.run), await parts.running(waiting.run)]
    yield Bench(commit, second, accounts, conversations, outbox, waiting, committer, counters)
    await parts.stop(*loops)


async def test_messages_are_answered_once_in_order(bench: Bench) -> None:
    answers = Answers()
    owner = parts.sender(answers)
    bench.committer.offer(parts.sends(owner, [1, 2, 3]))
    await bench.committer.wait_idle()
    assert answers.numbers == [1, 2, 3]
    assert [result.conversation_seq for _, result in answers.results] == [1, 2, 3]
    assert [result.message_id for _, result in answers.results] == [1_000, 1_001, 1_002]
    assert not any(result.repeated for _, result in answers.results)
    assert len(bench.commit.calls) == 1
    assert bench.outbox.stream.unwritten == 1


async def test_what_gathers_while_a_commit_runs_is_the_next_batch(bench: Bench) -> None:
    answers, bench.commit.gate = Answers(), asyncio.Event()
    alice, bob = parts.sender(answers), parts.sender(answers, 2, "bob")
    bench.committer.offer(parts.sends(alice, [1]))
    await parts.until(lambda: bench.commit.began)
    for number in range(2, 7):
        bench.committer.offer(parts.sends(bob if number % 2 else alice, [number], to="bob"))
    await asyncio.sleep(0)
    bench.commit.gate.set()
    await bench.committer.wait_idle()
    assert [len(call) for call in bench.commit.calls] == [1, 5]
    assert sorted(answers.numbers) == [1, 2, 3, 4, 5, 6]


async def test_an_unknown_outcome_is_run_again_under_the_same_keys(bench: Bench) -> None:
    answers = Answers()
    bench.commit.after = [LostConnection("cut", unknown_outcome=True)]
    bench.outbox.enqueue(99, b"x", b"d")
    bench.outbox.on_done([(99, b"d")])
    bench.committer.offer(parts.sends(parts.sender(answers), [1, 2]))
    await bench.committer.wait_idle()
    first, second = bench.commit.calls
    assert [row.key for row in first] == [row.key for row in second]
    assert bench.commit.terminated == 1, "the lost backend is ended before the second run"
    assert len(set(bench.commit.batch_ids)) == 2, "a call has a batch id of its own"
    assert bench.commit.done == [[99], [99]], "settled rows are not forgotten"
    assert answers.numbers == [1, 2]
    assert [result.conversation_seq for _, result in answers.results] == [1, 2]
    assert len(bench.commit.keys) == 2


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.DeadlockDetected(),
        psycopg.errors.SerializationFailure(),
        psycopg.errors.ReadOnlySqlTransaction(),
        LostConnection("refused", unknown_outcome=False),
        StoreRefused("fsync = off"),
        ConnectionResetError(),
    ],
    ids=["deadlock", "serialisation", "standby", "away", "not durable", "reset"],
)
async def test_what_did_not_happen_is_run_again_whole(bench: Bench, error: Exception) -> None:
    answers = Answers()
    bench.commit.script = [error, error]
    bench.committer.offer(parts.sends(parts.sender(answers), [1, 2, 3]))
    await bench.committer.wait_idle()
    assert [len(call) for call in bench.commit.calls] == [3, 3, 3]
    assert answers.numbers == [1, 2, 3]
    assert bench.counters.commit_retries == 2


async def test_a_full_disk_refuses_all_of_a_batch_and_forgets_no_settled_row(
    bench: Bench,
) -> None:
    answers = Answers()
    bench.commit.script = [psycopg.errors.DiskFull()]
    bench.outbox.enqueue(99, b"x", b"d")
    bench.outbox.on_done([(99, b"d")])
    bench.committer.offer(parts.sends(parts.sender(answers), [1, 2, 3]))
    await bench.committer.wait_idle()
    assert [len(call) for call in bench.commit.calls] == [3], "nobody waits for room"
    assert {result.problem.reason for _, result in answers.results} == {"STORE_FULL"}
    assert all(result.problem.retry_after_ms for _, result in answers.results)
    bench.committer.offer(parts.sends(parts.sender(answers), [4]))
    await bench.committer.wait_idle()
    assert answers.results[-1][1].conversation_seq
    assert bench.commit.done == [[99], [99]]


@pytest.mark.parametrize(
    "error", [psycopg.DataError, psycopg.errors.RaiseException, ValueError, KeyError, RuntimeError]
)
async def test_poison_is_found_and_refused_and_its_neighbours_stored(
    bench: Bench, error: type[Exception]
) -> None:
    answers = Answers()

    def refuse_four(rows: Sequence[CommitRow]) -> None:
        if any(row.key[-1] == 4 for row in rows):
            raise error

    bench.commit.script = [refuse_four] * 20
    bench.committer.offer(parts.sends(parts.sender(answers), range(1, 9)))
    await bench.committer.wait_idle()
    reasons = answers.reasons()
    assert reasons == {n: "INTERNAL" if n == 4 else "" for n in range(1, 9)}
    assert answers.numbers == list(range(1, 9)), "in order"
    assert bench.counters.commit_bisections == 3


async def test_a_locked_conversation_delays_nobody_else(bench: Bench) -> None:
    held, free = Answers(), Answers()
    alice, carol = parts.sender(held), parts.sender(free, 3, "carol")
    bench.commit.script = [psycopg.errors.LockNotAvailable()]
    bench.second.script = [psycopg.errors.LockNotAvailable()] * 50
    bench.committer.offer(parts.sends(alice, [1, 2]))
    await parts.until(lambda: bench.waiting.messages == 2)
    bench.committer.offer(parts.sends(alice, [3]))  # joins what waits: order is kept
    bench.committer.offer(parts.sends(carol, [7], to="carol"))
    await parts.until(lambda: free.numbers == [7])
    assert held.numbers == []
    assert bench.committer.unanswered
    await bench.committer.wait_idle()
    assert held.numbers == [1, 2, 3]
    assert bench.waiting.messages == 0


async def test_a_lock_in_one_part_of_a_batch_keeps_the_order_over_the_parts(bench: Bench) -> None:
    answers = Answers()
    bench.conversations.groups[500] = ConversationRow(500, 1, 2, 0, 0, "", 2_500, 0, 0, 0, 1, 1, 1)
    bench.commit.script = [psycopg.errors.LockNotAvailable()]
    bench.commit.gate = asyncio.Event()
    owner = parts.sender(answers)
    bench.committer.offer(parts.sends(owner, [1, 2, 3], conversation=500))  # one a part: so heavy
    await parts.until(lambda: bench.commit.began)
    bench.commit.gate.set()
    await bench.committer.wait_idle()
    assert answers.numbers == [1, 2, 3]
    assert [result.conversation_seq for _, result in answers.results] == [1, 2, 3]
    assert [len(call) for call in bench.commit.calls] == [1], "the later parts joined what waits"


async def test_a_lock_met_while_looking_for_poison_answers_nobody_twice(bench: Bench) -> None:
    answers = Answers()

    def refuse_four(rows: Sequence[CommitRow]) -> None:
        if any(row.key[-1] == 4 for row in rows):
            raise psycopg.DataError

    bench.commit.script = [refuse_four, None, psycopg.errors.LockNotAvailable()]
    bench.second.script = [refuse_four] * 20
    bench.committer.offer(parts.sends(parts.sender(answers), range(1, 5)))
    await bench.committer.wait_idle()
    assert answers.numbers == [1, 2, 3, 4]
    assert answers.reasons() == {1: "", 2: "", 3: "", 4: "INTERNAL"}
    assert not any(result.repeated for _, result in answers.results)


async def test_the_same_key_twice_in_a_batch_is_stored_once(bench: Bench) -> None:
    phone, laptop = Answers(), Answers()
    bench.commit.gate = asyncio.Event()
    bench.committer.offer(parts.sends(parts.sender(phone), [9]))
    await parts.until(lambda: bench.commit.began)
    bench.committer.offer(parts.sends(parts.sender(phone), [1]))
    bench.committer.offer(parts.sends(parts.sender(laptop), [1]))
    bench.commit.gate.set()
    await bench.committer.wait_idle()
    ((_, first),) = phone.results[1:]
    ((_, second),) = laptop.results
    assert (first.repeated, second.repeated) == (False, True)
    assert first.message_id == second.message_id
    assert first.conversation_seq == second.conversation_seq == 2


async def test_stop_on_error_refuses_the_rest_of_the_frame(bench: Bench) -> None:
    answers = Answers()
    owner, chain = parts.sender(answers), Chain()
    chained = parts.sends(owner, [1, 2, 3, 4])
    for send in chained:
        send.chain = chain
    bench.commit.status[chained[1].message.key] = CommitStatus.NOT_REACHABLE
    bench.committer.offer(chained)
    bench.committer.offer(parts.sends(owner, [5]))
    await bench.committer.wait_idle()
    assert answers.reasons() == {
        1: "",
        2: "NOT_REACHABLE",
        3: "PREVIOUS_REFUSED",
        4: "PREVIOUS_REFUSED",
        5: "",
    }
    assert [len(call) for call in bench.commit.calls] == [1, 1, 1]


async def test_unknown_recipients_are_not_reachable_and_cost_the_others_nothing(
    bench: Bench,
) -> None:
    answers = Answers()
    owner = parts.sender(answers)
    bench.committer.offer(
        [
            *parts.sends(owner, [1], to="nobody"),
            *parts.sends(owner, [2]),
            *parts.sends(owner, [3], conversation=5_555),
            *parts.sends(owner, [4], to="bad\x00user"),
        ]
    )
    await bench.committer.wait_idle()
    assert answers.reasons() == {
        1: "NOT_REACHABLE",
        2: "",
        3: "NOT_A_MEMBER",
        4: "NOT_REACHABLE",
    }
    assert len(answers.results) == 4


@pytest.mark.parametrize("error", [psycopg.DataError, KeyError, RuntimeError])
async def test_a_destination_that_breaks_the_resolver_is_refused_alone(
    bench: Bench, error: type[Exception]
) -> None:
    answers = Answers()
    bench.accounts.breaks = {"carol": error()}
    owner = parts.sender(answers)
    bench.committer.offer(
        [
            *parts.sends(owner, [1, 2]),
            *parts.sends(owner, [3], to="carol"),
            *parts.sends(owner, [4]),
        ]
    )
    await bench.committer.wait_idle()
    assert answers.reasons() == {1: "", 2: "", 3: "INTERNAL", 4: ""}
    assert len(answers.results) == 4
    bench.committer.offer(parts.sends(owner, [5]))
    await bench.committer.wait_idle()
    assert answers.reasons()[5] == "", "the node goes on"


async def test_an_answer_that_cannot_be_read_leaves_its_row_to_the_resend(bench: Bench) -> None:
    answers = Answers()
    bench.commit.after = [KeyError("a column")]
    bench.committer.offer(parts.sends(parts.sender(answers), [1]))
    await bench.committer.wait_idle()
    assert answers.reasons() == {1: "INTERNAL"}
    assert bench.outbox._look_until > 0, "it was stored: its row is looked for"


@pytest.mark.parametrize("how", ["a message", "the frame"])
async def test_what_cannot_be_packed_is_answered_and_left_to_the_resend(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    answers, noted = Answers(), []
    monkeypatch.setattr(
        Handover, "_note_own", lambda _self, account, seq: noted.append((account, seq))
    )
    if how == "a message":

        def breaks(seq: int, event: bytes, key: bytes) -> bytes:
            if seq == 2:
                raise ValueError("no such entry")
            return entry_bytes(seq, event, key)

        monkeypatch.setattr(handover, "entry_bytes", breaks)
    else:
        failpoints.arm("enqueue.before:error@1")
    try:
        bench.committer.offer(parts.sends(parts.sender(answers), [1, 2, 3]))
        await bench.committer.wait_idle()
    finally:
        failpoints.arm("")
        monkeypatch.setattr(handover, "entry_bytes", entry_bytes)
    assert answers.reasons() == {1: "", 2: "", 3: ""}, "it was stored"
    assert bench.outbox.stream.unwritten == 0, "a frame with a hint too few would settle the row"
    assert bench.outbox._look_until > 0
    assert {seq for _, seq in noted} == {1, 2, 3}, "sessions here read what they are not given"
    bench.committer.offer(parts.sends(parts.sender(answers), [4]))
    await bench.committer.wait_idle()
    assert answers.reasons()[4] == "", "the node goes on"
    assert bench.outbox.stream.unwritten == 1


async def test_a_store_that_is_away_makes_messages_wait(bench: Bench) -> None:
    answers = Answers()
    bench.accounts.fails = [LostConnection("away", unknown_outcome=False)] * 3
    bench.committer.offer(parts.sends(parts.sender(answers), [1]))
    await bench.committer.wait_idle()
    assert answers.reasons() == {1: ""}
    assert bench.accounts.calls == 4


async def test_a_batch_needs_no_query_when_everybody_is_known(bench: Bench) -> None:
    answers = Answers()
    owner = parts.sender(answers)
    for number in (1, 2, 3):
        bench.committer.offer(parts.sends(owner, [number]))
        await bench.committer.wait_idle()
    assert (bench.accounts.calls, bench.conversations.calls) == (1, 1)


async def test_a_full_outbox_refuses_with_advice(bench: Bench) -> None:
    answers = Answers()
    for batch in range(100):
        bench.outbox.enqueue(batch, b"", b"d")
    bench.committer.offer(parts.sends(parts.sender(answers), [1]))
    ((_, result),) = answers.results
    assert result.problem.reason == "OUTBOX_FULL"
    assert result.problem.retry_after_ms > 0
    assert bench.commit.calls == []


async def test_done_rows_ride_along_with_the_next_commit(bench: Bench) -> None:
    answers = Answers()
    owner = parts.sender(answers)
    bench.committer.offer(parts.sends(owner, [1]))
    await bench.committer.wait_idle()
    (batch_id,) = bench.commit.batch_ids
    ((_, frame),) = bench.outbox.stream.take_back()
    (batch,) = EnqueueRequest.FromString(frame).batches
    hints = [(hint.account_id, hint.timeline_seq, hint.pushable) for hint in batch.hints]
    bench.outbox.on_done([(batch_id, settle_digest(batch_id, hints))])
    assert bench.outbox.unsettled == 0
    bench.committer.offer(parts.sends(owner, [2]))
    await bench.committer.wait_idle()
    assert bench.commit.done == [[], bench.commit.batch_ids[:1]]


async def test_batch_ids_name_node_and_count() -> None:
    ids = BatchIds(NodeAddress("n", "t", 3))
    assert [ids.take(), ids.take()] == [(3 << 40) + 1, (3 << 40) + 2]
    assert BatchIds(NodeAddress("n", "t", (1 << 23) - 1)).take() < 1 << 63
