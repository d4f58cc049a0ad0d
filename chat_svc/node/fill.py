"""Reads of timelines for sessions: resumes, holes, and what a full window left behind.

A few readers serve all sessions in turn, so that a storm of reconnects or a long catch-up delays
nobody's messages. Small gaps of many sessions are read in one statement; a long catch-up reads a
window at a time and goes to the end of the queue.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from chat_svc.core.effects import Read
from chat_svc.core.entry_bytes import entry_bytes, event_bytes
from chat_svc.core.frames import entry_piece
from chat_svc.core.window import Item
from chat_svc.node.counters import NodeCounters
from chat_svc.node.live_session import LiveSession
from chat_svc.store.timeline import EntryRange, EntryRow, TimelineRead
from chatmesh.runtime import metrics
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger

SMALL_GAP: Final = 8
"""Entries; bodies are at most 64 KiB, so a statement of small gaps stays below some megabytes."""
MAX_RANGES: Final = 32
HOLE_SECONDS: Final = 0.005
"""How long a missing entry may take to come by itself; for all sessions of the node at once."""

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class TimelineRows(Protocol):
    """What is used of the store."""

    async def read_entries(
        self, account: int, after_seq: int, max_entries: int, max_bytes: int
    ) -> TimelineRead:
        """Entries after a position."""
        ...

    async def read_ranges(self, ranges: Sequence[EntryRange]) -> list[TimelineRead]:
        """Small gaps of many accounts in one statement."""
        ...


class Fill:
    """See the module's text."""

    def __init__(self, rows: TimelineRows, clock: Clock, counters: NodeCounters) -> None:
        self._rows = rows
        self._clock = clock
        self._counters = counters
        self._waiting: deque[tuple[LiveSession, Read]] = deque()
        self._wake = asyncio.Event()
        self._holes: list[LiveSession] = []
        self._filled = metrics.counter(metrics.HOLES_FILLED)
        self.on_new_conversation: Callable[[Sequence[int]], None] = lambda _accounts: None
        """Told of accounts whose read held the first event of a conversation: a new contact, maybe.
        What came as a hint is told by `delivery`."""

    def read(self, session: LiveSession, wanted: Read) -> None:
        """A session wants entries."""
        self._waiting.append((session, wanted))
        self._wake.set()

    def wait_for_hole(self, session: LiveSession) -> None:
        """A session saw a hole: look again in a few milliseconds."""
        if not self._holes:
            asyncio.get_running_loop().call_later(HOLE_SECONDS, self._holes_due)
        self._holes.append(session)

    async def run(self) -> None:
        """One reader; several of it run in the background."""
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            small, large = self._next()
            if large is not None:
                await self._read_large(*large)
            elif small:
                await self._read_small(small)

    def _holes_due(self) -> None:
        due, self._holes = self._holes, []
        for session in due:
            session.machine.hole_due()
            session.settle()

    def _next(
        self,
    ) -> tuple[list[tuple[LiveSession, Read]], tuple[LiveSession, Read] | None]:
        """Small gaps that can be read together, or one large one."""
        small: list[tuple[LiveSession, Read]] = []
        while self._waiting and len(small) < MAX_RANGES:
            session, wanted = self._waiting[0]
            if session.is_over:
                self._waiting.popleft()
                continue
            gap = session.machine.window.head_seq - wanted.after_seq
            if gap > min(SMALL_GAP, wanted.max_entries):
                if small:
                    break
                return [], self._waiting.popleft()
            small.append(self._waiting.popleft())
        return small, None

    async def _read_small(self, wanted: list[tuple[LiveSession, Read]]) -> None:
        ranges = [
            EntryRange(session.account, read.after_seq, session.machine.window.head_seq)
            for session, read in wanted
        ]
        try:
            answers = await self._rows.read_ranges(ranges)
        except Exception as error:  # noqa: BLE001 - the sessions ask again
            self._failed([session for session, _ in wanted], error)
            return
        self._filled.labels("gap").inc(len(wanted))
        for (session, _), answer in zip(wanted, answers, strict=True):
            self._done(session, answer)

    async def _read_large(self, session: LiveSession, wanted: Read) -> None:
        try:
            answer = await self._rows.read_entries(
                session.account, wanted.after_seq, wanted.max_entries, wanted.max_bytes
            )
        except Exception as error:  # noqa: BLE001 - the session asks again
            self._failed([session], error)
            return
        self._filled.labels("catch-up").inc()
        self._done(session, answer)

    def _done(self, session: LiveSession, answer: TimelineRead) -> None:
        self._counters.fill_reads += 1
        session.machine.read_done(
            [item_of(row) for row in answer.rows],
            answer.min_seq,
            answer.head_seq,
            self._clock.monotonic(),
        )
        session.settle()
        if any(row.conversation_seq == 1 for row in answer.rows):
            self.on_new_conversation([session.account])

    def _failed(self, sessions: Sequence[LiveSession], error: Exception) -> None:
        if _budget.take():
            _log.warning("timeline not read", error=type(error).__name__)
        now = self._clock.monotonic()
        for session in sessions:
            session.machine.read_failed(now)


def entry_of(row: EntryRow) -> bytes:
    """A stored entry as the bytes of an Entry."""
    event = event_bytes(
        row.conversation_id,
        row.conversation_seq,
        row.message_no,
        row.message_id,
        row.sender_user,
        row.created_at_ms,
        row.peer_user,
        row.conversation_kind,
        row.body,
    )
    return entry_bytes(row.timeline_seq, event, row.key)


def item_of(row: EntryRow) -> Item:
    """A stored entry, ready to be written."""
    return Item(
        row.timeline_seq,
        entry_piece(entry_of(row)),
        row.message_id,
        row.conversation_id,
        row.conversation_seq,
        row.notifies,
        bool(row.key),
        b"",
    )
