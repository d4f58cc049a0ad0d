"""One device's session as a machine without I/O: inputs are method calls, outputs are effects and
frames.

States: NEW (nothing came) → OPENING (hello came, the node opens it) → LIVE → CLOSING (the last
frames wait) → CLOSED (``closed`` has left). What each frame means is in ``session.proto``; what the
device is told of its timeline is the ``downlink``'s; order inside a frame is that of ``frames``.

The node drains ``effects`` after each input and writes while ``frames`` holds something. Times are
passed in: ``now`` in monotonic seconds for rates and timeouts, ``wall_ms`` for keys and tokens.
Imports neither gRPC, stores nor asyncio, and never will.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from chat_svc.core import effects
from chat_svc.core.client_frames import check_hello, check_presence, check_send, check_watch
from chat_svc.core.closing import Ending, Reason, going_away_frame, problem_of
from chat_svc.core.content import Checked
from chat_svc.core.downlink import Downlink
from chat_svc.core.effects import Effect
from chat_svc.core.frames import PONG, OutgoingFrames, piece
from chat_svc.core.limits import Limits
from chat_svc.core.rate import TokenBucket
from chat_svc.core.window import AckBeyondSent, Item, Window
from chatmesh import errors
from chatmesh.runtime.faults import Fault
from chatmesh.v1.session_pb2 import (
    AppState,
    ClientFrame,
    Closed,
    GoingAway,
    Hello,
    Pong,
    Send,
    SendResult,
    Welcome,
)

TOKEN_SKEW_MS: Final = 30_000
"""A token is honoured this long after its end: clocks differ, and a renewal may be on its way."""
_KEY_ECHO_BYTES: Final = 64
MAX_WAITING_RESULTS: Final = 4_096
"""Far above the sends that a client may have open: one that sends on without reading its results
must not fill the node's memory, refused messages included."""


class State(Enum):
    """Where the session is."""

    NEW = "new"
    OPENING = "opening"
    LIVE = "live"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(slots=True)
class AccountState:
    """What ``pong`` tells of the account."""

    version: int = 0
    unread: int = 0
    mentions: int = 0


