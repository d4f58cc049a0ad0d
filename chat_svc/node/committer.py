"""The commit loop: gather, resolve, take ids, commit, hand over. One batch in flight, no timer.

A batch is what gathered while the last one ran: one message when the node is idle, hundreds when it
is busy. Each message is answered exactly once. How one call comes to its outcome is
``commit_runner``'s; conversations that somebody holds locked go to the ``waiting_lane``, and this
loop goes on with everybody else's.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import psycopg

from chat_svc.core.batch import PendingSend, SendQueue, halves, settle_equal_keys, split_by_weight
from chat_svc.node.commit_runner import RETRY_FIRST_SECONDS, RETRY_MAX_SECONDS, CommitRunner
from chat_svc.node.handover import Handover
from chat_svc.node.id_blocks import IdBlocks
from chat_svc.node.outbox import Outbox
from chat_svc.node.resolver import Resolver
from chat_svc.node.store_errors import PASSING, store_full
from chat_svc.node.waiting_lane import WaitingLane, prepare
from chatmesh import errors
from chatmesh.runtime import faults
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.trace import Tracer

QUEUE_MESSAGES: Final = 100_000
QUEUE_BYTES: Final = 64 << 20
"""What waits on one node; beyond, messages are refused and sent again by their clients."""
FULL_RETRY_AFTER_SECONDS: Final = 2.0

_log = logger(__name__)
_budget = LogBudget(per_second=2)


class Lease(Protocol):
    """The node's own lease."""

    async def wait_valid(self) -> None:
        """Return once this node may act in its own name."""
        ...


class Committer:
    """The loop; see the module's text."""

    def __init__(
        self,
        runner: CommitRunner,
        waiting: WaitingLane,
        resolver: Resolver,
        ids: IdBlocks,
        outbox: Outbox,
        handover: Handover,
        lease: Lease,
        clock: Clock,
        tracer: Tracer,
        max_rows: int,
        is_store_full: Callable[[], bool] = lambda: False,
    ) -> None:
        self._runner = runner
        self._waiting = waiting
        self._resolver = resolver
        self._ids = ids
        self._outbox = outbox
        self._handover = handover
        self._lease = lease
        self._clock = clock
        self._tracer = tracer
        self._max_rows = max_rows
        self._is_store_full = is_store_full
        self._queue = SendQueue(QUEUE_MESSAGES, QUEUE_BYTES)
        self._again: list[PendingSend] = []  # keys that were twice in a batch: answered next
        self._in_batch = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        waiting.on_settled = self._settled_waiting

    @property
    def unanswered(self) -> int:
        """Messages without a result."""
        return len(self._queue) + self._in_batch + len(self._again) + self._waiting.messages

    def offer(self, sends: Sequence[PendingSend]) -> None:
        """Messages of one sender, in order. Each is answered once by `Sender.answer`."""
        if self._outbox.is_full or self._queue.is_full:
            full = self._outbox.is_full
            refusal = errors.OUTBOX_FULL(
                retry_after_seconds=FULL_RETRY_AFTER_SECONDS,
                limit="outbox_rows" if full else "commit_queue",
                value=self._outbox.max_rows if full else QUEUE_MESSAGES,
            )
            for send in sends:
                self._handover.refuse(send, refusal)
            return
        if self._is_store_full():  # it would be asked, and written to, in vain
            for send in sends:
                self._handover.refuse(send, store_full())
            return
        self._queue.offer(sends)
        self._idle.clear()
        self._wake.set()

    async def wait_idle(self) -> None:
        """Return once every message that was offered is answered; for the drain."""
        await self._idle.wait()

    async def run(self) -> None:
        """The loop; in the background."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue.has_ready or self._again:
                await self._lease.wait_valid()
                batch = [*self._again, *self._queue.take()]
                self._again = []
                self._in_batch = len(batch)
                await self._commit(batch)
                self._in_batch = 0
            self._tell_idle()

    async def _commit(self, batch: list[PendingSend]) -> None:
        resolved = self._waiting.divert(await self._resolved(batch))
        unique, followers = settle_equal_keys(resolved)
        if not unique:
            return
        began_ns = time.time_ns()
        await prepare(unique, self._ids)
        for send in unique:
            if send.trace:
                self._hop_ids(send, began_ns)
        for part in split_by_weight(unique, self._max_rows):
            # The part before may have left a conversation to the waiting lane: its order is kept.
            if not (run := self._waiting.divert(part)):
                continue
            ran = await self._runner.run(run)
            if ran.locked:
                self._waiting.take_over(ran.locked)
            for send, accepted in ran.settled:
                self._settled(send, accepted)
        for later in followers.values():
            self._again += later

    async def _resolved(self, batch: list[PendingSend]) -> list[PendingSend]:
        """The sends that have a place to go to; the others are refused."""
        pause = RETRY_FIRST_SECONDS
        while True:
            try:
                refused = await self._resolver.resolve(batch)
                break
            except psycopg.errors.DiskFull:
                for send in batch:
                    self._refuse(send, store_full())
                return []
            except PASSING as error:  # the store or the sequencer is away
                if _budget.take():
                    _log.warning("recipients not resolved", error=type(error).__name__)
                await self._clock.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, RETRY_MAX_SECONDS)
            except Exception as error:  # noqa: BLE001 - one of the messages is to blame
                return await self._resolved_apart(batch, error)
        if not refused:
            return batch
        out = set()
        for send, refusal in refused:
            out.add(id(send))
            self._refuse(send, refusal())
        return [send for send in batch if id(send) not in out]

    async def _resolved_apart(
        self, batch: list[PendingSend], error: Exception
    ) -> list[PendingSend]:
        if len(batch) == 1:
            if _budget.take():
                _log.error("a destination cannot be resolved", exc_info=error)
            self._refuse(batch[0], faults.internal())
            return []
        left, right = halves(batch)
        return [*await self._resolved(list(left)), *await self._resolved(list(right))]

    def _settled(self, send: PendingSend, accepted: bool) -> None:
        if send.chain is not None:
            for later in self._queue.settled(send, accepted):
                self._handover.refuse(later, errors.PREVIOUS_REFUSED())

    def _settled_waiting(self, send: PendingSend, accepted: bool) -> None:
        """A message of the waiting lane was answered; its chain may go on in this loop."""
        self._settled(send, accepted)
        if self._queue.has_ready:
            self._wake.set()
        self._tell_idle()

    def _refuse(self, send: PendingSend, fault: Fault) -> None:
        self._handover.refuse(send, fault)
        self._settled(send, accepted=False)

    def _hop_ids(self, send: PendingSend, began_ns: int) -> None:
        send.trace = self._tracer.hop(
            "chat.ids",
            send.trace,
            began_ns,
            time.time_ns(),
            {"chatmesh.message_id": send.message_id},
        )

    def _tell_idle(self) -> None:
        if not self.unanswered:
            self._idle.set()
