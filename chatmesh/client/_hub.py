"""The application's side of a client: who awaits which answer, who reads what.

Role: turns what the session received into values, resolved sends, entries and notices.
Rules: no I/O; nothing here blocks or grows without bound. Spans are made for sampled messages
only: the flag is tested first.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from chatmesh.client import _convert as convert
from chatmesh.client._events import (
    AccountChanged,
    CaughtUp,
    ClientEvent,
    Connected,
    SendSettled,
)
from chatmesh.client._inbox import Inbox
from chatmesh.client._moves import Received, Settled
from chatmesh.client._progress import Cursor
from chatmesh.client._sendqueue import Outgoing
from chatmesh.client._session import Session
from chatmesh.client._topic import MAX_BUFFERED, Topic
from chatmesh.client._values import (
    Entry,
    Presence,
    PresenceState,
    Receipt,
    Sent,
    SessionInfo,
    Typing,
    Unread,
)
from chatmesh.client.errors import ChatmeshError, ClientClosed
from chatmesh.runtime.trace import is_sampled
from chatmesh.v1.session_pb2 import Pong

KEPT_EVENTS: Final = 64
"""A reader that comes after the first session opened still hears how it did."""


class SpanRecorder(Protocol):
    """What records the client's own hops; `chatmesh.runtime.trace.Tracer` is one."""

    def hop(
        self,
        name: str,
        parent: bytes,
        start_ns: int,
        end_ns: int,
        attributes: Mapping[str, str | bool | int | float] | None = None,
    ) -> bytes:
        """Record one finished span below `parent` (25 bytes); times are Unix nanoseconds."""
        ...


class Room:
    """Bounds the messages without an answer; who waits for room is let in by order of arrival."""

    def __init__(self, messages: int) -> None:
        self._free = messages
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def take(self, count: int) -> None:
        """Count messages that are there already (from the store), whatever the bound says."""
        self._free -= count

    async def enter(self, count: int) -> None:
        """Take places for `count` messages, waiting for them if need be."""
        if not self._waiting and self._free >= count:
            self._free -= count
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(count)  # let in and cancelled in the same moment
            raise

    def leave(self, count: int) -> None:
        """Give places back."""
        self._free += count
        while self._waiting:
            wanted, turn = self._waiting[0]
            if turn.done():
                self._waiting.popleft()
            elif self._free >= wanted:
                self._free -= wanted
                turn.set_result(None)
                self._waiting.popleft()
            else:
                return


