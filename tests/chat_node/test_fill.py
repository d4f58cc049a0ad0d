"""Reads for sessions: small gaps together, long ones in turn; comparison with the heads."""

from collections.abc import Sequence

from chat_svc.core.effects import Read
from chat_svc.node.counters import NodeCounters
from chat_svc.node.delivery import Comparison
from chat_svc.node.fill import Fill, entry_of
from chat_svc.node.live_session import LiveSession
from chat_svc.node.sessions import Sessions
from chat_svc.store.devices import Head
from chat_svc.store.timeline import EntryRange, EntryRow, TimelineRead
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1.types_pb2 import Entry
from tests.chat_core.builders import item
from tests.chat_node import parts
from tests.chat_node.parts import Recorder, StepClock


def row(seq: int, key: bytes = b"") -> EntryRow:
    return EntryRow(seq, 5, seq, seq, seq * 10, "alice", 1, "bob", 1, b"", key, True)


class Timeline:
    """Every account's timeline reaches `head`."""

    def __init__(self, head: int) -> None:
        self.head = head
        self.calls: list[object] = []
        self.fails = 0

    async def read_entries(
        self, account: int, after_seq: int, max_entries: int, max_bytes: int
    ) -> TimelineRead:
        if self.fails:
            self.fails -= 1
            raise ConnectionError
        self.calls.append((account, after_seq, max_entries))
        last = min(self.head, after_seq + max_entries)
        return TimelineRead([row(seq) for seq in range(after_seq + 1, last + 1)], 1, self.head)

    async def read_ranges(self, ranges: Sequence[EntryRange]) -> list[TimelineRead]:
        if self.fails:
            self.fails -= 1
            raise ConnectionError
        self.calls.append(list(ranges))
        return [
            TimelineRead(
                [row(seq) for seq in range(one.after_seq + 1, one.up_to_seq + 1)], 1, self.head
            )
            for one in ranges
        ]


class Node(Recorder):
    """Reads go to the fill, as in the real node."""

    def __init__(self) -> None:
        super().__init__()
        self.fill: Fill | None = None

    def run(self, session: LiveSession, effect: object) -> None:
        if isinstance(effect, Read) and self.fill is not None:
            self.fill.read(session, effect)


def bench(head: int) -> tuple[Timeline, Fill, Node, StepClock]:
    clock, timeline, node = StepClock(), Timeline(head), Node()
    fill = Fill(timeline, clock, NodeCounters())
    return timeline, fill, node, clock


async def test_small_gaps_of_many_sessions_are_one_statement() -> None:
    timeline, fill, node, clock = bench(3)
    sessions = [parts.live_session(n, clock=clock, node=node) for n in range(1, 6)]
    node.fill = fill
    for session in sessions:
        session.machine.note_head(3)
        session.settle()
    loop = await parts.running(fill.run)
    await parts.until(lambda: timeline.calls)
    await parts.stop(loop)
    (ranges,) = timeline.calls
    assert ranges == [EntryRange(n, 0, 3) for n in range(1, 6)]
    for session in sessions:
        assert [entry.timeline_seq for entry in parts.entries_of(session)] == [1, 2, 3]


async def test_a_conversation_that_begins_in_a_read_is_told() -> None:
    timeline, fill, node, clock = bench(1)
    told: list[int] = []
    fill.on_new_conversation = told.extend
    session = parts.live_session(7, clock=clock, node=node)
    node.fill = fill
    loop = await parts.running(fill.run)
    for head in (1, 2):
        timeline.head = head
        session.machine.note_head(head)
        session.settle()
        await parts.until(lambda head=head: len(timeline.calls) == head)  # type: ignore[misc]
    await parts.stop(loop)
    assert told == [7], "by its first event alone"


async def test_a_long_catch_up_takes_turns() -> None:
    timeline, fill, node, clock = bench(1_000)
    first, second = (parts.live_session(n, clock=clock, node=node) for n in (1, 2))
    node.fill = fill
    for session in (first, second):
        session.machine.note_head(1_000)
        session.settle()
    loop = await parts.running(fill.run)
    await parts.until(lambda: len(timeline.calls) == 2)
    await parts.stop(loop)
    assert timeline.calls == [(1, 0, 256), (2, 0, 256)]


async def test_a_failed_read_is_asked_for_again() -> None:
    timeline, fill, node, clock = bench(3)
    timeline.fails = 1
    session = parts.live_session(1, clock=clock, node=node)
    node.fill = fill
    session.machine.note_head(3)
    session.settle()
    loop = await parts.running(fill.run)
    await parts.until(lambda: timeline.fails == 0)
    clock.now += 2
    session.on_frame(pb.ClientFrame(ping=pb.Ping()))
    session.tick(clock.now, clock.wall_ms())
    await parts.until(lambda: timeline.calls)
    await parts.stop(loop)
    assert [entry.timeline_seq for entry in parts.entries_of(session)] == [1, 2, 3]


async def test_sessions_that_ended_are_not_read_for() -> None:
    timeline, fill, node, clock = bench(3)
    session = parts.live_session(1, clock=clock, node=node)
    other = parts.live_session(2, clock=clock, node=node)
    node.fill = fill
    for one in (session, other):
        one.machine.note_head(3)
        one.settle()
    session.gone()
    loop = await parts.running(fill.run)
    await parts.until(lambda: timeline.calls)
    await parts.stop(loop)
    assert timeline.calls == [[EntryRange(2, 0, 3)]]


