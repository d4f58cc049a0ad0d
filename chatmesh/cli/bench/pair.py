"""One pair: a sender that keeps its window or its rate, a receiver that checks every message.

Role: what is under way, what may be sent now (window, sends without result, frames a second), what
came. Both ends live in one process and one clock: a latency is arrival minus intended send time.

Rules: no I/O but `Device.write`. Nothing is assumed: a message counts as delivered when the
receiver's device had it, once and whole.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from chatmesh.cli.bench.device import Device
from chatmesh.cli.bench.latency import Histogram
from chatmesh.cli.bench.ledger import Ledger
from chatmesh.cli.bench.payload import KeySource, PairBodies, SendFrames
from chatmesh.cli.bench.plan import DevicePlan, Load, PairPlan
from chatmesh.v1 import session_pb2, types_pb2

MOST_BEHIND: Final = 65_536
"""Messages of one pair that may wait for the mesh before the run is given up."""


@dataclass(slots=True)
class Period:
    """When messages may be sent and which of them are measured; one for all pairs."""

    is_open: bool = False
    measure_ns: int = 1 << 62
    end_ns: int = 1 << 62
    delivered: int = 0
    """Arrivals within the measured time."""


class FrameBudget:
    """Frames that one session may send now."""

    __slots__ = ("_at", "_tokens")

    def __init__(self) -> None:
        self._tokens = 1.0
        self._at = 0.0

    def take(self, limits: types_pb2.Limits) -> bool:
        """Whether one more frame is within frames_per_second; a tenth is left to acks and pings."""
        now = time.monotonic()
        rate = limits.frames_per_second * 0.9
        self._tokens = min(
            max(1.0, limits.frames_burst / 2), self._tokens + (now - self._at) * rate
        )
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Pair:
    """A sender and a receiver."""

    def __init__(
        self,
        plan: PairPlan,
        load: Load,
        run: int,
        period: Period,
        histogram: Histogram,
        on_failure: Callable[[str], None],
    ) -> None:
        self.ledger = Ledger()
        self.sender = _Sender(plan.sender, on_failure, self)
        self.receiver = _Receiver(plan.receiver, on_failure, self)
        self.sent = 0
        self.is_waiting = False
        """Something is to be sent that no answer will set off (frames a second were used up)."""
        self._load = load
        self._period = period
        self._histogram = histogram
        self.bodies = PairBodies(run, plan.number, load.size_bytes)
        self._frames = SendFrames(plan.receiver.user, load.size_bytes)
        self._keys = KeySource()
        self._intended: deque[int] = deque()
        self._unanswered: deque[bytes] = deque()
        self._echoes = 0
        self._budget = FrameBudget()

    # -- sending -------------------------------------------------------------------------------

    def want(self, intended_ns: int) -> None:
        """Send one message now, or as soon as the limits allow."""
        self.intend(intended_ns)
        self.pump()

    def intend(self, intended_ns: int) -> None:
        """Queue one message; `pump` sends."""
        self._intended.append(intended_ns)
        if len(self._intended) > MOST_BEHIND:
            self.sender.fail(
                f"is {MOST_BEHIND} messages behind: the mesh does not take this rate, lower --rate"
            )

    def fill_window(self, now_ns: int) -> None:
        """Keep the window full while the load is on."""
        if self._load.window is None or not self._period.is_open:
            return
        if now_ns >= self._period.end_ns:
            return
        under_way = self.sent + len(self._intended) - self.ledger.delivered
        missing = self._load.window - under_way
        if self._load.messages is not None:
            missing = min(missing, self._load.messages + 1 - self.sent - len(self._intended))
        if missing > 0:
            self._intended.extend([now_ns] * missing)
            self.pump()

    def pump(self) -> None:
        """Send what waits, in one frame, as far as the session's limits go."""
        limits = self.sender.limits
        room = min(
            len(self._intended),
            limits.max_send_batch,
            limits.max_sends_in_flight - len(self._unanswered),
        )
        if room <= 0:
            return  # an answer will set it off
        if not self._budget.take(limits):
            self.is_waiting = True
            return
        now_ms = time.time_ns() // 1_000_000 + self.sender.clock_ahead_ms
        messages = []
        for _ in range(room):
            key = self._keys.next(now_ms)
            body = self.bodies.make(self.sent, self._intended.popleft())
            messages.append(self._frames.message(key, body))
            self._unanswered.append(key)
            self.sent += 1
        self.is_waiting = len(self._intended) > 0
        self.sender.write(self._frames.frame(messages))

    # -- what comes ----------------------------------------------------------------------------

    def answered(self, results: Iterable[session_pb2.SendResult]) -> None:
        """Results of sends: each key once, in order, accepted."""
        for result in results:
            if result.HasField("problem"):
                problem = result.problem
                self.sender.fail(f"had a message refused: {problem.reason}: {problem.message}")
                return
            if not self._unanswered or self._unanswered.popleft() != result.idempotency_key:
                self.sender.fail("was answered out of order, or twice, or for a foreign key")
                return
        if self._intended:
            self.pump()

    def echoed(self, event: types_pb2.Event) -> None:
        """An entry of the sender's own timeline."""
        if event.idempotency_key:
            self._echoes += 1

    def arrived(self, event: types_pb2.Event, now_ns: int) -> None:
        """An entry of the receiver's timeline."""
        content = event.content
        kind = content.WhichOneof("kind")
        if kind == "text":
            stamp = self.bodies.read(content.text.body)
        elif kind == "data":
            stamp = self.bodies.read(content.data.body.decode("ascii", "replace"))
        else:
            return  # the mesh's own events, such as a new contact
        if stamp is None or event.sender_user_id != self.sender.plan.user:
            self.receiver.fail("got a message that was not sent to it, or not so")
            return
        if not self.ledger.receive(stamp.number):
            return
        period = self._period
        measured_at = stamp.intended_ns if self._load.window is None else now_ns
        if period.measure_ns <= measured_at < period.end_ns:
            self._histogram.record(now_ns - stamp.intended_ns)
        if period.measure_ns <= now_ns < period.end_ns:
            period.delivered += 1

    # -- the end -------------------------------------------------------------------------------

    def is_settled(self) -> bool:
        """Whether everything wanted was sent, answered, delivered and echoed."""
        return (
            not self._intended
            and not self._unanswered
            and self.ledger.delivered >= self.sent
            and self._echoes >= self.sent
        )

    def echoes_missing(self) -> int:
        """Messages that the sender's own device has not seen come back."""
        return max(0, self.sent - self._echoes)

    def duplicated_elsewhere(self) -> int:
        """Positions that came twice to either device."""
        return self.sender.duplicated + self.receiver.duplicated + max(0, self._echoes - self.sent)

    def disorder_elsewhere(self) -> int:
        """Holes and steps back in either device's timeline."""
        return self.sender.out_of_order + self.receiver.out_of_order


class _Sender(Device):
    def __init__(self, plan: DevicePlan, on_failure: Callable[[str], None], pair: Pair) -> None:
        super().__init__(plan, on_failure)
        self._pair = pair

    def on_event(self, event: types_pb2.Event) -> None:
        self._pair.echoed(event)

    def on_results(self, results: Iterable[session_pb2.SendResult]) -> None:
        self._pair.answered(results)


class _Receiver(Device):
    def __init__(self, plan: DevicePlan, on_failure: Callable[[str], None], pair: Pair) -> None:
        super().__init__(plan, on_failure)
        self._pair = pair

    def on_event(self, event: types_pb2.Event) -> None:
        self._pair.arrived(event, time.monotonic_ns())

    def after_frame(self) -> None:
        self._pair.fill_window(time.monotonic_ns())
