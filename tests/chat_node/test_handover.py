"""What leaves after a commit: hints that can be proved, entries for the sessions here."""

from dataclasses import dataclass
from typing import Any

import pytest

from chat_svc.core import effects
from chat_svc.core.batch import PendingSend
from chat_svc.core.frames import RECEIPTS, piece
from chat_svc.node.counters import NodeCounters
from chat_svc.node.delivery import Delivery
from chat_svc.node.handover import Handover, Stored
from chat_svc.node.hints import SIGNAL_MS, HintSigner, NodeAddress
from chat_svc.node.outbox import Outbox
from chat_svc.node.resolver import Resolver
from chat_svc.node.sessions import Sessions
from chat_svc.node.signals import Signals
from chat_svc.store.commit import CommitOutcome, CommitStatus, Recipient
from chatmesh.digest import settle_digest
from chatmesh.mesh.v1 import node_pb2
from chatmesh.mesh.v1.hint_pb2 import HintBatch, Signal
from chatmesh.mesh.v1.sync_pb2 import EnqueueRequest
from chatmesh.runtime.trace import Tracer
from chatmesh.v1 import types_pb2
from chatmesh.v1.session_pb2 import Receipt
from tests.chat_core.builders import WALL_MS
from tests.chat_node import parts
from tests.chat_node.parts import Answers, StepClock

ALICE, BOB = 1, 2
CONVERSATION = 102
BODY = types_pb2.Event(
    content=types_pb2.Content(text=types_pb2.TextContent(body="hi"))
).SerializeToString()


@dataclass
class Bench:
    """A hand-over, and the delivery on the other side of the queue."""

    clock: StepClock
    sessions: Sessions
    outbox: Outbox
    handover: Handover
    delivery: Delivery
    signals: Signals
    counters: NodeCounters

    def batches(self) -> list[HintBatch]:
        """What waits for the Enqueue stream."""
        frames = self.outbox.stream.take_back()
        return [batch for _, frame in frames for batch in EnqueueRequest.FromString(frame).batches]


@pytest.fixture
async def bench() -> Bench:
    clock, counters, tracer = StepClock(), NodeCounters(), Tracer("test")
    address, sessions = NodeAddress("n", "127.0.0.1:1", 7), Sessions()
    outbox = parts.outbox(clock=clock)
    resolver = Resolver(
        parts.ScriptedAccounts(),  # type: ignore[arg-type] # only what the resolver uses
        parts.ScriptedConversations(),  # type: ignore[arg-type]
        None,  # type: ignore[arg-type] # no account is made here
        makes_unknown=False,
        makes_contacts=True,
    )
    await resolver.resolve(parts.sends(parts.sender(Answers()), [1]))
    signer = parts.signer()
    signals = Signals(sessions, outbox, signer, address, clock, counters)
    return Bench(
        clock,
        sessions,
        outbox,
        Handover(sessions, outbox, signer, resolver, address, clock, counters, tracer),
        Delivery(sessions, outbox, signals, signer, clock, counters, tracer),
        signals,
        counters,
    )


def outcome(seq: int = 1, *, hinted: bool = True) -> CommitOutcome:
    recipients = [Recipient(ALICE, seq, False, False), Recipient(BOB, seq + 10, hinted, True)]
    return CommitOutcome(
        CommitStatus.ACCEPTED, 900 + seq, CONVERSATION, seq, seq, WALL_MS, seq, recipients
    )


def send(answers: Answers, number: int = 1) -> PendingSend:
    (made,) = parts.sends(parts.sender(answers), [number])
    made.conversation, made.body = CONVERSATION, BODY
    made.message.body, made.message.content_size = BODY, len(BODY)
    return made


