"""A session against a model: whatever happens to hints, reads and acks, the device gets its
timeline, contiguous, each entry once, within the window; and converges when it heals."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chat_svc.core import effects
from chat_svc.core.session import State
from chatmesh.v1 import session_pb2 as pb
from tests.chat_core.driver import Driver

WINDOW = 6


class SessionModel(RuleBasedStateMachine):
    """The timeline is 1..head; hints of it are lost, late, doubled and reordered."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(window_entries=WINDOW, frames_per_second=1000, frames_burst=1000)
        self.hints: list[int] = []
        self.reads: list[effects.Read] = []
        self.holes = 0
        self.start = 0

    @initialize(head=st.integers(0, 20), behind=st.integers(0, 20))
    def open(self, head: int, behind: int) -> None:
        self.driver.head = head
        self.start = max(0, head - behind)
        self.driver.open(start=self.start)
        self._collect()

    def _collect(self) -> None:
        self.reads += self.driver.take(effects.Read)
        self.holes += len(self.driver.take(effects.WaitForHole))
        assert len(self.reads) <= 1, "one read at a time"
        assert self.holes <= 1, "one wait at a time"

    @rule(count=st.integers(1, 9))
    def commit(self, count: int) -> None:
        for _ in range(count):
            self.driver.head += 1
            self.hints.append(self.driver.head)

    @precondition(lambda self: self.hints)
    @rule(data=st.data(), keep=st.booleans())
    def hint(self, data: st.DataObject, keep: bool) -> None:
        seq = data.draw(st.sampled_from(self.hints))
        if not keep:
            self.hints.remove(seq)
        self.driver.offer(seq)
        self._collect()

    @precondition(lambda self: self.hints)
    @rule(data=st.data())
    def lose_hint(self, data: st.DataObject) -> None:
        self.hints.remove(data.draw(st.sampled_from(self.hints)))

    @precondition(lambda self: self.hints)
    @rule(data=st.data())
    def hint_without_entry(self, data: st.DataObject) -> None:
        self.driver.machine.note_head(data.draw(st.sampled_from(self.hints)))
        self._collect()

    @rule(seq=st.integers(1, 60))
    def forged_head(self, seq: int) -> None:
        self.driver.machine.note_head(seq)
        self._collect()

    @precondition(lambda self: self.holes)
    @rule()
    def hole_due(self) -> None:
        self.holes = 0
        self.driver.machine.hole_due()
        self._collect()

    @precondition(lambda self: self.reads)
    @rule(fails=st.booleans())
    def read(self, fails: bool) -> None:
        read = self.reads.pop()
        if fails:
            self.driver.machine.read_failed(self.driver.now)
        else:
            self.driver.answer(read)
        self._collect()

    @rule()
    def write_one_frame(self) -> None:
        if self.driver.machine.frames:
            frame = pb.ServerFrame.FromString(self.driver.machine.take_frame())
            self.driver.received += [entry.timeline_seq for entry in frame.entries]
            self.driver.frames.append(frame)

    @precondition(lambda self: self.driver.received)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        self.driver.ack(data.draw(st.sampled_from(self.driver.received)))
        self.driver.take(effects.Acked)
        self.driver.take(effects.PushVoid)
        self._collect()

    @rule(seconds=st.sampled_from([1, 3, 11]))
    def wait(self, seconds: int) -> None:
        self.driver.say(ping=pb.Ping())
        self.driver.take(effects.AccountStateWanted)
        self.driver.later(seconds)
        self.driver.take(effects.PushOwed)
        self._collect()

    @invariant()
    def contiguous_and_once(self) -> None:
        received = self.driver.received
        assert received == list(range(self.start + 1, self.start + 1 + len(received)))

    @invariant()
    def bounded(self) -> None:
        window = self.driver.machine.window
        assert window.unacked_entries <= WINDOW
        assert window.acked_seq <= window.taken_seq <= window.queued_seq <= window.head_seq

    def teardown(self) -> None:
        """Heal: answer everything, ack everything; the device must have all that was committed."""
        driver = self.driver
        if driver.machine.state is not State.LIVE:
            return  # too slow for too long: resumed elsewhere
        driver.machine.note_head(driver.head)
        self._collect()
        for _ in range(driver.head + 20):
            if self.holes:
                self.hole_due()
            if self.reads:
                self.read(fails=False)
            driver.drain()
            if driver.received:
                driver.ack(driver.received[-1])
            driver.say(ping=pb.Ping())
            driver.later(1)
            self._collect()
            driver.machine.effects.clear()
        assert driver.received == list(range(self.start + 1, driver.head + 1))
        caught_up = [c for frame in driver.frames for c in frame.caught_up]
        assert len(caught_up) == 1


SessionModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSessionModel = SessionModel.TestCase
