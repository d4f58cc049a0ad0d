"""The worker: gathers what was read, looks all of it up at once, hands it on, settles it.

Role: the one place that moves hints between inbox, presence, nodes and push_svc, by the rules of
`plan`.
Rules: one gathering at a time, one look-up per gathering; everything else happens in callbacks of
streams that are open anyway: no task, span or log line per message. Presence away: the gathering is
looked up again until it answers, and the queue holds the rest.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Container, Iterable, Sequence
from typing import Final

from chatmesh.mesh.v1.hint_pb2 import Hint, Signal
from chatmesh.runtime import failpoints, metrics, trace
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.trace import Tracer
from sync_svc import measures
from sync_svc.inbox import Inbox, Taken
from sync_svc.links import Links
from sync_svc.news import WaitingNews
from sync_svc.plan import (
    Batch,
    Ledger,
    NodeDelivery,
    PendingHint,
    PushOrder,
    after_no_answers,
    after_no_session,
    plan,
)
from sync_svc.pushes import DeadLetters, Pushes
from sync_svc.routes import Answer, RouteBook

GATHER_HINTS: Final = 4_000
RETRY_FIRST_SECONDS: Final = 0.05
RETRY_MAX_SECONDS: Final = 1.0
FORGET_LOOK_SECONDS: Final = 1.0

HOP_QUEUE: Final = "sync.queue"
HOP_LOOKUP: Final = "sync.lookup"
HOP_DELIVER: Final = "sync.deliver"


class Worker:
    """See the module's text. `attach` what it talks to, then `run` it."""

    def __init__(
        self,
        inbox: Inbox,
        ledger: Ledger,
        routes: RouteBook,
        clock: Clock,
        tracer: Tracer,
        *,
        unknown_retry_seconds: float,
        settle_seconds: float,
    ) -> None:
        self._inbox = inbox
        self._ledger = ledger
        self._routes = routes
        self._clock = clock
        self._tracer = tracer
        self._unknown_retry_seconds = unknown_retry_seconds
        self._settle_seconds = settle_seconds
        self._links: Links
        self._pushes: Pushes
        self._letters: DeadLetters
        self._again: list[PendingHint] = []
        self._waiting: list[PendingHint] = []
        self._news = WaitingNews()
        self._dropped = metrics.counter(measures.SIGNALS_DROPPED)
        self._waiting_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._handling = False
        self._progress = asyncio.Event()
        self._batches = metrics.counter(measures.BATCHES)
        hints = metrics.counter(measures.HINTS)
        self._counts = {
            outcome: hints.labels(outcome)
            for outcome in ("taken", "no_session", "no_answer", "waiting")
        }
        self._gathered = metrics.histogram(metrics.BATCH_SIZE).labels("sync.gather")

    def attach(self, links: Links, pushes: Pushes, letters: DeadLetters) -> None:
        """Name what hints are handed to; once, before `run`."""
        self._links, self._pushes, self._letters = links, pushes, letters

    @property
    def open_batches(self) -> int:
        """Batches in this process: waiting, or read and not settled."""
        return len(self._inbox) + len(self._ledger)

    def lag_ms(self) -> int:
        """Age of the oldest batch in this process, in ms; 0 when there is none."""
        found = [self._inbox.oldest_since(), self._ledger.oldest_since()]
        oldest = min((since for since in found if since is not None), default=None)
        return 0 if oldest is None else max(0, round((self._clock.monotonic() - oldest) * 1000))

    async def run(self) -> None:
        """Handle what comes until cancelled."""
        while True:
            await self._inbox.wake.wait()
            self._inbox.wake.clear()
            while self._has_work():
                self._handling = True
                try:
                    await self._gather()
                finally:
                    self._handling = False
            self._progress.set()

    async def forget_old(self) -> None:
        """Give up batches that nobody settles; run in the background."""
        while True:
            await self._clock.sleep(FORGET_LOOK_SECONDS)
            if self._ledger.forget_older(self._clock.monotonic() - self._settle_seconds):
                self._progress.set()
            metrics.gauge(measures.OPEN_BATCHES).set(self.open_batches)
            held = self._ledger.open_bytes + self._inbox.waiting_bytes
            metrics.gauge(measures.OPEN_BYTES).set(held)

    async def drain(self) -> None:
        """Return once all that was taken is settled, or is left to the outbox."""
        while self._has_work() or self._handling or len(self._ledger):
            for pending in self._waiting:  # presence knows nothing of them: not within a stop
                self._ledger.forget(pending.batch)
            self._waiting.clear()
            self._news.take()  # their nodes look again within a minute
            self._progress.clear()
            if self._has_work() or self._handling or len(self._ledger):
                await self._progress.wait()

    # -- one gathering ------------------------------------------------------------------------

    def _has_work(self) -> bool:
        waits = self._waiting or len(self._news)
        return bool(len(self._inbox) or self._again or (self._waiting_due and waits))

    async def _gather(self) -> None:
        fresh = self._inbox.take(GATHER_HINTS)
        hints, signals = self._open(fresh)
        again, self._again = self._again, []
        waiting: list[PendingHint] = []
        news: list[Signal] = []
        if self._waiting_due:
            waiting, self._waiting = self._waiting, []
            news = self._news.take()
            self._waiting_due = False
        self._gathered.observe(len(hints) + len(again) + len(waiting))
        sampled = [hint for one in fresh for hint in one.sampled]
        began_ns = time.time_ns() if sampled else 0
        answer = await self._look_up(
            [hint.hint.account_id for hint in hints] + [signal.account_id for signal in signals],
            [
                *(hint.hint.account_id for hint in again + waiting),
                *(signal.account_id for signal in news),
            ],
            sampled[0].trace_context if sampled else b"",
        )
        if sampled:
            self._record_gathering(fresh, began_ns)
        await failpoints.hit("sync.lookup.after")
        if answer.refused:
            hints, again, waiting = (
                self._without_refused(part, answer.refused) for part in (hints, again, waiting)
            )
        self._carry_out(hints, answer)
        self._carry_out(waiting, answer)
        self._carry_out(again, answer, again=True)
        self._carry_signals([*news, *signals], answer)

    def _open(self, batches: Sequence[Taken]) -> tuple[list[PendingHint], list[Signal]]:
        hints: list[PendingHint] = []
        signals: list[Signal] = []
        now = self._clock.monotonic()
        for one in batches:
            opened = self._ledger.open(
                one.batch, size_bytes=one.size_bytes, since=one.since, taken=now
            )
            for pending in opened:
                hint = pending.hint
                if _is_number(hint.account_id) and _is_number(hint.timeline_seq):
                    hints.append(pending)
                else:
                    self._bury(pending, "hint without an account or position")
            signals.extend(signal for signal in one.batch.signals if _is_number(signal.account_id))
            if not opened:  # signals alone: done by being read, and nobody waits to hear it
                self._batches.labels("done").inc()
        return hints, signals

    def _bury(self, pending: PendingHint, reason: str) -> None:
        hint, batch = pending.hint, pending.batch
        self._letters.offer(
            reason,
            hint.SerializeToString(),
            account_id=hint.account_id,
            timeline_seq=hint.timeline_seq,
            batch_id=batch.batch_id,
            node_id=batch.node_id,
            on_kept=lambda: self._settle((batch,)),
        )

    def _without_refused(
        self, hints: Iterable[PendingHint], refused: Container[int]
    ) -> list[PendingHint]:
        good: list[PendingHint] = []
        for pending in hints:
            if pending.hint.account_id in refused:
                self._bury(pending, "account that presence refuses")
            else:
                good.append(pending)
        return good

    async def _look_up(
        self, accounts: Sequence[int], fresh: Sequence[int], trace_context: bytes
    ) -> Answer:
        """Ask presence until it answers."""
        retry = RETRY_FIRST_SECONDS
        while True:
            try:
                return await self._routes.look_up(
                    accounts, fresh=fresh, trace_context=trace_context
                )
            except Fault:
                await self._clock.sleep(retry * random.uniform(0.5, 1.0))
                retry = min(retry * 2, RETRY_MAX_SECONDS)

    def _carry_out(
        self, hints: Iterable[PendingHint], answer: Answer, *, again: bool = False
    ) -> None:
        made, settled = plan(hints, answer.routes, unknown=answer.unknown, again=again)
        for node_id, deliveries in made.deliveries.items():
            self._deliver(node_id, deliveries)
        self._push(made.pushes)
        if made.waits:
            self._counts["waiting"].inc(len(made.waits))
            self._waiting.extend(made.waits)
            self._wait()
        self._settle(settled)

    def _carry_signals(self, signals: Sequence[Signal], answer: Answer) -> None:
        if answer.unknown:
            if dropped := self._news.keep(signals):
                self._dropped.inc(dropped)
            if len(self._news):
                self._wait()
        for signal in signals:
            found = answer.routes.get(signal.account_id)
            for node_id in found.nodes if found is not None else ():
                link = self._links.to(node_id, self._routes.target_of(node_id))
                if link is not None:
                    link.signal(signal)

    def _wait(self) -> None:
        """Presence does not know: ask again later."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._unknown_retry_seconds, self._wait_over)

    def _wait_over(self) -> None:
        self._timer = None
        self._waiting_due = True
        self._inbox.wake.set()

    # -- what became of it ------------------------------------------------------------------------

    def _deliver(self, node_id: int, deliveries: list[NodeDelivery]) -> None:
        link = self._links.to(node_id, self._routes.target_of(node_id))
        if link is None:
            self.on_no_answer(node_id, deliveries)
        else:
            link.deliver(deliveries)

    def on_answer(self, answers: list[tuple[NodeDelivery, bool]]) -> None:
        """Nodes answered: a session took it (True), or there is none."""
        settled: list[Batch] = []
        orders: list[PushOrder] = []
        taken = 0
        for delivery, is_taken in answers:
            if delivery.sent_ns:
                self._record_delivery(delivery, is_taken)
            if is_taken:
                taken += 1
                settled.append(delivery.pending.batch)
                continue
            self._counts["no_session"].inc()
            self._routes.distrust(delivery.pending.hint.account_id)
            what = after_no_session(delivery)
            if isinstance(what, PendingHint):
                self._again.append(what)
            elif what is None:
                settled.append(delivery.pending.batch)
            else:
                orders.append(what)
        self._counts["taken"].inc(taken)
        self._push(orders)
        self._settle(settled)
        if self._again:
            self._inbox.wake.set()

    def on_no_answer(self, node_id: int, deliveries: list[NodeDelivery]) -> None:
        """A node left deliveries open and was given up."""
        self._counts["no_answer"].inc(len(deliveries))
        for delivery in deliveries:
            self._routes.distrust(delivery.pending.hint.account_id)
        orders, settled = after_no_answers(deliveries)
        self._push(orders)
        self._settle(settled)

    def on_pushed(self, orders: list[PushOrder]) -> None:
        """The jobs of these orders are committed."""
        for order in orders:
            self._settle(_covered(order))

    def on_push_refused(self, orders: list[PushOrder], reason: str) -> None:
        """push_svc will never take these orders."""
        for order in orders:
            hint = order.covers[-1].hint if order.covers else Hint()
            batches = _covered(order)
            newest = batches[-1] if batches else None
            self._letters.offer(
                f"push refused: {reason}",
                hint.SerializeToString(),
                account_id=order.account_id,
                timeline_seq=order.timeline_seq,
                batch_id=newest.batch_id if newest is not None else 0,
                node_id=newest.node_id if newest is not None else 0,
                on_kept=lambda batches=batches: self._settle(batches),  # type: ignore[misc]
            )

    def _push(self, orders: Sequence[PushOrder]) -> None:
        if orders:
            for order in self._pushes.offer(orders):
                for batch in _covered(order):
                    self._ledger.forget(batch)

    def _settle(self, batches: Iterable[Batch]) -> None:
        """Settle one leg of each."""
        for batch in batches:
            if self._ledger.settle(batch):
                self._done(batch)
        self._progress.set()

    def _done(self, batch: Batch) -> None:
        self._batches.labels("done").inc()
        if not batch.batch_id:
            return
        target = self._routes.target_of(batch.node_id) or batch.node_target
        link = self._links.to(batch.node_id, target)
        if link is not None:
            link.done(batch.batch_id, batch.digest)

    # -- traces of sampled hints ------------------------------------------------------------------

    def _record_gathering(self, batches: Iterable[Taken], began_ns: int) -> None:
        now_ns = time.time_ns()
        for one in batches:
            queued_ns = one.batch.enqueued_at_ms * 1_000_000
            attributes = {
                "chatmesh.batch_id": one.batch.batch_id,
                "chatmesh.attempt": one.batch.attempt,
            }
            for hint in one.sampled:
                start_ns = min(queued_ns, began_ns) or began_ns
                self._tracer.hop(HOP_QUEUE, hint.trace_context, start_ns, began_ns, attributes)
                self._tracer.hop(HOP_LOOKUP, hint.trace_context, began_ns, now_ns)

    def _record_delivery(self, delivery: NodeDelivery, is_taken: bool) -> None:
        hint = delivery.pending.hint
        if trace.is_sampled(hint.trace_context):
            self._tracer.hop(
                HOP_DELIVER,
                hint.trace_context,
                delivery.sent_ns,
                time.time_ns(),
                {"chatmesh.node_id": delivery.node_id, "chatmesh.session": is_taken},
            )


def _is_number(value: int) -> bool:
    """Whether an id or position may exist: PostgreSQL's bigint holds them all."""
    return 0 < value < 1 << 63


def _covered(order: PushOrder) -> list[Batch]:
    """The batches that an order carries legs of; taken out, so that none is settled twice."""
    covers, order.covers = order.covers, []
    return [pending.batch for pending in covers]