async def test_hints_name_the_batch_and_prove_their_entries(bench: Bench) -> None:
    answers = Answers()
    await bench.handover.sends(77, [send(answers)], [outcome()])
    (batch,) = bench.batches()
    assert (batch.batch_id, batch.node_id, batch.node_target) == (77, 7, "127.0.0.1:1")
    (hint,) = batch.hints
    assert (hint.account_id, hint.timeline_seq, hint.pushable) == (BOB, 11, True)
    assert parts.signer().matches(hint)
    entry = types_pb2.Entry.FromString(hint.entry)
    assert entry.timeline_seq == 11
    assert entry.event == types_pb2.Event(
        conversation_id=CONVERSATION,
        conversation_seq=1,
        message_no=1,
        message_id=901,
        sender_user_id="alice",
        created_at_ms=WALL_MS,
        peer_user_id="bob",
        conversation_kind=types_pb2.CONVERSATION_KIND_DIRECT,
        content=types_pb2.Content(text=types_pb2.TextContent(body="hi")),
    )
    assert answers.numbers == [1]


async def test_a_commit_that_hints_nobody_makes_no_frame_and_no_row(bench: Bench) -> None:
    await bench.handover.sends(77, [send(Answers())], [outcome(hinted=False)])
    assert bench.batches() == []
    assert bench.outbox.unsettled == 0


async def test_a_sender_who_left_meanwhile_is_hinted_wherever_they_are_now(bench: Bench) -> None:
    made = send(Answers())
    made.sender.has_left = lambda: True
    await bench.handover.sends(77, [made], [outcome(hinted=False)])
    (batch,) = bench.batches()
    (hint,) = batch.hints
    assert (hint.account_id, hint.timeline_seq, hint.pushable) == (ALICE, 1, False)
    assert types_pb2.Entry.FromString(hint.entry).event.idempotency_key == made.message.key


async def test_a_repeat_makes_sessions_read_what_an_earlier_one_sent(bench: Bench) -> None:
    phone = parts.live_session(ALICE, "phone", clock=bench.clock, node=(node := parts.Recorder()))
    bench.sessions.add(phone)
    node.effects.clear()
    repeated = CommitOutcome(CommitStatus.REPEATED, 901, CONVERSATION, 1, 1, WALL_MS, 1, [])
    await bench.handover.sends(7, [send(Answers())], [repeated])
    assert [type(effect) for effect in node.effects] == [effects.Read]


async def test_sessions_here_get_the_entry_at_once_and_only_once(bench: Bench) -> None:
    phone = parts.live_session(ALICE, "phone", clock=bench.clock)
    laptop = parts.live_session(ALICE, "laptop", clock=bench.clock)
    bob = parts.live_session(BOB, "phone", clock=bench.clock, head=10)
    for session in (phone, laptop, bob):
        bench.sessions.add(session)
    made = send(Answers())
    await bench.handover.sends(77, [made], [outcome()])
    (batch,) = bench.batches()
    assert bench.delivery.take(delivery(batch)) is not None  # the hint comes by the queue, too
    for session in (phone, laptop):
        (entry,) = parts.entries_of(session)
        assert entry.event.idempotency_key == made.message.key
    (entry,) = parts.entries_of(bob)
    assert not entry.event.idempotency_key
    assert entry.event.content.text.body == "hi"


async def test_a_slim_echo_has_no_content_for_the_sending_session_alone(bench: Bench) -> None:
    phone = parts.live_session(ALICE, "phone", clock=bench.clock)
    laptop = parts.live_session(ALICE, "laptop", clock=bench.clock)
    bench.sessions.add(phone)
    bench.sessions.add(laptop)
    made = send(Answers())
    made.sender.slim_session = phone
    await bench.handover.sends(77, [made], [outcome()])
    (slim,), (whole,) = parts.entries_of(phone), parts.entries_of(laptop)
    assert not slim.event.HasField("content")
    assert slim.event.idempotency_key == made.message.key
    assert slim.event.conversation_seq == whole.event.conversation_seq == 1
    assert whole.event.HasField("content")


async def test_refusals_and_repeats_are_told_and_hint_nobody(bench: Bench) -> None:
    answers = Answers()
    outcomes = [
        CommitOutcome(CommitStatus.NOT_REACHABLE, 0, 0, 0, 0, 0, 0, []),
        CommitOutcome(CommitStatus.REPEATED, 901, CONVERSATION, 1, 1, WALL_MS, 1, []),
        CommitOutcome(CommitStatus.KEY_REUSED, 0, 0, 0, 0, 0, 0, []),
    ]
    await bench.handover.sends(7, [send(answers, number) for number in (1, 2, 3)], outcomes)
    assert answers.reasons() == {1: "NOT_REACHABLE", 2: "", 3: "KEY_REUSED"}
    assert answers.results[1][1].repeated
    assert bench.batches() == []


