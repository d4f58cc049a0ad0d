"""One commit call to its definite outcome: retries, unknown outcomes, poison, then the hand-over.

- lost connection: the outcome is unknown, so the old backend is ended and the same rows are run
  again under the same keys; what had been committed answers from its keys;
- deadlock, serialisation, a store that is a standby: the rows run again whole;
- no room on the disk: nothing happened, and all are refused, to be sent again later;
- anything else: the rows are halved until the message to blame stands alone and is refused;
- lock timeout: somebody holds a conversation; those rows are given back, for the caller to decide.

A batch is never given up for want of PostgreSQL, and no client can cancel it.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import psycopg

from chat_svc.core.batch import PendingSend, halves
from chat_svc.node.counters import NodeCounters
from chat_svc.node.handover import Handover
from chat_svc.node.hints import NodeAddress
from chat_svc.node.outbox import Outbox
from chat_svc.node.store_errors import PASSING, store_full
from chat_svc.store.commit import CommitOutcome, CommitRow, CommitStatus
from chatmesh.runtime import failpoints, faults, metrics
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.postgres import LostConnection
from chatmesh.runtime.trace import Tracer

RETRY_FIRST_SECONDS: Final = 0.005
RETRY_MAX_SECONDS: Final = 1.0

NOTHING_HAPPENED: Final = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)
_STORED: Final = (CommitStatus.ACCEPTED, CommitStatus.REPEATED)


class Ran(NamedTuple):
    """What became of some sends."""

    settled: list[tuple[PendingSend, bool]]
    """Those that were answered, and whether each is stored."""
    locked: list[PendingSend]
    """Those that met a lock timeout, in order: nothing happened, nobody was answered."""


_log = logger(__name__)
_budget = LogBudget(per_second=2)


class CommitCall(Protocol):
    """The commit, and the way to end a call whose outcome is unknown."""

    async def commit(
        self, rows: Sequence[CommitRow], *, batch_id: int, node_id: int, done: Sequence[int]
    ) -> list[CommitOutcome]:
        """As CommitStore.commit."""
        ...


class LaneControl(Protocol):
    """What is used of the commit's lane."""

    async def terminate_previous(self) -> bool:
        """End the backend of the connection lost last."""
        ...

    async def close(self) -> None:
        """Leave this server; the next statement connects anew."""
        ...


class BatchIds:
    """Names of outbox rows: unique over all nodes, without asking anybody."""

    COUNTER_BITS: Final = 40
    """A node's life has 2^40 batches; node ids take the 23 bits above."""

    def __init__(self, address: NodeAddress) -> None:
        self._address = address
        self._count = 0

    def take(self) -> int:
        """The next one."""
        self._count += 1
        return (self._address.node_id << self.COUNTER_BITS) + self._count


