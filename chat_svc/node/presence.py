"""The node in presence_svc: its lease, and the routes of its sessions.

A beat every 3 s carries count and digest of the sessions; when presence believes something else it
asks for all of them again. Routes come and go in batches: what gathered while the last request was
answered. Nothing of this is truth: presence may be away or empty, sessions go on, and the node
compares them with their timelines until it is back.

Wishes (do not disturb, invisible, status text) are truth, in PostgreSQL. They are written there
first, and read again for each batch of routes, which carries them: so presence knows that somebody
is invisible before it knows that they are there, however often it lost everything.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from chat_svc.node.hints import NodeAddress
from chat_svc.node.live_session import LiveSession
from chat_svc.node.sessions import Sessions
from chat_svc.store.presence import WishChange, WishRow
from chatmesh.mesh.v1.presence_pb2 import (
    AttachRequest,
    AttachResponse,
    KeepAliveRequest,
    KeepAliveResponse,
    NodeRef,
    SessionRecord,
    SetStateRequest,
)
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.readiness import Component
from chatmesh.runtime.streams import RequestStream
from chatmesh.v1.types_pb2 import DeviceKind, PresenceState

BEAT_SECONDS: Final = 3.0
BEAT_ANSWER_SECONDS: Final = 2.0
ATTACH_ANSWER_SECONDS: Final = 3.0
ATTACH_PATIENCE_SECONDS: Final = 1.0
"""A session waits this long for its route; then it opens without, and is compared later."""
MAX_RECORDS: Final = 1_000
MAX_DETACHED: Final = 50_000
"""Ends of sessions kept while presence is away."""
MAX_WISHES: Final = 500
"""Wishes written in one statement."""
MAX_IN_FLIGHT: Final = 16
WISH_RETRY_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 0.2

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class WishRows(Protocol):
    """What is used of the store."""

    async def write_wishes(self, changes: Sequence[WishChange]) -> None:
        """Take in what users chose."""
        ...

    async def wishes_of(self, accounts: Iterable[int]) -> dict[int, WishRow]:
        """Wishes of those that ever chose."""
        ...


class PresenceLink:
    """See the module's text."""

    def __init__(
        self,
        open_keep_alive: Callable[[], Any],
        open_attach: Callable[[], Any],
        wishes: WishRows,
        sessions: Sessions,
        address: NodeAddress,
        readiness: Component,
        clock: Clock,
    ) -> None:
        self._rows = wishes
        self._sessions = sessions
        self._address = address
        self._readiness = readiness
        self._clock = clock
        self.keep_alive: RequestStream[KeepAliveRequest, KeepAliveResponse] = RequestStream(
            open_keep_alive,
            name="presence lease",
            max_in_flight=MAX_IN_FLIGHT,
            on_end=self._lease_stream_ended,
        )
        self.attach_stream: RequestStream[AttachRequest, AttachResponse] = RequestStream(
            open_attach, name="presence routes", max_in_flight=MAX_IN_FLIGHT
        )
        self._attached: dict[LiveSession, asyncio.Future[None] | None] = {}
        self._late: set[LiveSession] = set()  # opened before their route was known
        self._detached: list[SessionRecord] = []
        self._chosen: dict[int, WishChange] = {}  # to be written; bounded by the accounts here
        self._untold: set[int] = set()  # written, to be told
        self._wishes: dict[int, WishRow] = {}  # as read last, for when PostgreSQL is away
        self._all_again = False
        self._wake = asyncio.Event()
        self._wish_wake = asyncio.Event()
        self.is_certain = False
        """Whether presence granted the lease lately: routes can be relied on."""
        self.on_superseded: Callable[[Sequence[SessionRecord]], None] = lambda _records: None
        """Told of sessions here that are older than the device's session elsewhere."""
        self.on_certain: Callable[[], None] = lambda: None
        """Told when routes can be relied on again, and when the route of a session became known
        after it had read to its head: sessions must be compared."""

    async def attach(self, session: LiveSession) -> bool:
        """Make the session's route known; False when presence did not answer in time (it goes on
        trying)."""
        known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._attached[session] = known
        self._wake.set()
        if not self.is_certain:
            self._late.add(session)
            return False  # presence is away: nobody waits for it
        try:
            async with asyncio.timeout(ATTACH_PATIENCE_SECONDS):
                await known
        except TimeoutError:
            self._late.add(session)
            if session in self._attached:
                self._attached[session] = None
            return False
        return True

    def changed(self, session: LiveSession) -> None:
        """The session went to the foreground or the background."""
        self._attached.setdefault(session, None)
        self._wake.set()

    def detach(self, session: LiveSession) -> None:
        """The session is over."""
        self._attached.pop(session, None)
        if not self._sessions.of(session.account):
            self._wishes.pop(session.account, None)
        self._late.discard(session)
        if len(self._detached) >= MAX_DETACHED:  # presence is away for long
            self._detached.clear()
            self._all_again = True  # a full attach takes away what it does not name
        self._detached.append(_record(session))
        self._wake.set()

    def wish(self, account: int, state: int, text: str | None, until_ms: int) -> None:
        """A user chose a lasting presence."""
        change = WishChange(account, state, text, until_ms)
        self._chosen[account] = change.after(self._chosen.get(account))
        self._wish_wake.set()

    async def leave(self) -> None:
        """Give the lease up: nobody is routed here any more."""
        try:
            await self.keep_alive.call(
                KeepAliveRequest(node=self._node(), leaving=True),
                timeout_seconds=BEAT_ANSWER_SECONDS,
            )
        except Fault as fault:
            _log.warning("presence not told of leaving", fault=str(fault))

    async def beat(self) -> None:
        """Keep the lease; in the background."""
        while True:
            try:
                answer = await self.keep_alive.call(
                    KeepAliveRequest(
                        node=self._node(),
                        session_count=self._sessions.count,
                        session_digest=self._sessions.digest,
                    ),
                    timeout_seconds=BEAT_ANSWER_SECONDS,
                )
            except Fault as fault:
                self._uncertain(str(fault))
                await self._clock.sleep(RETRY_SECONDS)
                continue
            if answer.reattach:
                self._all_again = True
                self._wake.set()
            self._readiness.up()
            if not self.is_certain:
                self.is_certain = True
                self.on_certain()
            await self._clock.sleep(BEAT_SECONDS)

    async def run_routes(self) -> None:
        """Tell routes in batches; in the background."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._all_again or self._attached or self._detached or self._untold:
                if self._all_again:  # first: under many logins some always wait
                    self._all_again = False
                    await self._attach_all()
                if self._attached or self._detached or self._untold:
                    await self._attach_some()

    async def run_wishes(self) -> None:
        """Write what users chose, then have it told; in the background."""
        while True:
            await self._wish_wake.wait()
            self._wish_wake.clear()
            while self._chosen:
                part = dict(list(self._chosen.items())[:MAX_WISHES])
                for account in part:
                    del self._chosen[account]
                try:
                    await self._rows.write_wishes(list(part.values()))
                except Exception as error:  # noqa: BLE001 - the store is away: later
                    for account, change in part.items():
                        newer = self._chosen.get(account)
                        self._chosen[account] = newer.after(change) if newer else change
                    if _budget.take():
                        _log.warning("presence wishes not written", error=type(error).__name__)
                    await self._clock.sleep(WISH_RETRY_SECONDS)
                    continue
                self._untold |= part.keys()
                self._wake.set()

    async def _wishes_of(self, accounts: set[int]) -> list[SetStateRequest]:
        """Wishes to tell along with routes of these accounts."""
        try:
            found = await self._rows.wishes_of(sorted(accounts))
            self._wishes |= found
        except Exception as error:  # noqa: BLE001 - the store is away: as they were read last
            found = {key: self._wishes[key] for key in accounts if key in self._wishes}
            if _budget.take():
                _log.warning("presence wishes not read", error=type(error).__name__)
        for account in accounts:
            if not self._sessions.of(account):
                self._wishes.pop(account, None)
        return [_request(wish) for wish in found.values()]

    async def _attach_some(self) -> None:
        attached = dict(list(self._attached.items())[:MAX_RECORDS])
        detached = self._detached[:MAX_RECORDS]
        untold = set(list(self._untold)[:MAX_RECORDS])
        for session in attached:
            del self._attached[session]
        del self._detached[: len(detached)]
        self._untold -= untold
        wished = untold | {session.account for session in attached}
        wishes = await self._wishes_of(wished) if wished else []
        request = AttachRequest(
            node_id=self._address.node_id,
            attached=[_record(session) for session in attached if not session.is_over],
            detached=detached,
            wishes=wishes,
        )
        if await self._tell(request):
            for known in attached.values():
                if known is not None and not known.done():
                    known.set_result(None)
            if not self._late.isdisjoint(attached):
                # What came between their read to the head and their route told nobody here.
                self._late.difference_update(attached)
                self.on_certain()
        else:
            for session, known in attached.items():
                if not session.is_over:
                    self._attached.setdefault(session, known)
            self._detached[:0] = detached
            self._untold |= untold
            await self._clock.sleep(RETRY_SECONDS)

    async def _attach_all(self) -> None:
        sessions = list(self._sessions)
        for start in range(0, max(len(sessions), 1), MAX_RECORDS):
            part = sessions[start : start + MAX_RECORDS]
            wishes = await self._wishes_of({session.account for session in part})
            request = AttachRequest(
                node_id=self._address.node_id,
                attached=[_record(session) for session in part if not session.is_over],
                full=True,
                full_done=start + MAX_RECORDS >= len(sessions),
                wishes=wishes,
            )
            if not await self._tell(request):
                self._all_again = True
                self._wake.set()
                await self._clock.sleep(RETRY_SECONDS)
                return
        self.on_certain()

    async def _tell(self, request: AttachRequest) -> bool:
        try:
            answer = await self.attach_stream.call(request, timeout_seconds=ATTACH_ANSWER_SECONDS)
        except Fault as fault:
            if _budget.take():
                _log.warning("routes not told", fault=str(fault))
            return False
        if answer.superseded:
            self.on_superseded(answer.superseded)
        return True

    def _node(self) -> NodeRef:
        address = self._address
        return NodeRef(node_id=address.node_id, target=address.target, name=address.name)

    def _lease_stream_ended(self, cause: str) -> None:
        """Perhaps presence is away; the next beat tells. Sessions are compared until then."""
        if cause not in ("age", "restart"):
            self.is_certain = False

    def _uncertain(self, why: str) -> None:
        self._readiness.down(f"presence: {why}")
        self.is_certain = False


def _record(session: LiveSession) -> SessionRecord:
    return SessionRecord(
        account_id=session.account,
        device_id=session.device_id,
        session_no=session.session_no,
        device_kind=DeviceKind.ValueType(session.device_kind),
        active=session.machine.active,
    )


def _request(wish: WishRow) -> SetStateRequest:
    return SetStateRequest(
        account_id=wish.account,
        state=PresenceState.ValueType(wish.state),
        status_text=wish.text,
        status_until_ms=wish.until_ms,
        wish_no=wish.wish_no,
    )
