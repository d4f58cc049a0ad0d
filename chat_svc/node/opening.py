"""How a session opens: account, device row, route, counts, welcome.

The order is the promise "route first, then read to the head, then live": after `open_session` has
fenced all older sessions, the session is registered here and its route is made known; only then the
machine is told, whose first effect is the read to the head. Whatever was committed before the route
is in that read; whatever comes after it is delivered.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import psycopg

from chat_svc.core.batch import Sender
from chat_svc.core.effects import Open
from chat_svc.core.extras import MAX_BIGINT
from chat_svc.core.limits import Limits
from chat_svc.core.session import State
from chat_svc.node.counters import NodeCounters
from chat_svc.node.farewell import Ended, Farewell
from chat_svc.node.hints import NodeAddress
from chat_svc.node.lease import NodeLease
from chat_svc.node.live_session import LiveSession
from chat_svc.node.neighbours import Neighbours
from chat_svc.node.presence import PresenceLink
from chat_svc.node.resolver import Resolver
from chat_svc.node.sessions import Sessions
from chat_svc.node.store_errors import store_full
from chat_svc.node.watching import Watching
from chat_svc.store.accounts import AccountRow
from chat_svc.store.conversations import ConversationStore
from chat_svc.store.devices import START_OLDEST, DeviceStore, OpenedSession
from chatmesh import errors
from chatmesh.runtime import failpoints
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.identity import Identity
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.postgres import LostConnection
from chatmesh.v1.session_pb2 import Closed, Welcome
from chatmesh.v1.types_pb2 import Event, SenderKind

OPENINGS_AT_ONCE: Final = 32
"""A storm of reconnects takes turns, so that the messages of live sessions do not wait for it."""
TOKEN_BYTES: Final = 18
RETRY_SECONDS: Final = (0.05, 0.2, 0.5)
"""All together below the time a client waits for its welcome."""

T = TypeVar("T")

_log = logger(__name__)
_budget = LogBudget(per_second=2)


@dataclass(frozen=True, slots=True)
class OpeningParts:
    """What openings need of the node."""

    address: NodeAddress
    lease: NodeLease
    limits: Limits
    devices: DeviceStore
    conversations: ConversationStore
    resolver: Resolver
    sessions: Sessions
    presence: PresenceLink
    watching: Watching
    neighbours: Neighbours
    farewell: Farewell
    resumed: Callable[[int, int], None]
    """(account, timeline_seq): a session began at a cursor of its device."""
    clock: Clock
    counters: NodeCounters


class Opening:
    """See the module's text."""

    def __init__(self, parts: OpeningParts) -> None:
        self._parts = parts
        self._turns = asyncio.Semaphore(OPENINGS_AT_ONCE)
        self._limits = parts.limits.public()

    async def open(self, session: LiveSession, wanted: Open) -> None:
        """Open a session, or close it with the reason why not. Never raises."""
        try:
            async with self._turns:
                if not session.is_over:
                    await self._open(session, wanted)
        except Fault as fault:
            session.machine.close(_reason_of(fault), fault)
        except psycopg.errors.DiskFull:
            session.machine.close(Closed.REASON_UNAVAILABLE, store_full())
        except Exception as error:  # noqa: BLE001 - the store is away, or worse; the client comes back
            if _budget.take():
                _log.warning("session not opened", error=type(error).__name__, exc_info=error)
            session.machine.close(Closed.REASON_UNAVAILABLE, errors.NOT_SERVING())
        finally:
            session.settle()

    async def _open(self, session: LiveSession, wanted: Open) -> None:
        parts = self._parts
        if parts.sessions.count >= parts.limits.sessions_per_node:
            raise errors.LIMIT_EXCEEDED(
                limit="sessions_per_node", value=parts.limits.sessions_per_node
            )
        row = await self.admit(session.identity)
        await self._wait_for_lease()
        opened = await self._patiently(lambda: self._open_device(session, row, wanted))
        if not opened.cursor_ok:
            session.machine.cursor_invalid()
            return
        if not self._register(session, row, wanted, opened):
            return
        welcome = await self._welcome(session, opened)
        await failpoints.hit("attach.after")
        if session.is_over:
            return  # it ended meanwhile; `ended` has seen to what is owed
        session.machine.opened(welcome, parts.clock.monotonic())
        session.was_opened = True
        parts.counters.sessions_opened += 1
        _log.debug("session opened", client=wanted.client_version, kind=wanted.device_kind)
        if wanted.cursor is not None:
            parts.resumed(session.account, opened.start_seq)
        parts.watching.start(session)

    async def admit(self, identity: Identity) -> AccountRow:
        """The account of a token's user.

        Raises:
            Fault: USER_DISABLED, TOKEN_REVOKED.
        """
        return await self._patiently(lambda: self._parts.resolver.admit(identity))

    async def _wait_for_lease(self) -> None:
        """A node that may have been taken for dead binds no device to its name: nobody would hand
        it over again."""
        parts = self._parts
        for pause_seconds in RETRY_SECONDS:
            if parts.lease.is_valid:
                return
            parts.lease.hurry()
            await parts.clock.sleep(pause_seconds)
        if not parts.lease.is_valid:
            raise errors.NOT_SERVING()

    async def _patiently(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The call's answer; tried again over a broken connection, of which a pool may hold some
        after PostgreSQL was away for a moment."""
        for pause_seconds in RETRY_SECONDS:
            try:
                return await call()
            except psycopg.errors.DiskFull:
                raise
            except (psycopg.OperationalError, LostConnection):
                await self._parts.clock.sleep(pause_seconds)
        return await call()

    async def _open_device(
        self, session: LiveSession, row: AccountRow, wanted: Open
    ) -> OpenedSession:
        cursor = wanted.cursor
        if cursor is not None and max(cursor) > MAX_BIGINT:
            raise errors.CURSOR_INVALID()
        session.account = row.id
        session.device_id = wanted.device_id or secrets.token_hex(16)
        session.device_kind = wanted.device_kind
        return await self._parts.devices.open_session(
            row.id,
            session.device_id,
            wanted.device_kind,
            wanted.device_name,
            self._parts.address.node_id,
            cursor,
            wanted.start or START_OLDEST,
            max_devices=self._parts.limits.max_devices,
        )

    def _register(
        self, session: LiveSession, row: AccountRow, wanted: Open, opened: OpenedSession
    ) -> bool:
        """Make it the device's session here; False when it is over or a newer one is here."""
        parts = self._parts
        session.session_no = opened.session_no
        # Should it end before it is live, this is what it owes push.
        session.machine.window.start(
            opened.start_seq,
            opened.head_seq,
            parts.clock.monotonic(),
            wanted.cursor[1] if wanted.cursor is not None else 0,
        )
        session.token = secrets.token_urlsafe(TOKEN_BYTES)
        session.sender = sender_of(session, row, is_slim=wanted.slim_echo)
        if session.is_over or session.machine.state is not State.OPENING:
            parts.farewell.say(
                Ended(row.id, session.device_id, opened.session_no, opened.start_seq,
                      opened.head_seq)
            )  # fmt: skip
            return False
        newest = parts.sessions.of_device(row.id, session.device_id)
        if newest is not None and newest.session_no > session.session_no:
            session.machine.close(Closed.REASON_REPLACED, errors.SESSION_REPLACED())
            return False
        older = parts.sessions.add(session)
        if older is not None:
            older.machine.close(Closed.REASON_REPLACED, errors.SESSION_REPLACED())
            older.settle()
        elif opened.previous_node_target and opened.previous_node_id != parts.address.node_id:
            parts.neighbours.end_soon(
                opened.previous_node_target,
                row.id,
                [session.device_id],
                Closed.REASON_REPLACED,
                before_session_no=opened.session_no,
            )
        return True

    async def _welcome(self, session: LiveSession, opened: OpenedSession) -> Welcome:
        """Route and counts at once; the welcome frame."""
        parts = self._parts
        async with asyncio.TaskGroup() as group:
            group.create_task(parts.presence.attach(session))
            counts = group.create_task(
                self._patiently(lambda: parts.conversations.unread_totals(session.account))
            )
        unread, mentions = counts.result()
        return Welcome(
            user_id=session.identity.user_id,
            device_id=session.device_id,
            chat_node=parts.address.name,
            server_time_ms=parts.clock.wall_ms(),
            head_timeline_seq=opened.head_seq,
            min_timeline_seq=opened.min_seq,
            unread=unread,
            mentions=mentions,
            limits=self._limits,
            session_no=opened.session_no,
            start_timeline_seq=opened.start_seq,
            account_version=opened.account_version,
            session_token=session.token,
        )


def _reason_of(fault: Fault) -> Closed.Reason.ValueType:
    if fault.reason == errors.CURSOR_INVALID.reason:
        return Closed.REASON_CURSOR_INVALID
    if fault.reason == errors.DEVICE_REFUSED.reason or fault.metadata.get("limit") == "max_devices":
        return Closed.REASON_DEVICE_REFUSED
    if fault.reason in (errors.USER_DISABLED.reason, errors.TOKEN_REVOKED.reason):
        return Closed.REASON_REVOKED
    return Closed.REASON_UNAVAILABLE  # the node is full, or a peer did not answer: come back


def sender_of(session: LiveSession, row: AccountRow, *, is_slim: bool) -> Sender:
    """Who a session's messages are from."""
    return Sender(
        tenant=session.identity.tenant,
        tenant_id=row.tenant_id,
        account=row.id,
        user=session.identity.user_id,
        body_suffix=body_suffix(row, ""),
        flags=0,
        answer=session.answer,
        slim_session=session if is_slim else None,
        has_left=session.has_left,
    )


def body_suffix(row: AccountRow, sent_by: str) -> bytes:
    """Event fields 19 and 20: what kind of account wrote it, and which back end sent it."""
    kind = SenderKind.ValueType(row.kind)
    return Event(sender_kind=kind, sent_by_user_id=sent_by).SerializeToString()