async def test_a_slow_commit_is_handed_over_like_a_fast_one(bench: Bench) -> None:
    stored = Stored(outcome(), ALICE, "alice", "", 2, b"k" * 16, BODY, 0)
    await bench.handover.publish(78, [stored])
    (batch,) = bench.batches()
    assert (batch.batch_id, len(batch.hints)) == (78, 1)


def delivery(batch: HintBatch, **changes: object) -> node_pb2.DeliverRequest:
    request = node_pb2.DeliverRequest()
    for number, hint in enumerate(batch.hints):
        made = request.deliveries.add(delivery_id=number)
        made.hint.CopyFrom(hint)
        for name, value in changes.items():
            setattr(made.hint, name, value)
    return request


@pytest.fixture
async def hinted(bench: Bench) -> HintBatch:
    await bench.handover.sends(77, [send(Answers())], [outcome()])
    (batch,) = bench.batches()
    return batch


async def test_no_session_here_is_told(bench: Bench, hinted: HintBatch) -> None:
    answer = bench.delivery.take(delivery(hinted))
    assert answer is not None
    assert answer.settled[0].outcome == node_pb2.DELIVERY_OUTCOME_NO_SESSION


@pytest.mark.parametrize(
    "change",
    [
        {"entry": types_pb2.Entry(timeline_seq=11).SerializeToString()},
        {"digest": b"x" * 16},
        {"digest": b""},
        {"entry": b""},
    ],
    ids=["other entry", "wrong digest", "no digest", "no entry"],
)
async def test_what_cannot_be_proved_is_only_a_position(
    bench: Bench, hinted: HintBatch, change: dict[str, object]
) -> None:
    node = parts.Recorder()
    session = parts.live_session(BOB, clock=bench.clock, node=node, head=10)
    node.effects.clear()
    bench.sessions.add(session)
    answer = bench.delivery.take(delivery(hinted, **change))
    assert answer is not None
    assert answer.settled[0].outcome == node_pb2.DELIVERY_OUTCOME_UNSPECIFIED
    assert parts.entries_of(session) == []
    assert [type(effect).__name__ for effect in node.effects] == ["Read"]


async def test_an_entry_of_another_position_or_account_is_no_proof(
    bench: Bench, hinted: HintBatch
) -> None:
    for change in ({"timeline_seq": 12}, {"account_id": ALICE}):
        made = delivery(hinted, **change).deliveries[0].hint
        assert not parts.signer().matches(made)
    other_database = HintSigner(b"k" * 32, b"o" * 16)
    assert not other_database.matches(hinted.hints[0])


async def test_done_batches_are_settled(bench: Bench, hinted: HintBatch) -> None:
    assert bench.outbox.unsettled == 1
    digest = settle_digest(77, [(h.account_id, h.timeline_seq, h.pushable) for h in hinted.hints])
    unproved = node_pb2.DeliverRequest(done_batch_ids=[77, 1], done_digests=[b"x" * 16])
    assert bench.delivery.take(unproved) is None
    assert bench.delivery.take(node_pb2.DeliverRequest(done_batch_ids=[77])) is None
    assert (bench.outbox.unsettled, bench.outbox._counters.done_refused) == (1, 2)
    done = node_pb2.DeliverRequest(done_batch_ids=[77, 77, 1], done_digests=[digest] * 3)
    assert bench.delivery.take(done) is None
    assert bench.outbox.unsettled == 0
    assert bench.outbox.take_done() == [77]


async def test_signals_reach_the_sessions_here_and_the_queue(bench: Bench) -> None:
    session = parts.live_session(BOB, clock=bench.clock)
    bench.sessions.add(session)
    bench.signals.typing(BOB, CONVERSATION, "alice", active=True)
    bench.signals.typing(BOB, CONVERSATION, "alice", active=False)
    bench.signals.counts(BOB, 4, 2, 1)
    bench.signals.flush()
    (frame,) = parts.drain(session)
    assert [typing.active for typing in frame.typing] == [False], "the newest wins"
    assert (frame.pong[0].account_version, frame.pong[0].unread) == (4, 2)
    assert bench.outbox.stream.unwritten == 1
    assert bench.outbox.unsettled == 0, "signals are sent at most once"
    bench.signals.flush()
    assert bench.outbox.stream.unwritten == 1


