"""The chat node as its sessions see it: each effect goes to the part that does it.

A table from effects to parts, the end of sessions, and the clock that looks at their timeouts. What
a part does is its own module's business; what the path of a message costs is decided there.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from chat_svc.core import effects
from chat_svc.core.batch import Chain, PendingSend
from chat_svc.core.effects import Effect
from chat_svc.core.limits import Limits
from chat_svc.core.rate import TokenBucket
from chat_svc.node.committer import Committer
from chat_svc.node.counters import CounterExport, NodeCounters
from chat_svc.node.counts import Counts
from chat_svc.node.cursors import Cursors
from chat_svc.node.farewell import Ended, Farewell
from chat_svc.node.fill import Fill
from chat_svc.node.handover import Handover
from chat_svc.node.hints import NodeAddress
from chat_svc.node.live_session import LiveSession
from chat_svc.node.opening import Opening
from chat_svc.node.presence import PresenceLink
from chat_svc.node.push import PushLink
from chat_svc.node.receipts import Receipts
from chat_svc.node.sessions import Sessions
from chat_svc.node.tasks import Tasks
from chat_svc.node.watching import Watching
from chatmesh import errors
from chatmesh.mesh.v1.presence_pb2 import SessionRecord
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.identity import Identity, TokenVerifier
from chatmesh.runtime.trace import Tracer, is_sampled
from chatmesh.v1.session_pb2 import Closed

FORCED_TRACES_PER_SECOND: Final = 50
FORCED_TRACES_BURST: Final = 200
"""Traces that clients may ask for on one node, above the share that the node samples itself: a
client must not make the mesh record everything."""

SWEEPS_PER_SECOND: Final = 10
"""Timeouts are looked at once a second per session, a tenth of the sessions at a time: a sweep over
50,000 sessions would hold the event loop for tens of milliseconds."""


@dataclass(frozen=True, slots=True)
class NodeParts:
    """Everything a node is made of; put together in `app`."""

    address: NodeAddress
    limits: Limits
    sessions: Sessions
    committer: Committer
    handover: Handover
    fill: Fill
    cursors: Cursors
    receipts: Receipts
    counts: Counts
    push: PushLink
    presence: PresenceLink
    watching: Watching
    farewell: Farewell
    opening: Opening
    verifier: TokenVerifier
    tasks: Tasks
    clock: Clock
    counters: NodeCounters
    tracer: Tracer
    samples_all: bool
    """Every message is traced anyway."""


class ChatNode:
    """See the module's text."""

    def __init__(self, parts: NodeParts) -> None:
        self.parts = parts
        self.streams: set[LiveSession] = set()
        """All sessions with a stream, opened or not."""
        self._export = CounterExport(parts.counters)
        self._forced = TokenBucket(
            FORCED_TRACES_PER_SECOND, FORCED_TRACES_BURST, parts.clock.monotonic()
        )
        self._do: Final[dict[type[Any], Callable[[LiveSession, Any], None]]] = {
            effects.Offer: self._offer,
            effects.Acked: self._acked,
            effects.Read: parts.fill.read,
            effects.WaitForHole: lambda session, _: parts.fill.wait_for_hole(session),
            effects.Open: self._open,
            effects.PushOwed: self._push_owed,
            effects.PushVoid: self._push_void,
            effects.AccountStateWanted: lambda session, e: parts.counts.wanted(session, e.nonce),
            effects.MarkRead: self._mark_read,
            effects.Typing: self._typing,
            effects.PresenceWish: self._presence_wish,
            effects.ActivityChanged: lambda session, _: parts.presence.changed(session),
            effects.WatchChanged: parts.watching.asked,
            effects.VerifyToken: self._verify,
        }

    @property
    def node_id(self) -> int:
        """`chat_node.id` of this life."""
        return self.parts.address.node_id

    # -- sessions --------------------------------------------------------------------------------

    def new_session(self, identity: Identity, stream_trace: bytes) -> LiveSession:
        """A stream began; its first frame is still to come."""
        parts = self.parts
        session = LiveSession(
            self,
            identity,
            parts.limits,
            parts.clock,
            parts.counters,
            parts.tracer,
            stream_trace=stream_trace if is_sampled(stream_trace) else b"",
        )
        self.streams.add(session)
        return session

    def run(self, session: LiveSession, effect: Effect) -> None:
        """Do what a session's machine asks for."""
        self._do[type(effect)](session, effect)

    def ended(self, session: LiveSession) -> None:
        """A stream is over."""
        self.streams.discard(session)
        parts = self.parts
        parts.counters.keyed_dropped += session.machine.frames.keyed_dropped
        if not session.session_no:
            return  # it never opened, or `opening` is still at it and will see
        parts.watching.stop(session)
        parts.counters.sessions_ended += session.was_opened
        is_newest = parts.sessions.remove(session) and not session.was_replaced
        parts.presence.detach(session)
        window = session.machine.window
        if session.was_replaced:
            # What it sent until it was told is hinted to nobody: its device had been here.
            parts.handover.tell_head(session.account, window.head_seq)
        if is_newest:
            parts.farewell.say(
                Ended(
                    session.account,
                    session.device_id,
                    session.session_no,
                    window.acked_seq,
                    window.head_seq,
                )
            )

    def end_sessions(
        self,
        account: int,
        device_ids: Sequence[str],
        reason: Closed.Reason.ValueType,
        *,
        before_session_no: int = 0,
    ) -> int:
        """Close sessions of an account (no devices named: all of them); how many.

        ``before_session_no``: only older ones; 0 = all.
        """
        ended = 0
        for session in self.parts.sessions.of(account):
            if before_session_no and session.session_no >= before_session_no:
                continue
            if not device_ids or session.device_id in device_ids:
                session.machine.close(reason, _fault_of(reason))
                session.settle()
                ended += 1
        return ended

    def superseded(self, records: Sequence[SessionRecord]) -> None:
        """Presence knows newer sessions of these devices elsewhere."""
        for record in records:
            session = self.parts.sessions.of_device(record.account_id, record.device_id)
            if session is not None and session.session_no <= record.session_no:
                session.machine.close(Closed.REASON_REPLACED, errors.SESSION_REPLACED())
                session.settle()

    def close_all(self, reason: Closed.Reason.ValueType) -> None:
        """Close every session, opened or not."""
        for session in list(self.streams):
            session.machine.close(reason)
            session.settle()

    async def sweep(self) -> None:
        """Look at timeouts and export counters; in the background."""
        clock = self.parts.clock
        while True:
            sessions = list(self.streams)
            share = len(sessions) // SWEEPS_PER_SECOND + 1
            for start in range(0, SWEEPS_PER_SECOND * share, share):
                now, wall_ms = clock.monotonic(), clock.wall_ms()
                for session in sessions[start : start + share]:
                    if not session.is_over:
                        session.tick(now, wall_ms)
                await clock.sleep(1 / SWEEPS_PER_SECOND)
            self._export.export()

    # -- effects ---------------------------------------------------------------------------------

    def _offer(self, session: LiveSession, offer: effects.Offer) -> None:
        sender = session.sender
        if sender is None:
            return
        chain = Chain() if offer.stop_on_error else None
        sends = []
        for message in offer.messages:
            trace = self.trace_of(message.trace or session.stream_trace, session.received_ns)
            sends.append(PendingSend(sender, message, chain, trace))
        self.parts.committer.offer(sends)

    def trace_of(self, context: bytes, received_ns: int) -> bytes:
        """Context of the message's first hop; empty when it is not sampled."""
        tracer = self.parts.tracer
        if not context:
            context = tracer.root()
            if not is_sampled(context):
                return b""
        elif not is_sampled(context) or not self._may_force():
            return b""
        return tracer.hop("chat.receive", context, received_ns, time.time_ns())

    def _may_force(self) -> bool:
        return self.parts.samples_all or self._forced.take(self.parts.clock.monotonic())

    def _acked(self, session: LiveSession, effect: effects.Acked) -> None:
        ack = effect.ack
        parts = self.parts
        parts.cursors.acked(session, ack)
        if ack.delivered and session.sender is not None:
            parts.receipts.delivered(session.account, ack.delivered)
        for entry in ack.traced:
            now_ns = time.time_ns()
            parts.tracer.hop(
                "chat.ack",
                entry.trace,
                now_ns,
                now_ns,
                {
                    "chatmesh.message_id": entry.message_id,
                    "chatmesh.conversation_seq": entry.conversation_seq,
                    "chatmesh.session_no": session.session_no,
                },
            )

    def _push_owed(self, session: LiveSession, effect: effects.PushOwed) -> None:
        self.parts.push.owe(session.account, session.device_id, effect.timeline_seq)

    def _push_void(self, session: LiveSession, effect: effects.PushVoid) -> None:
        self.parts.push.void(session.account, session.device_id, effect.timeline_seq)

    def _mark_read(self, session: LiveSession, effect: effects.MarkRead) -> None:
        if session.sender is not None:
            self.parts.receipts.read(
                session.account,
                effect.conversation_id,
                effect.message_no,
            )

    def _typing(self, session: LiveSession, effect: effects.Typing) -> None:
        if session.sender is not None:
            self.parts.receipts.typing(
                session.sender.tenant_id,
                session.account,
                session.identity.user_id,
                effect.conversation_id,
                effect.active,
            )

    def _presence_wish(self, session: LiveSession, effect: effects.PresenceWish) -> None:
        self.parts.presence.wish(session.account, effect.state, effect.text, effect.until_ms)

    def _open(self, session: LiveSession, effect: effects.Open) -> None:
        self._busy(session, self.parts.opening.open(session, effect), "opening")

    def _verify(self, session: LiveSession, effect: effects.VerifyToken) -> None:
        self._busy(session, self._renew_token(session, effect.token), "token renewal")

    def _busy(self, session: LiveSession, work: Any, name: str) -> None:
        """Run work of a session during which no further frame of it is read."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        session.busy = done

        async def until_done() -> None:
            try:
                await work
            finally:
                session.busy = None
                done.set_result(None)

        self.parts.tasks.start(until_done(), name)

    async def _renew_token(self, session: LiveSession, token: str) -> None:
        mine = session.identity
        try:
            identity = await self.parts.verifier.verify(token)
            if (identity.tenant, identity.user_id) != (mine.tenant, mine.user_id):
                raise errors.TOKEN_MISMATCH()
            await self.parts.opening.admit(identity)
        except Fault as fault:
            session.machine.close(Closed.REASON_PROTOCOL_ERROR, fault)
        else:
            session.identity = identity
            session.machine.token_renewed(identity.expires_at_ms)
        session.settle()


def _fault_of(reason: Closed.Reason.ValueType) -> Fault | None:
    if reason == Closed.REASON_REPLACED:
        return errors.SESSION_REPLACED()
    if reason == Closed.REASON_REVOKED:
        return errors.DEVICE_REFUSED()
    return None