def test_a_stored_entry_has_the_bytes_of_the_live_one() -> None:
    entry = Entry.FromString(entry_of(row(7, b"k" * 16)))
    assert (entry.timeline_seq, entry.event.message_id) == (7, 70)
    assert entry.event.idempotency_key == b"k" * 16
    assert not entry.event.HasField("content")


class Heads:
    """Heads as the store has them."""

    def __init__(self) -> None:
        self.heads_of: dict[int, Head] = {}
        self.asked: list[list[int]] = []
        self.matched: list[list[tuple[int, int, int]]] = []
        self.others: set[tuple[int, int, int]] = set()
        """Cursors that name what the store does not have."""
        self.fails = 0

    async def heads(self, accounts: Sequence[int]) -> dict[int, Head]:
        self.asked.append(list(accounts))
        if self.fails:
            self.fails -= 1
            raise ConnectionError
        return {a: self.heads_of[a] for a in accounts if a in self.heads_of}

    async def match(self, cursors: Sequence[tuple[int, int, int]]) -> list[bool]:
        self.matched.append(list(cursors))
        return [cursor not in self.others for cursor in cursors]


async def compare(
    heads: Heads, sessions: Sessions, clock: StepClock, looks: int = 1, *, history: bool = False
) -> None:
    comparison = Comparison(heads, sessions, clock, NodeCounters(), lambda: True)
    if history:
        comparison.history_soon()
    else:
        comparison.all_soon()
    loop = await parts.running(comparison.run)
    await parts.until(lambda: len(heads.asked) >= looks)
    await parts.stop(loop)


async def test_a_session_that_missed_something_reads_it() -> None:
    clock, node, heads, sessions = StepClock(), Recorder(), Heads(), Sessions()
    session = parts.live_session(2, clock=clock, node=node, head=5)
    node.effects.clear()
    sessions.add(session)
    heads.heads_of = {2: Head(6, 6, 1, 0)}
    await compare(heads, sessions, clock)
    (read,) = node.effects
    assert isinstance(read, Read)
    assert read.after_seq == 5


async def test_a_rewound_database_is_noticed() -> None:
    clock, heads, sessions = StepClock(), Heads(), Sessions()
    session = parts.live_session(2, clock=clock, head=5)
    sessions.add(session)
    heads.heads_of = {2: Head(4, 4, 1, 0)}
    await compare(heads, sessions, clock)
    (frame,) = parts.drain(session)
    assert frame.closed[0].reason == pb.Closed.REASON_CURSOR_INVALID


async def test_a_rewound_database_that_was_written_on_is_noticed_by_ids() -> None:
    clock, heads, sessions = StepClock(), Heads(), Sessions()
    one, two = (parts.live_session(n, clock=clock, head=5) for n in (2, 3))
    for session in (one, two):
        sessions.add(session)
        session.offer(item(6), clock.now)
        heads.heads_of[session.account] = Head(9, 9, 1, 0)
        parts.drain(session)
    heads.others = {(2, 6, item(6).message_id)}
    heads.fails = 1
    await compare(heads, sessions, clock, looks=4, history=True)
    assert heads.matched[0] == [(2, 6, item(6).message_id), (3, 6, item(6).message_id)]
    assert len(heads.matched) == 2, "until it has worked, and not again"
    (frame,) = parts.drain(one)
    assert frame.closed[0].reason == pb.Closed.REASON_CURSOR_INVALID
    assert not two.is_over


async def test_an_entry_that_came_during_the_read_is_no_rewind() -> None:
    clock, sessions = StepClock(), Sessions()
    session = parts.live_session(2, clock=clock, head=5)
    sessions.add(session)

    class Racing(Heads):
        async def heads(self, accounts: Sequence[int]) -> dict[int, Head]:
            session.offer(item(6), clock.now)  # committed and delivered after the read's snapshot
            return await super().heads(accounts)

    heads = Racing()
    heads.heads_of = {2: Head(5, 5, 1, 0)}
    await compare(heads, sessions, clock)
    assert [entry.timeline_seq for entry in parts.entries_of(session)] == [6]


async def test_after_a_failure_all_are_compared() -> None:
    clock, heads, sessions = StepClock(), Heads(), Sessions()
    for account in (2, 3):
        sessions.add(parts.live_session(account, clock=clock))
    heads.fails = 1
    await compare(heads, sessions, clock, looks=2)
    assert heads.asked == [[2, 3], [2, 3]]


async def test_quiet_sessions_are_compared_once_a_round() -> None:
    clock, heads, sessions = StepClock(), Heads(), Sessions()
    for account in range(1, 31):
        sessions.add(parts.live_session(account, clock=clock))
    comparison = Comparison(heads, sessions, clock, NodeCounters(), lambda: True)
    loop = await parts.running(comparison.run)
    await parts.until(lambda: clock.now > 1_065)
    await parts.stop(loop)
    asked = [account for accounts in heads.asked for account in accounts]
    assert set(asked) == set(range(1, 31))
    assert len(asked) <= 35


async def test_while_routes_are_uncertain_all_are_compared_at_every_look() -> None:
    clock, heads, sessions = StepClock(), Heads(), Sessions()
    for account in (1, 2, 3):
        sessions.add(parts.live_session(account, clock=clock))
    comparison = Comparison(heads, sessions, clock, NodeCounters(), lambda: False)
    loop = await parts.running(comparison.run)
    await parts.until(lambda: len(heads.asked) >= 3)
    await parts.stop(loop)
    assert heads.asked[:3] == [[1, 2, 3]] * 3