RECEIPT = piece(
    RECEIPTS, Receipt(conversation_id=CONVERSATION, user_id="alice").SerializeToString()
)


def signal_of(
    node_id: int = 8, *, at_ms: int = WALL_MS, signer: HintSigner | None = None
) -> Signal:
    """As another node's, for Bob."""
    made = Signal(account_id=BOB, frame=RECEIPT, coalesce_key=b"r")
    (signer or parts.signer()).sign([made], node_id, at_ms)
    return made


def taken(bench: Bench, signal: Signal) -> tuple[int, int]:
    """Receipts that a session of Bob's would be told, and signals refused."""
    session = parts.live_session(BOB, clock=bench.clock)
    bench.sessions.add(session)
    bench.delivery.take(node_pb2.DeliverRequest(signals=[signal]))
    return sum(
        len(frame.receipts) for frame in parts.drain(session)
    ), bench.counters.signals_refused


@pytest.mark.parametrize("gap_ms", [-SIGNAL_MS, 0, SIGNAL_MS])
async def test_signals_of_other_nodes_reach_the_sessions_here(bench: Bench, gap_ms: int) -> None:
    assert taken(bench, signal_of(at_ms=WALL_MS + gap_ms)) == (1, 0)


@pytest.mark.parametrize("gap_ms", [-SIGNAL_MS - 1, SIGNAL_MS + 1])
async def test_a_signal_that_was_kept_is_not_shown_again(bench: Bench, gap_ms: int) -> None:
    assert taken(bench, signal_of(at_ms=WALL_MS + gap_ms)) == (0, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": b""},
        {"digest": b"x" * 16},
        {"frame": piece(RECEIPTS, Receipt(user_id="mallory").SerializeToString())},
        {"coalesce_key": b""},
        {"node_id": 9},
        {"signed_at_ms": WALL_MS + 1},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_forged_signal_is_dropped_and_counted(bench: Bench, change: dict[str, Any]) -> None:
    forged = signal_of()
    for name, value in change.items():
        setattr(forged, name, value)
    assert taken(bench, forged) == (0, 1)


async def test_a_signal_of_another_account_or_key_or_database_is_dropped(bench: Bench) -> None:
    moved = Signal()
    moved.CopyFrom(signal_of())
    moved.account_id = ALICE
    alice = parts.live_session(ALICE, clock=bench.clock)
    bench.sessions.add(alice)
    bench.delivery.take(node_pb2.DeliverRequest(signals=[moved]))
    assert parts.drain(alice) == []
    for signer in (HintSigner(b"o" * 32, parts.HISTORY), HintSigner(b"k" * 32, b"o" * 16)):
        assert taken(bench, signal_of(signer=signer))[0] == 0
    assert bench.counters.signals_refused == 3


async def test_no_hint_can_be_made_of_a_signal_nor_the_other_way(bench: Bench) -> None:
    hint_digest = parts.signer().digest(BOB, 8, RECEIPT)
    assert hint_digest != signal_of().digest
    forged = signal_of()
    forged.digest = hint_digest
    assert taken(bench, forged) == (0, 1)


async def test_what_a_node_told_its_own_sessions_is_not_told_them_again(bench: Bench) -> None:
    session = parts.live_session(BOB, clock=bench.clock)
    bench.sessions.add(session)
    bench.signals.counts(BOB, 4, 2, 1)
    bench.signals.flush()
    assert [len(frame.pong) for frame in parts.drain(session)] == [1]
    ((_, frame),) = bench.outbox.stream._unwritten
    (batch,) = EnqueueRequest.FromString(frame).batches
    bench.delivery.take(node_pb2.DeliverRequest(signals=batch.signals))
    assert parts.drain(session) == []
    assert bench.counters.signals_refused == 0
