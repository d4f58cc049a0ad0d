"""The session machine against a model of the server, by random walks (hypothesis).

Each walk mixes sends, entries, acks, lost streams, moves, refusals and rewinds in any order, then
heals and asks for convergence. The invariants are those of `chatmesh.client._session`.
"""

from __future__ import annotations

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chatmesh.client import errors
from chatmesh.client._moves import (
    Config,
    Cut,
    Ended,
    HalfClose,
    Next,
    Reconnect,
    TakeSnapshot,
    Wait,
    Write,
)
from chatmesh.client._progress import Cursor
from chatmesh.client._sendqueue import Outgoing
from chatmesh.client._session import Session
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1.types_pb2 import Content, OutgoingMessage, TextContent
from tests.client.server_model import LIMITS, Node, Stream

TURNS = st.lists(st.integers(0, (1 << 16) - 1), max_size=6)
"""How often everything moves on after a step: rules alone seldom line up to a conversation."""


class Walk(RuleBasedStateMachine):
    """One device and its node."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.node = Node()
        self.session = Session(Config(device_id="phone"), None, random.Random(1).random)
        self.stream: Stream | None = None
        self.next: Next | None = Reconnect(0.0)
        self.offered: list[bytes] = []
        self.answers: dict[bytes, errors.ChatmeshError | None] = {}
        self.refuse: set[bytes] = set()
        self.later: set[bytes] = set()
        self.base = 0  # position of the last snapshot, or where the device began
        self.taken: list[tuple[int, int]] = []  # entries the application was given since then
        self.stored = 0
        self.old_acks: list[tuple[Cursor, int]] = []  # of entries that a snapshot made void
        self.uplink: list[pb.ClientFrame] = []  # written, not yet at the server
        self.was_overloaded = False

    # -- the application ---------------------------------------------------------------------------

    @rule(count=st.integers(1, 7), bad=st.booleans(), together=st.booleans(), turns=TURNS)
    def send(self, count: int, bad: bool, together: bool, turns: list[int]) -> None:
        group = len(self.offered) + 1 if together and count <= LIMITS.max_send_batch else 0
        messages = []
        for number in range(count):
            key = len(self.offered).to_bytes(16, "big")
            self.offered.append(key)
            content = Content(text=TextContent(body="x" * 100))
            messages.append(
                Outgoing(key, OutgoingMessage(idempotency_key=key, content=content), group)
            )
            if bad and number == count // 2:
                self.refuse.add(key)
        self.session.offer(messages)
        self.goes_on(turns)

    @rule(count=st.integers(1, 20), turns=TURNS)
    def store(self, count: int, turns: list[int]) -> None:
        for seq, message_id in self.taken[self.stored : self.stored + count]:
            self.session.stored(Cursor(seq, message_id), self.session.progress.epoch)
            self.stored += 1
        self.goes_on(turns)

    @precondition(lambda self: bool(self.old_acks))
    @rule()
    def store_something_void(self) -> None:
        """The application was busy with an entry while the snapshot was taken."""
        self.session.stored(*self.old_acks.pop())

    @rule(number=st.integers(1, 50))
    def mark(self, number: int) -> None:
        self.session.statements.mark_read(7, number)

    # -- the world ---------------------------------------------------------------------------------

    @rule(count=st.integers(1, 10), turns=TURNS)
    def others_write(self, count: int, turns: list[int]) -> None:
        for _ in range(count):
            self.node.append()
        self.goes_on(turns)

    @rule(seconds=st.floats(0.001, 8.0), turns=TURNS)
    def time_passes(self, seconds: float, turns: list[int]) -> None:
        self.now += seconds
        self.goes_on(turns)

    @rule(turns=TURNS)
    def goes_on(self, turns: list[int]) -> None:
        """What mostly happens: everything moves a little, each part by another amount, and now
        and then the stream is lost in the middle of it."""
        for turn in turns:
            if isinstance(self.next, TakeSnapshot):
                self.take_snapshot()
            if isinstance(self.next, Reconnect):
                self.connect()
            parts = (self.pump, self.server_reads, self.server_writes, self.read)
            for number, part in enumerate(parts):
                if self.stream is not None:
                    part(turn >> 3 * number & 7)
                if turn >> 12 == 8 + number and self.stream is not None:
                    self.cut()
            self.now += 0.03

    @precondition(lambda self: self.stream is None and isinstance(self.next, Reconnect))
    @rule()
    def connect(self) -> None:
        assert isinstance(self.next, Reconnect)
        self.now += self.next.after_seconds
        self.session.open_stream(self.now)
        self.stream = Stream(self.node)
        self.next = None

    @precondition(lambda self: isinstance(self.next, TakeSnapshot))
    @rule()
    def take_snapshot(self) -> None:
        head = len(self.node.timeline)
        last = self.node.timeline[-1].message_id if head else 0
        self.base = head
        self.next = self.session.snapshot_taken(Cursor(head, last))

    @precondition(lambda self: self.stream is not None)
    @rule(most=st.integers(1, 40))
    def pump(self, most: int) -> None:
        """The writer is free for a while."""
        for _ in range(most):
            if self.stream is None:
                return
            match self.session.step(self.now):
                case Write(frame):
                    if frame.WhichOneof("kind") == "ack":
                        assert frame.ack.up_to_timeline_seq <= self.base + self.stored
                    self.uplink.append(frame)
                case HalfClose():
                    self.server_reads(len(self.uplink))
                    self.stream.half_closed = True
                    self.stream.close(pb.Closed.REASON_CLIENT_DONE, pb.Closed.RECONNECT_NOW)
                case Cut(why):
                    self._lost(errors.Unavailable(why))
                case Wait(until):
                    assert until > self.now
                    return

    @precondition(lambda self: self.stream is not None)
    @rule(most=st.integers(1, 40))
    def server_reads(self, most: int) -> None:
        assert self.stream is not None
        for _ in range(min(most, len(self.uplink))):
            frame = self.uplink.pop(0)
            if not self.stream.closed:
                self.stream.take(frame, frozenset(self.refuse), frozenset(self.later))

    @precondition(lambda self: self.stream is not None)
    @rule(most=st.integers(1, 10))
    def server_writes(self, most: int) -> None:
        assert self.stream is not None
        self.stream.write_entries(most)

    @precondition(lambda self: self.stream is not None)
    @rule(most=st.integers(1, 10))
    def read(self, most: int) -> None:
        for _ in range(most):
            if self.stream is None or not self.stream.out:
                return
            self._receive(self.stream.out.pop(0))

    @precondition(lambda self: self.stream is not None)
    @rule()
    def cut(self) -> None:
        """Frames on their way are lost, in both directions."""
        self._lost(errors.Unavailable("cut"))

    @precondition(lambda self: self.stream is not None and self.stream.greeted)
    @rule(after_ms=st.integers(0, 3000))
    def going_away(self, after_ms: int) -> None:
        assert self.stream is not None
        self.stream.out.append(
            pb.ServerFrame(going_away=[pb.GoingAway(reconnect_after_ms=after_ms)])
        )

    @precondition(lambda self: bool(self.offered))
    @rule(data=st.data())
    def overloaded(self, data: st.DataObject) -> None:
        """Some keys are refused with "later" from now on, or no longer."""
        if self.later:
            self.later.clear()
        else:
            self.later.add(data.draw(st.sampled_from(self.offered)))

    @precondition(lambda self: len(self.node.timeline) > 3)
    @rule(back=st.integers(1, 3))
    def rewind(self, back: int) -> None:
        """The database is restored to a few events ago, and goes on differently."""
        del self.node.timeline[-back:]
        kept = {event.message_id for event in self.node.timeline}
        self.node.answers = {
            key: answer for key, answer in self.node.answers.items() if answer.message_id in kept
        }
        self.node.append()
        if self.stream is not None:
            self._lost(errors.Unavailable("restored"))

    # -- how the driver reacts ---------------------------------------------------------------------

    def _receive(self, frame: pb.ServerFrame) -> None:
        received = self.session.receive(frame, self.now)
        if received.welcome is not None and received.begins:
            self.base = received.welcome.start_timeline_seq
        for entry in received.entries:
            self.taken.append((entry.timeline_seq, entry.event.message_id))
        for settled in received.settled:
            assert settled.key not in self.answers, "one answer a key"
            self.answers[settled.key] = settled.problem
        if frame.closed:
            self._lost(None)

    def _lost(self, error: errors.ChatmeshError | None) -> None:
        self.stream = None
        self.uplink.clear()
        epoch = self.session.progress.epoch
        self.next = self.session.lost(error, self.now)
        if isinstance(self.next, TakeSnapshot):
            self.old_acks += [(Cursor(*place), epoch) for place in self.taken[self.stored :]]
            self.taken, self.stored = [], 0
        assert not isinstance(self.next, Ended)

    # -- what must hold ----------------------------------------------------------------------------

    @invariant()
    def entries_are_contiguous(self) -> None:
        if isinstance(self.next, TakeSnapshot):
            return
        assert [seq for seq, _ in self.taken] == [
            self.base + 1 + place for place in range(len(self.taken))
        ]

    @invariant()
    def sends_within_limits(self) -> None:
        assert self.session.queue.in_flight <= LIMITS.max_sends_in_flight
        assert len(self.session.queue) == len(self.offered) - len(self.answers)

    @invariant()
    def first_order_is_kept(self) -> None:
        """Unless the server said "later", keys arrive for the first time in the order offered."""
        self.was_overloaded = self.was_overloaded or bool(self.later)
        assert self.was_overloaded or self.node.first_seen == sorted(self.node.first_seen)

    def teardown(self) -> None:
        """Everything heals: every message is answered, every entry arrives and is acked."""
        self.later.clear()
        for _ in range(4000):
            if self._is_converged():
                break
            if isinstance(self.next, Reconnect):
                self.connect()
            elif isinstance(self.next, TakeSnapshot):
                self.take_snapshot()
            self.pump(40)
            if self.stream is not None:
                self.server_reads(40)
                self.server_writes(40)
            self.read(40)
            self.store(40, [])
            self.now += 0.05
        assert self._is_converged()
        for key, problem in self.answers.items():
            refused = key in self.refuse
            if problem is None:
                assert not refused
            else:
                assert refused or isinstance(problem, errors.PreviousRefused)

    def _is_converged(self) -> bool:
        return (
            self.stream is not None
            and self.session.is_live
            and len(self.session.queue) == 0
            and self.base + self.stored == len(self.node.timeline)
            and self.stream.acked == len(self.node.timeline)
        )


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