class Hub:
    """State that the application sees."""

    def __init__(
        self,
        session: Session,
        save_cursor: Callable[[Cursor, int], None],
        tracer: SpanRecorder | None,
        max_unanswered: int,
    ) -> None:
        self._session = session
        self._save_cursor = save_cursor
        self._tracer = tracer
        self.room = Room(max_unanswered)
        self.inbox = Inbox()
        self.receipts: Topic[Receipt] = Topic(_receipt_key, keep=MAX_BUFFERED, merge=_later_receipt)
        self.presence: Topic[Presence] = Topic(
            lambda value: value.user_id, keep=MAX_BUFFERED, merge=_known_presence
        )
        self.typing: Topic[Typing] = Topic(lambda value: (value.conversation_id, value.user_id))
        self.events: Topic[ClientEvent] = Topic(keep=KEPT_EVENTS)
        self.unread = Unread()
        self.account_version = 0
        self.info: SessionInfo | None = None
        self._awaited: dict[bytes, asyncio.Future[Sent]] = {}
        self._send_spans: dict[bytes, tuple[bytes, int]] = {}
        self._entry_spans: dict[int, tuple[bytes, int]] = {}

    # -- sending -----------------------------------------------------------------------------------

    def expect(self, outgoing: Sequence[Outgoing]) -> list[asyncio.Future[Sent]]:
        """Futures of the answers, in order."""
        loop = asyncio.get_running_loop()
        futures = []
        for one in outgoing:
            future = self._awaited[one.key] = loop.create_future()
            futures.append(future)
            if self._tracer is not None and is_sampled(one.message.trace_context):
                self._send_spans[one.key] = (one.message.trace_context, time.time_ns())
        return futures

    def _answer(self, settled: Settled) -> None:
        outcome: Sent | ChatmeshError = settled.problem or convert.sent(settled.result)
        future = self._awaited.pop(settled.key, None)
        self.room.leave(1)
        span = self._send_spans.pop(settled.key, None)
        if span is not None and self._tracer is not None:
            facts = {"chatmesh.message_id": settled.result.message_id}
            self._tracer.hop("client.send", span[0], span[1], time.time_ns(), facts)
        if future is None or future.done():
            self.events.publish([SendSettled(settled.key, outcome)])
        elif isinstance(outcome, ChatmeshError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    # -- receiving ---------------------------------------------------------------------------------

    def take(self, received: Received) -> None:
        """Hand on what one frame brought, in the contract's order."""
        if received.welcome is not None:
            welcome = received.welcome
            self.info = convert.session_info(welcome)
            self.unread = Unread(welcome.unread, welcome.mentions)
            self.account_version = welcome.account_version
            self.events.publish([Connected(self.info)])
        if received.entries:
            self.inbox.put(self._entries(received))
        for settled in received.settled:
            self._answer(settled)
        if received.caught_up:
            self.events.publish([CaughtUp()])
        if received.receipts:
            self.receipts.publish([convert.receipt(value) for value in received.receipts])
        if received.presence:
            self.presence.publish([convert.presence(value) for value in received.presence])
        if received.typing:
            self.typing.publish([convert.typing(value) for value in received.typing])
        if received.pong is not None:
            self._account(received.pong)

    def _entries(self, received: Received) -> list[Entry]:
        me, epoch = self._session.user_id, self._session.progress.epoch
        if self._tracer is not None:
            for entry in received.entries:
                if is_sampled(entry.event.trace_context):
                    span = (entry.event.trace_context, time.time_ns())
                    self._entry_spans[entry.timeline_seq] = span
        return [convert.entry(entry, me, self._acked, epoch) for entry in received.entries]

    def _acked(self, entry: Entry) -> None:
        """The application stored up to here: the cursor may move, and spans end."""
        if entry._epoch != self._session.progress.epoch:
            return
        self._save_cursor(entry.cursor, entry._epoch)
        if self._tracer is None or not self._entry_spans:
            return
        for seq in [seq for seq in self._entry_spans if seq <= entry.timeline_seq]:
            context, start_ns = self._entry_spans.pop(seq)
            facts: dict[str, str | int] = {
                "chatmesh.timeline_seq": seq,
                "chatmesh.device_id": self._session.device_id,
            }
            self._tracer.hop("client.store", context, start_ns, time.time_ns(), facts)

    def _account(self, pong: Pong) -> None:
        unread = Unread(pong.unread, pong.mentions)
        if unread != self.unread or pong.account_version != self.account_version:
            self.unread, self.account_version = unread, pong.account_version
            self.events.publish([AccountChanged(unread, pong.account_version)])

    def void_entries(self) -> None:
        """A snapshot is being taken: entries that were not taken count no more."""
        self.inbox.clear()
        self._entry_spans.clear()

    # -- the end -----------------------------------------------------------------------------------

    def end(self, error: BaseException | None) -> None:
        """Nothing more comes: every iterator and every waiting send ends."""
        self.inbox.end(error)
        for topic in (self.receipts, self.presence, self.typing, self.events):
            topic.end(error)
        for future in self._awaited.values():
            if not future.done():
                future.set_exception(
                    error or ClientClosed("the client was closed before the answer came")
                )
                future.exception()  # read: nobody may be left to await it
        self._awaited.clear()


def _receipt_key(value: Receipt) -> tuple[int, str, bool]:
    return value.conversation_id, value.user_id, value.member_count > 0


def _known_presence(before: Presence, value: Presence) -> Presence:
    """UNKNOWN means: show what was shown before."""
    return before if value.state is PresenceState.UNKNOWN else value


def _later_receipt(before: Receipt, value: Receipt) -> Receipt:
    """Both marks are monotonic, and 0 means not said: the higher of each is the truth."""
    if value.member_count:
        return value
    return Receipt(
        value.conversation_id,
        value.user_id,
        max(before.delivered_conversation_seq, value.delivered_conversation_seq),
        max(before.read_message_no, value.read_message_no),
    )