class CommitRunner:
    """Runs rows to a definite outcome over one lane; shared by the loop and the waiting lane."""

    def __init__(
        self,
        call: CommitCall,
        lane: LaneControl,
        address: NodeAddress,
        batch_ids: BatchIds,
        outbox: Outbox,
        handover: Handover,
        clock: Clock,
        counters: NodeCounters,
        tracer: Tracer,
        committed_in: Callable[[Iterable[int]], None] | None = None,
    ) -> None:
        self._call = call
        self._committed_in = committed_in
        self._lane = lane
        self._address = address
        self._batch_ids = batch_ids
        self._outbox = outbox
        self._handover = handover
        self._clock = clock
        self._counters = counters
        self._tracer = tracer
        self._sizes = metrics.histogram(metrics.BATCH_SIZE).labels("commit")
        self._seconds = metrics.histogram(metrics.COMMIT_SECONDS)

    async def run(self, sends: Sequence[PendingSend]) -> Ran:
        """Commit and hand over: each send is answered, or given back as locked."""
        rows = [_row(send) for send in sends]
        began_ns = time.time_ns()
        try:
            outcomes, batch_id = await self._attempts(rows)
        except psycopg.errors.LockNotAvailable:
            return Ran([], list(sends))
        except psycopg.errors.DiskFull:
            return self._without_room(sends)
        except Exception as error:  # noqa: BLE001 - not the store's state: one of the rows is to blame
            return await self._without_poison(sends, error)
        self._hops(sends, outcomes, began_ns)
        if self._committed_in is not None:
            self._committed_in(send.conversation for send in sends)
        await failpoints.hit("commit.after")
        await self._handover.sends(batch_id, sends, outcomes)
        answered = zip(sends, outcomes, strict=True)
        return Ran([(send, outcome.status in _STORED) for send, outcome in answered], [])

    async def _attempts(self, rows: Sequence[CommitRow]) -> tuple[list[CommitOutcome], int]:
        """Until there is an outcome; and the batch id of the call that gave it.

        Each call has a batch id of its own: a call whose outcome is unknown may have made a row.
        """
        pause = RETRY_FIRST_SECONDS
        while True:
            done = self._outbox.take_done()
            batch_id = self._batch_ids.take()
            try:
                await failpoints.hit("commit.before")
                return await self._once(rows, batch_id, done), batch_id
            except psycopg.errors.ReadOnlySqlTransaction:
                self._outbox.give_back(done)
                await self._lane.close()  # a standby since a failover: find the new primary
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DiskFull):
                self._outbox.give_back(done)
                raise
            except LostConnection as lost:
                self._outbox.give_back(done)
                await self._end_previous()
                if lost.unknown_outcome:
                    self._outbox.may_have_rows()  # however long PostgreSQL was away
            except PASSING as error:
                self._outbox.give_back(done)
                if not isinstance(error, NOTHING_HAPPENED) and _budget.take():
                    _log.warning("commit failed", error=type(error).__name__, exc_info=error)
            except Exception:
                self._outbox.give_back(done)
                self._outbox.may_have_rows()  # it may have failed after the commit
                raise
            self._counters.commit_retries += 1
            await self._clock.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, RETRY_MAX_SECONDS)

    async def _once(
        self, rows: Sequence[CommitRow], batch_id: int, done: Sequence[int]
    ) -> list[CommitOutcome]:
        began = self._clock.monotonic()
        outcomes = await self._call.commit(
            rows, batch_id=batch_id, node_id=self._address.node_id, done=done
        )
        self._counters.commit_batches += 1
        self._sizes.observe(len(rows))
        self._seconds.observe(self._clock.monotonic() - began)
        return outcomes

    async def _end_previous(self) -> None:
        """Until it is certain that the lost call cannot commit any more."""
        while True:
            try:
                if await self._lane.terminate_previous():
                    return
            except LostConnection:
                pass  # PostgreSQL is away: so is the old backend, but only it can say so
            await self._clock.sleep(RETRY_MAX_SECONDS * random.uniform(0.2, 0.5))

    def _without_room(self, sends: Sequence[PendingSend]) -> Ran:
        for send in sends:
            self._handover.refuse(send, store_full())
        return Ran([(send, False) for send in sends], [])

    async def _without_poison(self, sends: Sequence[PendingSend], error: Exception) -> Ran:
        if len(sends) == 1:
            if _budget.take():
                _log.error("a message cannot be stored", error=type(error).__name__, exc_info=error)
            self._handover.refuse(sends[0], faults.internal())
            return Ran([(sends[0], False)], [])
        self._counters.commit_bisections += 1
        left, right = halves(sends)
        first, second = await self.run(left), await self.run(right)
        return Ran(first.settled + second.settled, first.locked + second.locked)

    def _hops(
        self, sends: Sequence[PendingSend], outcomes: Sequence[CommitOutcome], began_ns: int
    ) -> None:
        for send, outcome in zip(sends, outcomes, strict=True):
            if send.trace:
                send.trace = self._tracer.hop(
                    "chat.commit",
                    send.trace,
                    began_ns,
                    time.time_ns(),
                    {
                        "chatmesh.message_id": outcome.message_id,
                        "chatmesh.conversation_seq": outcome.conversation_seq,
                        "chatmesh.batch_size": len(sends),
                        "chatmesh.status": outcome.status.name.lower(),
                    },
                )


def _row(send: PendingSend) -> CommitRow:
    message, sender = send.message, send.sender
    return CommitRow(
        send.message_id,
        sender.tenant_id,
        sender.account,
        send.conversation,
        message.kind,
        message.flags | sender.flags,
        message.key,
        send.content_hash,
        message.target_seq,
        message.expires_at_ms,
        send.body,
        send.trace,
        send.mentions,
    )
