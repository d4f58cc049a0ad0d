"""What reaches this node's sessions from the mesh, and the comparison that heals what did not.

A delivery is a hint: with a matching digest its entry is offered to the account's sessions as it
is; otherwise they only learn how far the timeline reaches, and read. Its answer means "the sessions
know their head is at least that".

Comparison: sessions against `timeline_head`, in one query for a thousand accounts; for all of them
after a Deliver stream ended, after a new PostgreSQL connection, after routes were attached anew and
every 500 ms while routes cannot be relied on; else each about once a minute.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from chat_svc.core.entry_bytes import conversation_seq_of, has_key
from chat_svc.core.frames import entry_piece
from chat_svc.core.window import Item
from chat_svc.node.counters import NodeCounters
from chat_svc.node.hints import HintSigner
from chat_svc.node.live_session import LiveSession
from chat_svc.node.outbox import Outbox
from chat_svc.node.sessions import Sessions
from chat_svc.node.signals import Signals
from chat_svc.store.devices import Head
from chatmesh.mesh.v1.hint_pb2 import Hint
from chatmesh.mesh.v1.node_pb2 import (
    DELIVERY_OUTCOME_NO_SESSION,
    DeliverRequest,
    DeliverResponse,
)
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.trace import Tracer, is_sampled

LOOK_SECONDS: Final = 0.5
ROUND_SECONDS: Final = 60
"""Each session is compared once in a round when nothing calls for it sooner."""
MAX_ACCOUNTS: Final = 1_000

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class HeadRows(Protocol):
    """What is used of the store."""

    async def match(self, cursors: Sequence[tuple[int, int, int]]) -> list[bool]:
        """Whether each (account, timeline_seq, message id) can be resumed from."""
        ...

    async def heads(self, accounts: Sequence[int]) -> dict[int, Head]:
        """Heads by account."""
        ...


class Delivery:
    """Takes deliveries in."""

    def __init__(
        self,
        sessions: Sessions,
        outbox: Outbox,
        signals: Signals,
        signer: HintSigner,
        clock: Clock,
        counters: NodeCounters,
        tracer: Tracer,
    ) -> None:
        self._sessions = sessions
        self._outbox = outbox
        self._signals = signals
        self._signer = signer
        self._clock = clock
        self._counters = counters
        self._tracer = tracer
        self.on_new_conversation: Callable[[Sequence[int]], None] = lambda _accounts: None
        """Told of accounts that got the first event of a conversation: a new contact, maybe."""

    def take(self, request: DeliverRequest) -> DeliverResponse | None:
        """One frame of a Deliver stream; the answer, if it held deliveries."""
        self._counters.deliver_frames += 1
        if request.done_batch_ids:
            digests = [*request.done_digests, *(b"" for _ in request.done_batch_ids)]
            self._outbox.on_done(zip(request.done_batch_ids, digests, strict=False))
        for signal in request.signals:
            self._signals.arrived(signal)
        if not request.deliveries:
            return None
        response = DeliverResponse()
        now = self._clock.monotonic()
        for delivery in request.deliveries:
            hint = delivery.hint
            sessions = self._sessions.of(hint.account_id)
            if sessions:
                response.settled.add(delivery_id=delivery.delivery_id)
                self._offer(sessions, hint, now)
            else:
                response.settled.add(
                    delivery_id=delivery.delivery_id, outcome=DELIVERY_OUTCOME_NO_SESSION
                )
        self._counters.hints_received += len(request.deliveries)
        return response

    def _offer(self, sessions: Sequence[LiveSession], hint: Hint, now: float) -> None:
        seq, entry = hint.timeline_seq, hint.entry
        trace = hint.trace_context
        if not entry or not self._signer.matches(hint):
            if entry:
                self._counters.hints_refused += 1
            for session in sessions:
                session.machine.note_head(seq, seq if hint.pushable else 0)
                session.settle()
            return
        if trace:
            trace = self._hop(hint) if is_sampled(trace) else b""
        item = Item(
            seq,
            entry_piece(entry),
            hint.message_id,
            hint.conversation_id,
            conversation_seq_of(entry, seq, hint.conversation_id),
            hint.pushable,
            has_key(entry),
            trace,
        )
        for session in sessions:
            session.offer(item, now)
        if item.conversation_seq == 1:
            self.on_new_conversation([hint.account_id])

    def _hop(self, hint: Hint) -> bytes:
        now_ns = time.time_ns()
        return self._tracer.hop(
            "chat.deliver",
            hint.trace_context,
            now_ns,
            now_ns,
            {"chatmesh.message_id": hint.message_id, "chatmesh.timeline_seq": hint.timeline_seq},
        )


class Comparison:
    """Compares sessions with the heads of their timelines."""

    def __init__(
        self,
        heads: HeadRows,
        sessions: Sessions,
        clock: Clock,
        counters: NodeCounters,
        routes_are_certain: Callable[[], bool],
    ) -> None:
        """``routes_are_certain``: whether hints reach this node, as far as can be known."""
        self._heads = heads
        self._sessions = sessions
        self._clock = clock
        self._counters = counters
        self._all_now = False
        self._history_too = False
        self._place = 0.0
        self._routes_are_certain = routes_are_certain
        self.on_compared: Callable[[Sequence[int]], None] = lambda _accounts: None
        """Told of accounts whose turn in the round came: look after other things of theirs."""

    def all_soon(self) -> None:
        """Something may have been missed by anybody: compare all at the next look."""
        self._all_now = True

    def history_soon(self) -> None:
        """The database may be another one, or an older state of it: compare what was sent by its
        message ids, too. A head above what was sent proves nothing then."""
        self._all_now = self._history_too = True

    async def run(self) -> None:
        """In the background."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            everybody = self._all_now or not self._routes_are_certain()
            history_too = everybody and self._history_too
            self._all_now = False
            accounts = self._sessions.accounts() if everybody else self._share()
            try:
                for start in range(0, len(accounts), MAX_ACCOUNTS):
                    part = accounts[start : start + MAX_ACCOUNTS]
                    if history_too:
                        await self._compare_history(part)
                    await self._compare(part)
                    if not everybody:
                        self.on_compared(part)
                if history_too:
                    self._history_too = False
            except Exception as error:  # noqa: BLE001 - the store is away: all again when it is back
                self._all_now = True
                if _budget.take():
                    _log.warning("sessions not compared", error=type(error).__name__)

    def _share(self) -> list[int]:
        """The accounts whose turn it is, so that all have one within a round."""
        accounts = self._sessions.accounts()
        start = int(self._place)
        self._place += len(accounts) * LOOK_SECONDS / ROUND_SECONDS
        part = accounts[start : int(self._place)]
        if self._place >= len(accounts):
            self._place = 0.0
        return part

    async def _compare_history(self, accounts: Sequence[int]) -> None:
        """End sessions whose newest entry is another one in the store, or is not there."""
        sessions = [one for account in accounts for one in self._sessions.of(account)]
        known = [(one.account, *one.machine.window.newest_known) for one in sessions]
        for session, good in zip(sessions, await self._heads.match(known), strict=True):
            if not good and not session.is_over:
                session.machine.cursor_invalid()
                session.settle()

    async def _compare(self, accounts: Sequence[int]) -> None:
        queued = {
            session: session.machine.window.queued_seq
            for account in accounts
            for session in self._sessions.of(account)
        }
        heads = await self._heads.heads(accounts)
        self._counters.head_reads += 1
        for session, seq in queued.items():
            head = heads.get(session.account)
            if head is None or session.is_over:
                continue
            if head.seq < seq:
                session.machine.cursor_invalid()  # history was rewound: this was sent and is gone
            else:
                session.machine.note_head(head.seq, head.notify_seq)
                session.machine.note_version(head.account_version)
            session.settle()
