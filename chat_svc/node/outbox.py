"""The node's outbox: hints on their way to the queue, rows that wait to be settled, and resends.

A commit writes one outbox row; its hints go to sync_svc over the Enqueue stream. When sync has
settled all of them it says ``done`` over its Deliver stream, and the row is deleted inside the next
commit call, or alone when none comes. What sync read may come from whoever writes Redis: ``done``
says which hints were settled, and counts only if they are those of the row. Rows that are not
settled in time are sent again from PostgreSQL, without their entries: the queue may lose anything
at any time.

The count of unsettled rows is the only bound on sending: above it messages are refused with
OUTBOX_FULL. A lag of the queue must never become a storm: nothing is resent that is younger than
the lag sync reports plus 3 s, or sooner than that after the last time, or after the queue took it
last; each row doubles its wait up to a minute; and no more rows are read than there is room for on
the stream.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Protocol

from chat_svc.node.counters import NodeCounters
from chat_svc.node.hints import NodeAddress, batch_frame
from chat_svc.store.outbox import OutboxRow
from chatmesh.digest import settle_digest
from chatmesh.mesh.v1.hint_pb2 import Hint
from chatmesh.mesh.v1.sync_pb2 import EnqueueResponse
from chatmesh.runtime import metrics
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.readiness import Component
from chatmesh.runtime.streams import ItemStream

RESEND_MARGIN_MS: Final = 3_000
RESEND_ROWS: Final = 64
LOOK_SECONDS: Final = 1.0
LOOK_FOR_SECONDS: Final = 30.0
"""Rows of calls with an unknown outcome show up within this after they are due, or were never
made. Counted only while looking is possible: with PostgreSQL and sync_svc there."""
FLUSH_SECONDS: Final = 0.5
"""Settled rows are deleted by themselves when no commit took them along for this long."""
DONE_PER_COMMIT: Final = 2_000
MAX_BATCHES_IN_FLIGHT: Final = 2_048
MAX_BYTES_IN_FLIGHT: Final = 32 << 20
"""Hints kept for a stream that is away; what does not fit is left to the resend."""

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class OutboxRows(Protocol):
    """What is used of the store."""

    async def delete_done(self, batch_ids: Sequence[int]) -> int:
        """Delete settled rows."""
        ...

    async def due_rows(
        self, node_id: int, older_than_ms: int, limit: int, *, wait_ms: int
    ) -> list[OutboxRow]:
        """Rows to resend now, and not again before ``wait_ms``."""
        ...

    async def not_sent(self, node_id: int, batch_ids: Sequence[int]) -> None:
        """Rows that were read and could not be sent."""
        ...


@dataclass(slots=True)
class _Unsettled:
    """A batch whose row is there."""

    since: float
    """When it was committed, or found; monotonic seconds."""
    digests: tuple[bytes, ...]
    """What ``done`` may say of it: of the frame that the commit sent, of the row that was read."""
    accepted_at: float = -inf
    """When the queue took it last; monotonic seconds. Younger than its lag, it may lie there."""


class Outbox:
    """See the module's text."""

    def __init__(
        self,
        open_enqueue: Callable[[], Any],
        rows: OutboxRows,
        address: NodeAddress,
        clock: Clock,
        counters: NodeCounters,
        max_rows: int,
        readiness: Component,
    ) -> None:
        """``open_enqueue`` begins one SyncService.Enqueue call that takes and gives raw bytes."""
        self._rows = rows
        self._address = address
        self._clock = clock
        self._counters = counters
        self.max_rows = max_rows
        self.stream: ItemStream[bytes, bytes, EnqueueResponse] = ItemStream(
            open_enqueue,
            name="enqueue",
            pack=b"".join,
            on_answer=self._on_answer,
            max_in_flight=MAX_BATCHES_IN_FLIGHT,
            readiness=readiness,
        )
        self._unsettled: dict[int, _Unsettled] = {}
        self._bytes_in_flight = 0
        self._done: list[int] = []
        self._done_at = 0.0
        self._lag_ms = 0
        self._look_until = 0.0
        self._rows_gauge = metrics.gauge(metrics.OUTBOX_ROWS)
        self._age_gauge = metrics.gauge(metrics.OUTBOX_AGE_SECONDS)

    @property
    def is_full(self) -> bool:
        """Whether new messages must be refused."""
        return len(self._unsettled) >= self.max_rows

    @property
    def unsettled(self) -> int:
        """Outbox rows of this node, as far as it knows."""
        return len(self._unsettled)

    def enqueue(self, batch_id: int, frame: bytes, digest: bytes) -> None:
        """The hints of one commit, as one EnqueueRequest; ``digest``: their settle_digest."""
        self._unsettled[batch_id] = _Unsettled(self._clock.monotonic(), (digest,))
        if self._bytes_in_flight + len(frame) > MAX_BYTES_IN_FLIGHT:
            return
        if self.stream.offer(frame, batch_id):
            self._bytes_in_flight += len(frame)

    def may_have_rows(self) -> None:
        """A call of unknown outcome may have made a row whose hints nobody sent: look for it."""
        self._look_until = self._clock.monotonic() + LOOK_FOR_SECONDS

    def signal(self, frame: bytes) -> None:
        """Signals, sent at most once: lost with their stream."""
        self.stream.offer(frame)

    def on_done(self, done: Iterable[tuple[int, bytes]]) -> None:
        """sync_svc settled hints of these batches: (batch id, settle_digest of the hints that it
        settled). Repeats do no harm; a batch that is not what was committed changes nothing."""
        for batch_id, digest in done:
            known = self._unsettled.get(batch_id)
            if known is not None:
                if digest not in known.digests:
                    self._counters.done_refused += 1
                    continue
                del self._unsettled[batch_id]
                self._done.append(batch_id)
            self._settle_frame(batch_id)
        self._done_at = self._clock.monotonic()

    def take_done(self) -> list[int]:
        """Settled rows for the next commit call to delete; give them back if it fails."""
        done, self._done = self._done[:DONE_PER_COMMIT], self._done[DONE_PER_COMMIT:]
        return done

    def give_back(self, done: Sequence[int]) -> None:
        """The call that should have deleted them did not happen."""
        self._done[:0] = done

    async def flush_done(self) -> None:
        """Delete settled rows that no commit took along; runs in the background."""
        while True:
            await self._clock.sleep(FLUSH_SECONDS)
            if self._done and self._clock.monotonic() - self._done_at >= FLUSH_SECONDS:
                await self._delete(self.take_done())

    async def resend(self) -> None:
        """Send again what was not settled in time; runs in the background."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            oldest_seconds = self._oldest_seconds()
            self._rows_gauge.set(len(self._unsettled))
            self._age_gauge.set(oldest_seconds)
            older_than_ms = self._patience_ms
            is_due = oldest_seconds * 1_000 >= older_than_ms
            is_looking = self._clock.monotonic() < self._look_until + older_than_ms / 1_000
            if not (is_due or is_looking):
                continue
            if self.stream.is_open and await self._resent(older_than_ms):
                continue
            if is_looking:
                self.may_have_rows()

    async def _resent(self, older_than_ms: int) -> bool:
        """Whether the rows could be read."""
        try:
            await self._resend_due(older_than_ms)
        except Exception as error:  # noqa: BLE001 - the rows stay; the next look tries again
            if _budget.take():
                _log.warning("outbox not resent", error=type(error).__name__)
            return False
        return True

    async def took_over(self, older_than_ms: int = 0) -> None:
        """Rows of dead nodes are this node's now: send them at once."""
        await self._resend_due(older_than_ms)

    @property
    def _patience_ms(self) -> int:
        """A row that is younger may still be on its way."""
        return self._lag_ms + RESEND_MARGIN_MS

    def _oldest_seconds(self) -> float:
        if not self._unsettled:
            return 0.0
        return self._clock.monotonic() - next(iter(self._unsettled.values())).since

    async def _resend_due(self, older_than_ms: int) -> None:
        node_id = self._address.node_id
        while (room := self._room) > 0:
            limit = min(room, RESEND_ROWS)
            due = await self._rows.due_rows(
                node_id, older_than_ms, limit, wait_ms=self._patience_ms
            )
            left = [row.batch_id for row in due if not self._resend(row)]
            if left:  # new batches took the room meanwhile
                await self._rows.not_sent(node_id, left)
            if left or len(due) < limit:
                return

    @property
    def _room(self) -> int:
        """Batches that the stream would take now."""
        return MAX_BATCHES_IN_FLIGHT - max(self.stream.in_flight, self.stream.unwritten)

    def _resend(self, row: OutboxRow) -> bool:
        """Whether the row found room on the stream, or is on its way already."""
        self._note(row)
        now = self._clock.monotonic()
        if (now - self._unsettled[row.batch_id].accepted_at) * 1_000 < self._patience_ms:
            return True  # it lies in the queue: one more would be the storm; it is due again later
        self._settle_frame(row.batch_id)  # an older frame of it need not go any more
        frame = batch_frame(
            self._address,
            row.batch_id,
            _hints_of(row),
            attempt=row.attempt,
            now_ms=self._clock.wall_ms(),
        )
        if not self.stream.offer(frame, row.batch_id):
            return False
        self._bytes_in_flight += len(frame)
        self._counters.outbox_resends += 1
        return True

    def _note(self, row: OutboxRow) -> None:
        """A row that is there, and what ``done`` must say of it."""
        hints = zip(row.accounts, row.seqs, row.pushable, strict=True)
        digest = settle_digest(row.batch_id, hints)
        known = self._unsettled.get(row.batch_id)
        if known is None:
            self._unsettled[row.batch_id] = _Unsettled(self._clock.monotonic(), (digest,))
        elif digest not in known.digests:
            known.digests += (digest,)

    async def _delete(self, done: list[int]) -> None:
        try:
            await self._rows.delete_done(done)
        except Exception as error:  # noqa: BLE001 - they are deleted later, or resent and settled
            self.give_back(done)
            if _budget.take():
                _log.warning("settled outbox rows not deleted", error=type(error).__name__)

    def _on_answer(self, answer: EnqueueResponse) -> None:
        now = self._clock.monotonic()
        for batch_id in answer.accepted_batch_ids:
            self._settle_frame(batch_id)
            known = self._unsettled.get(batch_id)
            if known is not None:
                known.accepted_at = now
        for lag in answer.lag:
            self._lag_ms = lag.lag_ms

    def _settle_frame(self, batch_id: int) -> None:
        frame = self.stream.settle(batch_id)
        if frame is not None:
            self._bytes_in_flight -= len(frame)


def _hints_of(row: OutboxRow) -> list[Hint]:
    return [
        Hint(account_id=account, timeline_seq=seq, message_id=message_id, pushable=pushable)
        for account, seq, message_id, pushable in zip(
            row.accounts, row.seqs, row.message_ids, row.pushable, strict=True
        )
    ]
