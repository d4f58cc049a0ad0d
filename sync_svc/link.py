"""The Deliver stream to one chat node.

Role: deliveries, signals and done batches go out in joined frames; answers come back; a node that
leaves a delivery without an answer is given up with all that it has not answered.
Rules: one writer, bounded frames; what waits is bounded by the caller's batches (deliveries), by
count (signals: the newest per key wins, then the oldest go) and by what the node can have
committed (done). A delivery that is unanswered when the stream ends is sent again on the next
one, until its time is over. Only deliveries have answers; the rest is sent at most once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from chatmesh.mesh.v1.hint_pb2 import Signal
from chatmesh.mesh.v1.node_pb2 import DeliverRequest, DeliverResponse, DeliveryOutcome
from chatmesh.runtime import failpoints, metrics, trace
from chatmesh.runtime.reopening import ReopeningStream, StreamCall
from chatmesh.runtime.tally import TALLY
from sync_svc import measures
from sync_svc.plan import NodeDelivery

FRAME_DELIVERIES: Final = 512
FRAME_BYTES: Final = 1 << 20
"""A frame ends with what passes this; one hint more stays far below the 8 MiB a node takes."""
FRAME_DONE: Final = 10_000
MAX_SIGNALS: Final = 4_096
MAX_DONE: Final = 100_000
"""Done batches that wait for a node which is away; what is dropped is settled once more later."""
DONE_HOLD_SECONDS: Final = 0.02
"""`done` alone waits this long for company: rows are resent after seconds, not milliseconds."""


class Link(ReopeningStream[DeliverResponse]):
    """One node. `run` must be running; the owner cancels it."""

    def __init__(
        self,
        open: Callable[[], Any],  # noqa: A002 - it opens the stream
        node_id: int,
        *,
        answer_seconds: float,
        on_answer: Callable[[list[tuple[NodeDelivery, bool]]], None],
        on_given_up: Callable[[Link, str], None],
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        """`on_answer` hears (delivery, whether a session took it); `on_given_up` hears once that
        the link is of no more use, with the cause, and takes the unanswered deliveries back."""
        super().__init__(open, name="deliver", on_end=self._stream_ended)
        self.node_id = node_id
        self._answer_seconds = answer_seconds
        self._on_answer = on_answer
        self._on_given_up = on_given_up
        self._after_end = on_end
        self._loop = asyncio.get_running_loop()
        self._next_id = 1
        self._unanswered: dict[int, tuple[NodeDelivery, float]] = {}  # with its deadline
        self._unwritten: deque[int] = deque()
        self._signals: dict[tuple[int, bytes], Signal] = {}
        self._done: list[tuple[int, bytes]] = []
        self._deadline: asyncio.TimerHandle | None = None
        self._hold: asyncio.TimerHandle | None = None
        self._flushed = asyncio.Event()
        self._given_up = False
        self.used_at = self._loop.time()
        self._resends = metrics.counter(metrics.STREAM_RESENDS).labels(self.name)
        self._dropped = metrics.counter(measures.SIGNALS_DROPPED)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is without an answer."""
        return not (self._unanswered or self._signals or self._done)

    def deliver(self, deliveries: Iterable[NodeDelivery]) -> None:
        """Queue deliveries; each is answered, or taken back when the link is given up."""
        deadline = self._loop.time() + self._answer_seconds
        for delivery in deliveries:
            delivery_id = self._next_id
            self._next_id += 1
            self._unanswered[delivery_id] = (delivery, deadline)
            self._unwritten.append(delivery_id)
        if self._deadline is None and self._unanswered:
            self._deadline = self._loop.call_at(deadline, self._look_at_deadline)
        self._used()

    def signal(self, signal: Signal) -> None:
        """Queue a signal, in place of an older one of the same key."""
        key = (signal.account_id, signal.coalesce_key or signal.frame)
        self._signals.pop(key, None)
        self._signals[key] = signal
        if len(self._signals) > MAX_SIGNALS:
            del self._signals[next(iter(self._signals))]
            self._dropped.inc()
        self._used()

    def done(self, batch_id: int, digest: bytes) -> None:
        """Queue a done batch and the settle_digest of its hints. It goes with the next frame, or
        alone after a moment."""
        self._done.append((batch_id, digest))
        if len(self._done) > MAX_DONE:
            del self._done[: MAX_DONE // 10]
        if self._hold is None:
            self._hold = self._loop.call_later(DONE_HOLD_SECONDS, self._release)

    def take_back(self) -> list[NodeDelivery]:
        """All deliveries without an answer, which the link then forgets."""
        taken = [delivery for delivery, _ in self._unanswered.values()]
        self._unanswered.clear()
        self._unwritten.clear()
        self._cancel_timers()
        return taken

    async def flush(self) -> None:
        """Return once all that waits is written and answered, or the link is given up."""
        self._release()
        while not self.is_idle and not self._given_up:
            self._flushed.clear()
            await self._flushed.wait()

    def give_up(self, cause: str) -> None:
        """Use the link no more. The owner is told once."""
        if not self._given_up:
            self._given_up = True
            self._flushed.set()
            self._on_given_up(self, cause)

    # -- the stream -----------------------------------------------------------------------------

    def _opened(self) -> None:
        again = len(self._unanswered) - len(self._unwritten)
        if again > 0:
            self._resends.inc(again)
        self._unwritten = deque(self._unanswered)

    async def _write(self, call: StreamCall) -> None:
        while not self._draining:
            frame = self._next_frame()
            if frame is None:
                self._flushed.set()
                await self._sleep()
                continue
            if frame.deliveries:
                await failpoints.hit("sync.deliver.before")
            if frame.done_batch_ids:
                await failpoints.hit("sync.settle.before")
            TALLY.frames_written += 1
            await call.write(frame)

    def _next_frame(self) -> DeliverRequest | None:
        """All that waits, up to a frame's bounds; None when nothing does."""
        frame = DeliverRequest()
        size_bytes = count = 0
        while self._unwritten and count < FRAME_DELIVERIES and size_bytes < FRAME_BYTES:
            delivery_id = self._unwritten.popleft()
            found = self._unanswered.get(delivery_id)
            if found is None:
                continue
            delivery = found[0]
            hint = delivery.pending.hint
            if trace.is_sampled(hint.trace_context):
                delivery.sent_ns = time.time_ns()
            frame.deliveries.add(delivery_id=delivery_id, hint=hint)
            size_bytes += len(hint.entry)
            count += 1
        while self._signals and size_bytes < FRAME_BYTES:
            signal = self._signals.pop(next(iter(self._signals)))
            frame.signals.append(signal)
            size_bytes += len(signal.frame)
            count += 1
        if self._done and (count or self._hold is None):
            for batch_id, digest in self._done[:FRAME_DONE]:
                frame.done_batch_ids.append(batch_id)
                frame.done_digests.append(digest)
            del self._done[:FRAME_DONE]
            count += 1
        return frame if count else None

    def _handle(self, response: DeliverResponse) -> None:
        answers: list[tuple[NodeDelivery, bool]] = []
        for settled in response.settled:
            found = self._unanswered.pop(settled.delivery_id, None)
            if found is not None:
                refused = settled.outcome == DeliveryOutcome.DELIVERY_OUTCOME_NO_SESSION
                answers.append((found[0], not refused))
        if answers:
            self._on_answer(answers)
        self._flushed.set()

    def _stream_ended(self, cause: str) -> None:
        if self._after_end is not None:
            self._after_end(cause)
        # Nobody is waiting: do not knock for ever at the door of a node that may be gone.
        if cause not in ("age", "restart") and not self._unanswered:
            self.give_up(cause)

    # -- time -------------------------------------------------------------------------------------

    def _look_at_deadline(self) -> None:
        self._deadline = None
        oldest = next(iter(self._unanswered.values()), None)
        if oldest is None:
            return
        if oldest[1] > self._loop.time():
            self._deadline = self._loop.call_at(oldest[1], self._look_at_deadline)
            return
        self.give_up("no_answer")

    def _used(self) -> None:
        self.used_at = self._loop.time()
        self._wake.set()

    def _release(self) -> None:
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
        if self._done:
            self._wake.set()

    def _cancel_timers(self) -> None:
        for timer in (self._deadline, self._hold):
            if timer is not None:
                timer.cancel()
        self._deadline = self._hold = None