class SessionMachine:
    """See the module's text."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._bucket = TokenBucket(limits.frames_per_second, limits.frames_burst, now)
        self._began_at = now
        self._heard_at = now
        self._wall_ms = 0
        self.state = State.NEW
        self.frames = OutgoingFrames()
        self.effects: list[Effect] = []
        self.window = Window(limits.window_entries, limits.window_bytes)
        self.downlink = Downlink(self.window, self.frames, self.effects, limits.ack_timeout_seconds)
        self.in_flight = 0
        """Messages that were offered to the commit and have no result yet."""
        self.ending: Ending | None = None
        self.token_expires_at_ms = 0
        self.active = True
        """Whether its user is at the device: the application is in the foreground, as far as it
        said, and a frame of the user's doing came lately."""
        self._foreground = True
        self._stirred_at = now
        self._watched: set[str] = set()
        self.account = AccountState()
        self._account_stale = False
        self._half_closed = False

    @property
    def is_ended(self) -> bool:
        """Whether only the last frames wait, if any."""
        return self.state in _ENDED

    # -- frames of the client ------------------------------------------------------------------

    def on_frame(self, frame: ClientFrame, now: float, wall_ms: int) -> None:
        """Take one frame of the client. Never raises: what breaks the rules ends the session."""
        if self.state in _ENDED:
            return
        self._heard_at = now
        self._wall_ms = wall_ms
        if not self._bucket.take(now):
            wait = self._bucket.wait_seconds(now)
            refusal = errors.RATE_LIMITED(
                retry_after_seconds=wait,
                limit="frames_per_second",
                value=self._limits.frames_per_second,
            )
            self.close(Closed.REASON_RATE_LIMITED, refusal)
            return
        kind = frame.WhichOneof("kind")
        try:
            self._take(frame, kind, now)
        except Fault as fault:
            self._break_rule(fault)
        if kind not in _OF_ITSELF:
            self._stirred_at = now
            if self.active is not self._foreground:
                self._set_active(self._foreground)

    def undecodable(self, fault: Fault) -> None:
        """Bytes came that are no frame."""
        self._break_rule(fault)

    def half_closed(self) -> None:
        """The client sends no more frames: end when all that it sent is answered."""
        self._half_closed = True
        if self.state is State.NEW:
            self._break_rule(errors.NO_HELLO())
        elif self.state is State.LIVE and self.in_flight == 0:
            self.close(Closed.REASON_CLIENT_DONE)

    def _take(self, frame: ClientFrame, kind: str | None, now: float) -> None:
        if kind is None:
            raise errors.EMPTY_FRAME()
        if self.state is State.LIVE:
            if kind == "send":
                self._on_send(frame.send)
            elif kind == "ack":
                self._on_ack(frame.ack.up_to_timeline_seq, now)
            else:
                _HANDLERS[kind](self, frame)
        elif kind != "hello":
            raise errors.NO_HELLO()
        elif self.state is State.NEW:
            self._on_hello(frame.hello)
        else:
            raise errors.SECOND_HELLO()

    def _on_hello(self, hello: Hello) -> None:
        self.effects.append(check_hello(hello))
        self.state = State.OPENING

    def _on_send(self, send: Send) -> None:
        if self.frames.waiting_results > MAX_WAITING_RESULTS:
            self.close(Closed.REASON_TOO_SLOW)
            return
        room = self._limits.max_sends_in_flight - self.in_flight
        checked: list[Checked] = []
        for outcome in check_send(send, self._limits, room, self._wall_ms):
            if isinstance(outcome, Checked):
                checked.append(outcome)
            else:
                result = SendResult(
                    idempotency_key=outcome.key[:_KEY_ECHO_BYTES], problem=problem_of(outcome.fault)
                )
                self.frames.add_result(result.SerializeToString())
        if checked:
            self.in_flight += len(checked)
            self.effects.append(effects.Offer(checked, send.stop_on_error))

    def _on_ack(self, up_to_seq: int, now: float) -> None:
        try:
            self.downlink.ack(up_to_seq, now)
        except AckBeyondSent:
            raise errors.ACK_BEYOND_SENT(sent=self.window.taken_seq, acked=up_to_seq) from None

    def _on_mark_read(self, frame: ClientFrame) -> None:
        mark = frame.mark_read
        if mark.message_no and mark.conversation_id:
            self._account_stale = True
            self.effects.append(effects.MarkRead(mark.conversation_id, mark.message_no))

    def _on_typing(self, frame: ClientFrame) -> None:
        typing = frame.typing
        if typing.conversation_id:
            self.effects.append(effects.Typing(typing.conversation_id, typing.active))

    def _on_set_presence(self, frame: ClientFrame) -> None:
        self.effects.append(check_presence(frame.set_presence))

    def _on_app_state(self, frame: ClientFrame) -> None:
        state = frame.app_state.state
        if state in (AppState.STATE_FOREGROUND, AppState.STATE_BACKGROUND):
            self._foreground = state == AppState.STATE_FOREGROUND

    def _set_active(self, active: bool) -> None:
        if active != self.active and self.state is State.LIVE:
            self.active = active
            self.effects.append(effects.ActivityChanged(active))

    def _on_watch(self, frame: ClientFrame) -> None:
        self._watched = check_watch(frame.watch, self._watched, self._limits)
        self.effects.append(
            effects.WatchChanged(frozenset(self._watched), frame.watch.open_conversation_id)
        )

    def _on_renew_token(self, frame: ClientFrame) -> None:
        self.effects.append(effects.VerifyToken(frame.renew_token.token))

    def _on_ping(self, frame: ClientFrame) -> None:
        if self._account_stale or self.downlink.others_arrived:
            self.effects.append(effects.AccountStateWanted(frame.ping.nonce))
        else:
            self._pong(frame.ping.nonce, self._wall_ms)

    def _on_hello_again(self, frame: ClientFrame) -> None:
        raise errors.SECOND_HELLO()

    # -- what the node tells -------------------------------------------------------------------

    def opened(self, welcome: Welcome, now: float) -> None:
        """The session is open and its route is known: welcome it and read to the head.

        ``welcome`` is complete; positions and the account's state are taken from it.
        """
        if self.state is not State.OPENING:
            return
        self.state = State.LIVE
        self._heard_at = now
        self.account = AccountState(welcome.account_version, welcome.unread, welcome.mentions)
        self.frames.set_welcome(welcome.SerializeToString())
        self.downlink.start(welcome.start_timeline_seq, welcome.head_timeline_seq, now)
        if self._half_closed:
            self.close(Closed.REASON_CLIENT_DONE)

    def offer(self, item: Item, now: float) -> None:
        """An entry of the account from the live path."""
        self.downlink.offer(item, now)

    def note_head(self, seq: int, notify_seq: int = 0) -> None:
        """The timeline reaches ``seq`` (and may notify up to ``notify_seq``)."""
        self.downlink.note_head(seq, notify_seq)

    def hole_due(self) -> None:
        """Answer to ``WaitForHole``, a few milliseconds later."""
        self.downlink.hole_due()

    def read_done(self, items: Sequence[Item], min_seq: int, head_seq: int, now: float) -> None:
        """Answer to ``Read``: entries by position, contiguous, and where the timeline stands."""
        if not self.downlink.read_done(items, min_seq, head_seq, now):
            self.cursor_invalid()

    def read_failed(self, now: float) -> None:
        """Answer to ``Read`` when the store is away."""
        self.downlink.read_failed(now)

    def result(self, message: bytes) -> None:
        """The serialised SendResult of one message that was offered."""
        self.in_flight -= 1
        if self.state is State.CLOSED:
            return
        self.frames.add_result(message)
        if self._half_closed and self.in_flight == 0:
            self.close(Closed.REASON_CLIENT_DONE)

    def account_state(self, state: AccountState, nonce: int, wall_ms: int) -> None:
        """The account's own state, fresh; answers ``AccountStateWanted``, or tells unasked (0)."""
        self.account = state
        self._account_stale = self.downlink.others_arrived = False
        self._pong(nonce, wall_ms)

    def counts_told(self) -> None:
        """Somebody else told the account's counts: ours are no longer the newest."""
        self._account_stale = True

    def note_version(self, version: int) -> None:
        """The account's own state has this version: the next pong asks for fresh counts."""
        if version > self.account.version:
            self._account_stale = True

    def put(self, section: bytes, key: bytes, piece: bytes) -> None:
        """A receipt, presence, typing or pong as a piece; the newest per key is written."""
        if self.state is State.LIVE:
            self.frames.put_keyed(section, key, piece)

    def token_renewed(self, expires_at_ms: int) -> None:
        """Answer to ``VerifyToken``: it is the same user's."""
        self.token_expires_at_ms = max(self.token_expires_at_ms, expires_at_ms)

    def going_away(self, reason: GoingAway.Reason.ValueType, reconnect_after_ms: int) -> None:
        """Ask the client to move; the session goes on."""
        if self.state is State.LIVE:
            self.frames.set_going_away(going_away_frame(reason, reconnect_after_ms))

    def cursor_invalid(self) -> None:
        """The position cannot be resumed from: retention passed it, or history was rewound."""
        fault = errors.CURSOR_INVALID(position=self.window.queued_seq)
        self.close(Closed.REASON_CURSOR_INVALID, fault)

    def close(
        self,
        reason: Reason.ValueType,
        fault: Fault | None = None,
        reconnect_after_ms: int | None = None,
    ) -> None:
        """End the session after what waits; the first end wins.

        Entries are left to a resume, unless the client half-closed and reads on.
        """
        if self.state in _ENDED:
            return
        self.state = State.CLOSING
        self.downlink.stop()
        self.ending = Ending(reason, fault, reconnect_after_ms)
        if reason != Closed.REASON_CLIENT_DONE:
            self.frames.drop_entries()
        self.frames.set_closed(self.ending.frame())

    def tick(self, now: float, wall_ms: int) -> None:
        """Look at the timeouts; about once a second."""
        if self.state is State.NEW:
            if now - self._began_at > self._limits.hello_timeout_seconds:
                self._break_rule(errors.NO_HELLO())
        elif self.state is State.LIVE:
            if self.token_expires_at_ms and wall_ms > self.token_expires_at_ms + TOKEN_SKEW_MS:
                self.close(Closed.REASON_TOKEN_EXPIRED, errors.TOKEN_EXPIRED())
            elif now - self._heard_at > self._limits.idle_timeout_seconds:
                self.close(Closed.REASON_IDLE)
            elif not self.downlink.tick(now):
                self.close(Closed.REASON_TOO_SLOW)
            elif now - self._stirred_at > self._limits.away_seconds:
                self._set_active(False)

    def take_frame(self) -> bytes:
        """The next frame to write; empty when nothing waits. After ``closed`` comes nothing."""
        frame, entries = self.frames.take()
        if entries:
            self.window.took(entries)
        if self.state is State.CLOSING and not self.frames:
            self.state = State.CLOSED
        return frame

    def owed_to_push(self) -> int:
        """At the end of a session: newest position that may notify and was not acked; 0 = none."""
        return self.window.owed_to_push()

    # -- inside --------------------------------------------------------------------------------

    def _break_rule(self, fault: Fault) -> None:
        self.close(Closed.REASON_PROTOCOL_ERROR, fault)

    def _pong(self, nonce: int, wall_ms: int) -> None:
        pong = Pong(
            nonce=nonce,
            account_version=self.account.version,
            unread=self.account.unread,
            mentions=self.account.mentions,
            server_time_ms=wall_ms,
        )
        self.put(PONG, b"", piece(PONG, pong.SerializeToString()))


_OF_ITSELF: Final = ("ping", "ack", "renew_token")
"""Frames that an application sends though its user does nothing."""

_ENDED: Final = (State.CLOSING, State.CLOSED)

_HANDLERS: Final[dict[str, Callable[[SessionMachine, ClientFrame], None]]] = {
    "hello": SessionMachine._on_hello_again,
    "mark_read": SessionMachine._on_mark_read,
    "typing": SessionMachine._on_typing,
    "set_presence": SessionMachine._on_set_presence,
    "app_state": SessionMachine._on_app_state,
    "watch": SessionMachine._on_watch,
    "renew_token": SessionMachine._on_renew_token,
    "ping": SessionMachine._on_ping,
}
