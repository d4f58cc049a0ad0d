"""One device's session as a machine without I/O: the mirror of the server's.

The driver (`_runner`) asks `step()` what to do whenever its writer is free, feeds every frame to
`receive()`, and the end of a stream to `lost()`. Frames are *pulled* by a free writer, so what
gathers meanwhile leaves joined: many sends in one frame, one ack for many entries.

    waiting --hello--> opening --welcome--> live --half close--> leaving --end--> waiting …
                          \\--- CURSOR_INVALID or rewound ---> snapshot needed --> waiting
                          \\--- replaced, refused, revoked --> ended

Rules: no clock (every input carries `now`, monotonic seconds), no randomness (passed in), no
import of grpc, asyncio or sqlite3. Invariants, tested by tests/client/test_session_machine.py:
- entries leave in order, each once, over all sessions of this machine (P4);
- an ack is never above what the application stored, never falls within a session (P5);
- unanswered sends go again under their keys, in first order, before newer ones (P2, O2);
- never more sends in flight, or messages and bytes in a frame, than the server's limits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from chatmesh.client import errors
from chatmesh.client._comeback import Comeback
from chatmesh.client._moves import (
    Config,
    Cut,
    Ended,
    HalfClose,
    Next,
    Received,
    Reconnect,
    Settled,
    Step,
    TakeSnapshot,
    Wait,
    Write,
)
from chatmesh.client._pace import FrameBucket
from chatmesh.client._problem import from_problem
from chatmesh.client._progress import Cursor, GapSeen, HistoryRewound, Progress
from chatmesh.client._sendqueue import Outgoing, SendQueue
from chatmesh.client._statements import Statements
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1.types_pb2 import Limits

WELCOME_SECONDS: Final = 10.0
"""A stream that does not answer hello this long is given up."""
ACK_GAP_SECONDS: Final = 0.1
"""Least time between two acks, unless a quarter of the window is due. The first after a pause goes
at once. At 50 entries a second that is one ack for five; 20 ms made nearly one for each."""
PINGS_PER_IDLE_TIMEOUT: Final = 3.0
"""A ping may be lost or late twice before the server would close the session as idle."""
DEFAULT_IDLE_SECONDS: Final = 20.0
LEAVE_SECONDS: Final = 3.0
"""How long the answers to a half-close may take."""
GOOD_AFTER_SECONDS: Final = 5.0
"""A session that lived this long resets the backoff, and so does one that brought something."""
FRAME_HEADROOM_BYTES: Final = 4096
RETRY_SENDS_SECONDS: Final = 0.5
"""Wait after "later" without advice."""
UNKNOWN_LIMITS: Final = Limits(
    max_send_batch=1, max_sends_in_flight=1, window_entries=256, max_frame_bytes=1 << 16
)

LATER: Final = frozenset((
    "OUTBOX_FULL", "STORE_FULL", "SENDS_IN_FLIGHT", "NOT_SERVING", "SHUTTING_DOWN", "PEER_TIMEOUT",
    "PEER_BUSY", "DEADLINE_EXCEEDED", "RATE_LIMITED",
))  # fmt: skip
"""Refusals of a message that mean "the same again, later"."""


class Session:
    """The machine. One per client; it outlives streams."""

    def __init__(self, config: Config, cursor: Cursor | None, random: Callable[[], float]) -> None:
        self.config = config
        self.device_id = config.device_id
        self.user_id = ""
        self.limits = UNKNOWN_LIMITS
        self.queue = SendQueue()
        self.progress = Progress(cursor)
        self.statements = Statements()
        self.is_live = False
        self._bucket = FrameBucket()
        self._comeback = Comeback(config, random)
        self._leaving_for_good = False
        self._reset_stream(0.0)

    def _reset_stream(self, now: float) -> None:
        """State of one stream, gone with it."""
        self.is_live = False
        self._hello_sent = False
        self._opened_at = now
        self._read_at = now
        self._wrote_at = now
        self._acked_at = -ACK_GAP_SECONDS
        self._bytes_since_ack = 0
        self._pinged_at: float | None = None
        self._ping_nonce = 0
        self._move_at: float | None = None
        self._half_closed_at: float | None = None
        self._hold_sends_until = 0.0
        self._closed: pb.Closed | None = None
        self._needs_snapshot = False
        self._cut_why = ""
        self._useful = False

    # -- the application's side --------------------------------------------------------------------

    def offer(self, messages: Sequence[Outgoing]) -> None:
        """Queue messages; they leave as soon as a session lives and its limits allow."""
        self.queue.offer(messages)

    def stored(self, cursor: Cursor, epoch: int) -> None:
        """The application stored up to here and the device's store remembers it."""
        if epoch == self.progress.epoch:
            self.progress.store(cursor)

    def leave(self) -> None:
        """End the session in good order: send what waits, then half-close."""
        self._leaving_for_good = True

    def snapshot_taken(self, as_of: Cursor) -> Next:
        """The application has the snapshot, and the store remembers its position."""
        self.progress.reset(as_of)
        return self._comeback.soon()

    def snapshot_failed(self, error: errors.ChatmeshError) -> Next:
        """The snapshot could not be read."""
        match self._comeback.after_error(error):
            case Reconnect(after_seconds):
                return TakeSnapshot(after_seconds)
            case other:
                return other

    # -- the writer's side -------------------------------------------------------------------------

    def open_stream(self, now: float) -> None:
        """A stream is being opened: `step` gives the hello."""
        self._reset_stream(now)
        self.queue.session_lost()
        self.statements.session_lost()

    def step(self, now: float) -> Step:
        """What the free writer does now."""
        if self._cut_why:
            return Cut(self._cut_why)
        if not self._hello_sent:
            self._hello_sent = True
            return self._write(self._hello(), now)
        if not self.is_live:
            due = self._opened_at + WELCOME_SECONDS
            return Cut("no welcome came") if now >= due else Wait(due)
        if self._half_closed_at is not None:
            due = self._half_closed_at + LEAVE_SECONDS
            return Cut("the server did not end the session") if now >= due else Wait(due)
        return self._live_step(now)

    def _live_step(self, now: float) -> Step:
        silence = self._idle_seconds
        if self._pinged_at is not None and now >= self._pinged_at + silence:
            return Cut("no pong came")
        if now >= self._ping_due():
            return self._write(self._ping(now), now)
        ready = self._bucket.ready_at(now)
        if ready > now:
            return Wait(min(ready, self._ping_due()))
        moving = self._move_at is not None and now >= self._move_at
        frame = self._ack(now, moving or self._leaving_for_good) or self.statements.next_frame()
        if frame is None and not moving:
            frame = self._send(now)
        if frame is not None:
            return self._write(frame, now)
        if moving or self._may_leave():
            self._half_closed_at = now
            return HalfClose()
        return Wait(self._next_due(now))

    def _write(self, frame: pb.ClientFrame, now: float) -> Write:
        self._wrote_at = now
        self._bucket.spend(now)
        return Write(frame)

    def _hello(self) -> pb.ClientFrame:
        config, start = self.config, pb.Hello.START_OLDEST
        if config.start_at_head:
            start = pb.Hello.START_HEAD
        hello = pb.Hello(
            device_id=self.device_id,
            device_kind=config.device_kind,
            cursor=self.progress.hello_cursor(),
            start=start,
            device_name=config.device_name,
            client_version=config.client_version,
        )
        return pb.ClientFrame(hello=hello)

    @property
    def _idle_seconds(self) -> float:
        return float(self.limits.idle_timeout_seconds or DEFAULT_IDLE_SECONDS)

    def _ping_due(self) -> float:
        if self._pinged_at is not None:
            return float("inf")
        return min(self._wrote_at, self._read_at) + self._idle_seconds / PINGS_PER_IDLE_TIMEOUT

    def _ping(self, now: float) -> pb.ClientFrame:
        self._pinged_at = now
        self._ping_nonce += 1
        self.statements.pinged(self._ping_nonce)
        return pb.ClientFrame(ping=pb.Ping(nonce=self._ping_nonce))

    def _ack_due(self) -> float:
        if self.progress.to_ack == 0:
            return float("inf")
        if self.progress.to_ack >= max(1, self.limits.window_entries // 4):
            return 0.0
        if 0 < self.limits.window_bytes <= 4 * self._bytes_since_ack:
            return 0.0
        return self._acked_at + ACK_GAP_SECONDS

    def _ack(self, now: float, leaving: bool) -> pb.ClientFrame | None:
        due = self._ack_due()
        if due == float("inf") or (now < due and not leaving):
            return None
        self._acked_at = now
        self._bytes_since_ack = 0
        self.progress.acked = self.progress.ackable
        return pb.ClientFrame(ack=pb.Ack(up_to_timeline_seq=self.progress.acked))

    def _send(self, now: float) -> pb.ClientFrame | None:
        if now < self._hold_sends_until:
            return None
        taken = self.queue.take(
            max_in_flight=self.limits.max_sends_in_flight or 1,
            max_messages=self.limits.max_send_batch or 1,
            max_bytes=max(1, self.limits.max_frame_bytes - FRAME_HEADROOM_BYTES),
        )
        if not taken:
            return None
        send = pb.Send(
            messages=[outgoing.message for outgoing in taken], stop_on_error=taken[0].group != 0
        )
        return pb.ClientFrame(send=send)

    def _may_leave(self) -> bool:
        return self._leaving_for_good and len(self.queue) == 0 and self.progress.to_ack == 0

    def _next_due(self, now: float) -> float:
        dues = [self._ping_due(), self._ack_due()]
        if self._pinged_at is not None:
            dues.append(self._pinged_at + self._idle_seconds)
        if self._move_at is not None:
            dues.append(self._move_at)
        if self.queue.is_waiting and self._hold_sends_until > now:
            dues.append(self._hold_sends_until)
        return min(dues)

    # -- the reader's side -------------------------------------------------------------------------

    def receive(self, frame: pb.ServerFrame, now: float) -> Received:
        """Take one frame; fields are handled in the order of the contract."""
        self._read_at = now
        received = Received()
        try:
            if frame.welcome:
                self._welcome(frame.welcome[-1], received, now)
            if frame.entries:
                received.entries = self.progress.receive(frame.entries)
                self._bytes_since_ack += frame.ByteSize()
                self._settle_by_own_entries(received)
        except GapSeen as seen:
            self._cut_why = str(seen)
            return received
        except HistoryRewound as seen:
            self._cut_why, self._needs_snapshot = str(seen), True
            return received
        for result in frame.send_results:
            self._settle(result, received, now)
        self._useful = self._useful or bool(received.entries or received.settled)
        received.caught_up = bool(frame.caught_up)
        received.receipts = frame.receipts
        received.presence = frame.presence
        received.typing = frame.typing
        if frame.pong:
            received.pong = frame.pong[-1]
            self._pong(frame.pong)
        if frame.going_away:
            advice = frame.going_away[-1]
            self._move_at = self._comeback.spread(advice.reconnect_after_ms / 1000) + now
        if frame.closed:
            self._closed = frame.closed[-1]
        return received

    def _welcome(self, welcome: pb.Welcome, received: Received, now: float) -> None:
        received.begins = self.progress.opened(
            welcome.start_timeline_seq, welcome.head_timeline_seq
        )
        received.welcome = welcome
        self.is_live = True
        self.user_id, self.device_id = welcome.user_id, welcome.device_id
        self.limits = welcome.limits
        self._comeback.welcomed()
        self._opened_at = now
        self._bucket.configure(self.limits.frames_per_second, self.limits.frames_burst, now)

    def _settle_by_own_entries(self, received: Received) -> None:
        """An own entry is proof of the commit, whether or not its result ever comes."""
        for entry in received.entries:
            event = entry.event
            if event.idempotency_key and event.idempotency_key in self.queue:
                self.queue.settle(event.idempotency_key)
                result = pb.SendResult(
                    idempotency_key=event.idempotency_key,
                    message_id=event.message_id,
                    conversation_id=event.conversation_id,
                    conversation_seq=event.conversation_seq,
                    message_no=event.message_no,
                    timeline_seq=entry.timeline_seq,
                    created_at_ms=event.created_at_ms,
                )
                received.settled.append(Settled(event.idempotency_key, result))

    def _settle(self, result: pb.SendResult, received: Received, now: float) -> None:
        key = result.idempotency_key
        if key not in self.queue:
            return
        problem = from_problem(result.problem) if result.HasField("problem") else None
        if problem is not None and problem.reason in LATER:
            self.queue.again(key)
            wait = problem.retry_after_seconds or RETRY_SENDS_SECONDS
            self._hold_sends_until = max(self._hold_sends_until, now + wait)
            return
        self.queue.settle(key)
        received.settled.append(Settled(key, result, problem))

    def _pong(self, pongs: Sequence[pb.Pong]) -> None:
        for pong in pongs:
            if pong.nonce and pong.nonce == self._ping_nonce:
                self._pinged_at = None
                self.statements.confirmed(pong.nonce)

    # -- ends --------------------------------------------------------------------------------------

    def lost(self, error: errors.ChatmeshError | None, now: float) -> Next:
        """The stream has ended (`error` None: with status OK). What comes next."""
        lived = self.is_live and now - self._opened_at >= GOOD_AFTER_SECONDS
        if lived or self._useful:
            self._comeback.good()
        closed, moved = self._closed, self._half_closed_at is not None
        needs_snapshot = self._needs_snapshot
        self._reset_stream(now)
        self.queue.session_lost()
        self.statements.session_lost()
        if self._leaving_for_good and (moved or error is None):
            return Ended(None)
        if needs_snapshot:
            return self._voided(TakeSnapshot())
        if closed is not None:
            return self._voided(self._comeback.after_closed(closed, moved))
        if isinstance(error, errors.CursorInvalid):
            return self._voided(TakeSnapshot())
        return self._comeback.after_error(error)

    def _voided(self, next_: Next) -> Next:
        """When a snapshot is next, what the application holds counts no more."""
        if isinstance(next_, TakeSnapshot):
            self.progress.void()
        return next_
