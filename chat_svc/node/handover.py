"""After the commit: results to senders, entries to the sessions here, hints to everybody else.

An event's bytes are made once; each recipient's entry only puts its own position in front. What is
done here costs no task, no round trip, no span and no log line a message.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from chat_svc.core.batch import PendingSend
from chat_svc.core.closing import problem_of
from chat_svc.core.content import EventFlags
from chat_svc.core.entry_bytes import entry_bytes, event_bytes
from chat_svc.core.frames import entry_piece
from chat_svc.core.window import Item
from chat_svc.node.counters import NodeCounters
from chat_svc.node.hints import HintSigner, NodeAddress, batch_frame
from chat_svc.node.outbox import Outbox
from chat_svc.node.resolver import Resolver
from chat_svc.node.sessions import Sessions
from chat_svc.store.commit import REFUSALS, CommitOutcome, CommitStatus
from chatmesh.digest import settle_digest
from chatmesh.mesh.v1.hint_pb2 import Hint
from chatmesh.runtime import failpoints
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.trace import Tracer
from chatmesh.v1.session_pb2 import SendResult

ACCEPTED: Final = CommitStatus.ACCEPTED
REPEATED: Final = CommitStatus.REPEATED

_log = logger(__name__)
_budget = LogBudget(per_second=1)


@dataclass(slots=True)
class Stored:
    """An event that the commit stored, and what its entries are made of."""

    outcome: CommitOutcome
    sender: int
    sender_user: str
    peer_user: str
    conversation_kind: int
    key: bytes
    body: bytes
    flags: int
    trace: bytes = b""
    slim_body: bytes = b""
    slim_session: object = None
    """The session that gets its entry with ``slim_body``; None = whole like all."""
    sender_left: bool = False
    """The session that sent it is over."""


@dataclass(slots=True)
class _Parcel:
    """What one commit call hands over."""

    hints: list[Hint] = field(default_factory=list)
    local: list[tuple[int, Item, Item | None, object]] = field(default_factory=list)
    """(account, item, slim item, session that gets the slim one)."""


class Handover:
    """See the module's text."""

    def __init__(
        self,
        sessions: Sessions,
        outbox: Outbox,
        signer: HintSigner,
        resolver: Resolver,
        address: NodeAddress,
        clock: Clock,
        counters: NodeCounters,
        tracer: Tracer,
    ) -> None:
        self._sessions = sessions
        self._outbox = outbox
        self._signer = signer
        self._resolver = resolver
        self._address = address
        self._clock = clock
        self._counters = counters
        self._tracer = tracer

    async def sends(
        self,
        batch_id: int,
        sends: Sequence[PendingSend],
        outcomes: Sequence[CommitOutcome],
    ) -> None:
        """Hand over one commit call: hints first, for they have the longest way.

        What was committed is answered, even if it cannot be packed: its outbox row, which is there,
        is found and sent again without entries, and the sessions here read theirs.
        """
        parcel = _Parcel()
        try:
            for send, outcome in zip(sends, outcomes, strict=True):
                if outcome.status is ACCEPTED:
                    self._pack(parcel, self._stored(send, outcome))
            await failpoints.hit("enqueue.before")
            self._enqueue(batch_id, parcel)
        except Exception as error:  # noqa: BLE001 - one message must not end the node's commits
            if _budget.take():
                _log.error("hints not packed; they are sent again from the store", exc_info=error)
            self._outbox.may_have_rows()
            self._note_heads(outcomes)
        await failpoints.hit("result.before")
        for send, outcome in zip(sends, outcomes, strict=True):
            self.answer(send, outcome)
        self._deliver_local(parcel)

    async def publish(self, batch_id: int, stored: Sequence[Stored]) -> None:
        """Hand over a slow commit (groups, members, contacts, blocks): no results, the same
        hints and local entries."""
        parcel = _Parcel()
        for one in stored:
            if one.outcome.status is ACCEPTED:
                self._pack(parcel, one)
        await failpoints.hit("enqueue.before")
        self._enqueue(batch_id, parcel)
        self._deliver_local(parcel)

    def tell_head(self, account: int, seq: int) -> None:
        """Tell the account's sessions, wherever they are, how far its timeline reaches; at most
        once."""
        now_ms = self._clock.wall_ms()
        hint = Hint(account_id=account, timeline_seq=seq)
        self._outbox.signal(batch_frame(self._address, 0, [hint], attempt=0, now_ms=now_ms))

    def answer(self, send: PendingSend, outcome: CommitOutcome, *, again: bool = False) -> None:
        """The one result of one message. ``again``: a second message with the same key."""
        status = outcome.status
        if status is ACCEPTED or status is REPEATED:
            repeated = again or status is REPEATED
            if repeated:
                self._counters.messages_repeated += 1
                self._note_own(send.sender.account, outcome.sender_timeline_seq)
            else:
                self._counters.messages_committed += 1
            result = SendResult(
                idempotency_key=send.message.key,
                message_id=outcome.message_id,
                conversation_id=outcome.conversation,
                conversation_seq=outcome.conversation_seq,
                message_no=outcome.message_no,
                timeline_seq=outcome.sender_timeline_seq,
                created_at_ms=outcome.created_at_ms,
                repeated=repeated,
            )
            send.sender.answer(send, result.SerializeToString(), True)
        else:
            self.refuse(send, REFUSALS[status]())

    def refuse(self, send: PendingSend, fault: Fault) -> None:
        """Answer one message with a refusal: nothing was stored."""
        self._counters.messages_refused += 1
        result = SendResult(idempotency_key=send.message.key, problem=problem_of(fault))
        send.sender.answer(send, result.SerializeToString(), False)

    def _note_heads(self, outcomes: Sequence[CommitOutcome]) -> None:
        """Recipients' sessions here read up to their new heads, whatever else they are given."""
        for outcome in outcomes:
            if outcome.status is ACCEPTED:
                for recipient in outcome.recipients:
                    self._note_own(recipient.account, recipient.timeline_seq)

    def _note_own(self, account: int, seq: int) -> None:
        """An earlier session has stored this, maybe on a node that died before it told anybody."""
        for session in self._sessions.of(account):
            session.machine.note_head(seq)
            session.settle()

    def _stored(self, send: PendingSend, outcome: CommitOutcome) -> Stored:
        sender, message = send.sender, send.message
        place = self._resolver.place(outcome.conversation)
        peer = 0
        if place is not None:
            peer = place.peer_of(sender.account)
            place.weight = len(outcome.recipients)  # what the next batch is planned with
        slim_body = b""
        if sender.slim_session is not None:
            slim_body = message.body[message.content_size :] + sender.body_suffix
        return Stored(
            outcome,
            sender.account,
            sender.user,
            self._resolver.user(peer) if peer else "",
            place.kind if place is not None else 0,
            message.key,
            send.body,
            message.flags,
            send.trace,
            slim_body,
            sender.slim_session,
            sender.has_left(),
        )

    def _pack(self, parcel: _Parcel, stored: Stored) -> None:
        outcome = stored.outcome
        event = self._event(stored, stored.body)
        trace = self._hop_enqueue(stored) if stored.trace else b""
        may_notify = bool(stored.flags & EventFlags.NOTIFIES)
        for recipient in outcome.recipients:
            account, seq = recipient.account, recipient.timeline_seq
            own = account == stored.sender
            entry = entry_bytes(seq, event, stored.key if own else b"")
            # A sender whose only device sends is not hinted by the commit: the session is here. If
            # it ended while its message was on the way, the device may be on another node by now.
            if recipient.hinted or (own and stored.sender_left):
                parcel.hints.append(
                    Hint(
                        account_id=account,
                        timeline_seq=seq,
                        entry=entry,
                        digest=self._signer.digest(account, seq, entry),
                        pushable=recipient.pushable,
                        trace_context=trace,
                        message_id=outcome.message_id,
                        conversation_id=outcome.conversation,
                    )
                )
            if self._sessions.of(account):
                item = self._item(outcome, seq, entry, may_notify and not own, own, trace)
                slim = None
                if own and stored.slim_session is not None:
                    short = entry_bytes(seq, self._event(stored, stored.slim_body), stored.key)
                    slim = self._item(outcome, seq, short, False, True, trace)
                parcel.local.append((account, item, slim, stored.slim_session))

    @staticmethod
    def _event(stored: Stored, body: bytes) -> bytes:
        outcome = stored.outcome
        return event_bytes(
            outcome.conversation,
            outcome.conversation_seq,
            outcome.message_no,
            outcome.message_id,
            stored.sender_user,
            outcome.created_at_ms,
            stored.peer_user,
            stored.conversation_kind,
            body,
        )

    @staticmethod
    def _item(
        outcome: CommitOutcome, seq: int, entry: bytes, notifies: bool, own: bool, trace: bytes
    ) -> Item:
        return Item(
            seq,
            entry_piece(entry),
            outcome.message_id,
            outcome.conversation,
            outcome.conversation_seq,
            notifies,
            own,
            trace,
        )

    def _enqueue(self, batch_id: int, parcel: _Parcel) -> None:
        if parcel.hints:
            self._counters.hints_sent += len(parcel.hints)
            self._counters.hint_frames += 1
            frame = batch_frame(
                self._address, batch_id, parcel.hints, attempt=0, now_ms=self._clock.wall_ms()
            )
            self._outbox.enqueue(batch_id, frame, _settle_digest(batch_id, parcel.hints))

    def _deliver_local(self, parcel: _Parcel) -> None:
        now = self._clock.monotonic()
        for account, item, slim, slim_session in parcel.local:
            for session in self._sessions.of(account):
                self._counters.entries_local += 1
                session.offer(slim if slim and session is slim_session else item, now)

    def _hop_enqueue(self, stored: Stored) -> bytes:
        now_ns = time.time_ns()
        return self._tracer.hop(
            "chat.enqueue",
            stored.trace,
            now_ns,
            now_ns,
            {
                "chatmesh.message_id": stored.outcome.message_id,
                "chatmesh.conversation_seq": stored.outcome.conversation_seq,
                "chatmesh.recipients": len(stored.outcome.recipients),
            },
        )


def _settle_digest(batch_id: int, hints: Sequence[Hint]) -> bytes:
    return settle_digest(
        batch_id, [(hint.account_id, hint.timeline_seq, hint.pushable) for hint in hints]
    )
