"""A session that lives on this node: the machine, who it is, and the way to its stream.

Whatever happens to a session happens through here: an input of the machine, then its effects are
done by the node and its writer is woken. The stream is only two functions: frames come in by
``on_frame``, and a writer that was woken takes frames out by ``take_frame`` until there is none;
so the transport can change without touching anything else.

All work after a frame was read belongs to the node, not to the stream's handler: a client's cancel
kills its handler and nothing else.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from chat_svc.core.batch import PendingSend, Sender
from chat_svc.core.effects import Effect
from chat_svc.core.limits import Limits
from chat_svc.core.session import SessionMachine, State
from chat_svc.core.window import Item, Unacked
from chat_svc.node.counters import NodeCounters
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.identity import Identity
from chatmesh.runtime.trace import Tracer
from chatmesh.v1.session_pb2 import ClientFrame, Closed, GoingAway

AGE_SECONDS: Final = (32 * 60.0, 38 * 60.0)
"""Clients are asked to reconnect before their connection reaches its greatest age (45 minutes, less
10 % by gRPC's jitter), when its streams would be cut."""

CLOSING_SECONDS: Final = 2.0
"""How long a client may take to read its last frames; then the stream ends without them."""


class EffectRunner(Protocol):
    """The node, as a session sees it."""

    def run(self, session: "LiveSession", effect: Effect) -> None:
        """Do what the machine asks for. Never raises, never waits."""
        ...

    def ended(self, session: "LiveSession") -> None:
        """The session has ended, whichever way. Called once."""
        ...


class LiveSession:
    """See the module's text."""

    __slots__ = (
        "_abort",
        "_age_at",
        "_clock",
        "_counters",
        "_in_write",
        "_node",
        "_tracer",
        "_wake",
        "account",
        "began_at",
        "busy",
        "closing_at",
        "device_id",
        "device_kind",
        "identity",
        "is_over",
        "is_paused",
        "machine",
        "received_ns",
        "sender",
        "session_no",
        "stream_trace",
        "token",
        "was_opened",
        "watched",
    )

    def __init__(
        self,
        node: EffectRunner,
        identity: Identity,
        limits: Limits,
        clock: Clock,
        counters: NodeCounters,
        tracer: Tracer,
        *,
        stream_trace: bytes = b"",
    ) -> None:
        self._node = node
        self._clock = clock
        self._counters = counters
        self._tracer = tracer
        self._wake: Callable[[], None] = _nobody
        self._abort: Callable[[], None] = _nobody
        self._in_write: Sequence[Unacked] = ()
        self.began_at = clock.monotonic()
        self._age_at = self.began_at + random.uniform(*AGE_SECONDS)
        self.closing_at = 0.0
        """When the last frames began to wait for the transport; 0 = the session goes on."""
        self.identity = identity
        self.machine = SessionMachine(limits, clock.monotonic())
        self.machine.token_expires_at_ms = identity.expires_at_ms
        self.account = 0
        self.device_id = ""
        self.device_kind = 0
        self.session_no = 0
        self.token = ""
        """Names the session for Submit."""
        self.sender: Sender | None = None
        self.is_over = False
        self.busy: asyncio.Future[None] | None = None
        """Set while the session is being opened or a token is verified: no frame is read."""
        self.watched: set[int] = set()
        """Accounts whose presence this session is told."""
        self.stream_trace = stream_trace
        """Trace context of the stream: parent of messages that carry none."""
        self.received_ns = 0
        self.was_opened = False
        """It was welcomed, and counted."""
        self.is_paused = False
        """Frames are no longer taken: the node leaves. What they say is said again elsewhere."""

    # -- the stream ------------------------------------------------------------------------------

    def attach_writer(self, wake: Callable[[], None], abort: Callable[[], None]) -> None:
        """``wake`` is called when frames wait; it must be cheap and callable again and again.
        ``abort`` ends the stream though its client does not take the last frames."""
        self._wake = wake
        self._abort = abort

    def tick(self, now: float, wall_ms: int) -> None:
        """Timeouts; about once a second."""
        self.machine.tick(now, wall_ms)
        if now > self._age_at:
            self._age_at = now + AGE_SECONDS[1]
            self.machine.going_away(GoingAway.REASON_CONNECTION_AGE, random.randint(0, 10_000))
        if self.machine.state is State.CLOSING:
            if not self.closing_at:
                self.closing_at = now
            elif now - self.closing_at > CLOSING_SECONDS:
                self._abort()
        self.settle()

    def on_frame(self, frame: ClientFrame) -> None:
        """One frame of the client."""
        self._counters.client_frames_in += 1
        if self.is_paused:
            return
        self.received_ns = time.time_ns()
        self.machine.on_frame(frame, self._clock.monotonic(), self._clock.wall_ms())
        self.settle()

    def undecodable(self, fault: Fault) -> None:
        """Bytes came that are no frame."""
        self.machine.undecodable(fault)
        self.settle()

    def half_closed(self) -> None:
        """The client will send nothing more."""
        self.machine.half_closed()
        self.settle()

    def take_frame(self) -> bytes:
        """The next frame to write; empty: wait to be woken, or `is_finished`."""
        before = self.machine.window.taken_seq
        frame = self.machine.take_frame()
        if frame:
            window = self.machine.window
            self._counters.client_frames_out += 1
            self._counters.entries_out += window.taken_seq - before
            if window.traced:  # now: the ack may come before the transport says that it is written
                self._in_write = window.traced_since(before)
        return frame

    def has_left(self) -> bool:
        """Whether it takes no entries any more: its stream is over, or only `closed` waits."""
        return self.is_over or self.machine.is_ended

    @property
    def is_finished(self) -> bool:
        """Whether ``closed`` has been taken: the stream ends with `final_fault`, or with OK."""
        return self.machine.state is State.CLOSED

    @property
    def final_fault(self) -> Fault | None:
        """The status that the stream ends with; None = OK."""
        return self.machine.ending.fault if self.machine.ending else None

    @property
    def was_replaced(self) -> bool:
        """Whether a newer session of the device has taken over: it owes nothing any more."""
        ending = self.machine.ending
        return ending is not None and ending.reason == Closed.REASON_REPLACED

    def wrote(self) -> None:
        """The last frame taken is with the transport; spans of sampled entries."""
        if self._in_write:
            now_ns = time.time_ns()
            for entry in self._in_write:
                self._tracer.hop(
                    "chat.write",
                    entry.trace,
                    now_ns,
                    now_ns,
                    {
                        "chatmesh.message_id": entry.message_id,
                        "chatmesh.conversation_seq": entry.conversation_seq,
                        "chatmesh.session_no": self.session_no,
                    },
                )
            self._in_write = ()

    def gone(self) -> None:
        """The stream is over. Safe to call again."""
        if not self.is_over:
            self.is_over = True
            self._wake = self._abort = _nobody
            self._node.ended(self)

    # -- the node --------------------------------------------------------------------------------

    def settle(self) -> None:
        """Do the effects of the last input, then wake the writer if frames wait."""
        effects = self.machine.effects
        while effects:
            waiting = effects.copy()
            effects.clear()  # the list is the machine's own: it is emptied, not replaced
            for effect in waiting:
                self._node.run(self, effect)
        if self.machine.frames:
            self._wake()

    def offer(self, item: Item, now: float) -> None:
        """An entry of the account, from the live path."""
        self.machine.offer(item, now)
        self.settle()

    def answer(self, _send: PendingSend, result: bytes, _accepted: bool) -> None:
        """The result of one of this session's messages."""
        self._counters.results_out += 1
        self.machine.result(result)
        if self.machine.frames:
            self._wake()


def _nobody() -> None:
    """No writer: the frames wait, bounded by the machine."""
