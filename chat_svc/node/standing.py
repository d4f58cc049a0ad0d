"""Who may no longer be here: accounts switched off, signed out of everywhere, or erased; and
devices that were signed out.

Whether a caller may come in is looked up in the account that the resolver holds, without a read.
So each node has to learn of changes: it looks every two seconds for those of the last minute, and
at once when another node tells it to. Applying a change again changes nothing, and a look sees the
changes of the looks before it again: what was read a moment before a change is put right by the
next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from chat_svc.core.standing import refusal
from chat_svc.node.live_session import LiveSession
from chat_svc.node.opening import body_suffix
from chat_svc.node.resolver import Resolver
from chat_svc.node.sessions import Sessions
from chat_svc.store.users import Changes, StandingRow
from chatmesh import errors
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.v1.session_pb2 import Closed

PERIOD_SECONDS: Final = 2.0
"""A revocation is to hold on all nodes within 5 s."""

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class Users(Protocol):
    """What is used of the store's users."""

    async def changes(self, since_ms: int) -> Changes:
        """Whose standing changed since then."""
        ...


class Devices(Protocol):
    """What is used of the store's devices."""

    async def session_nos(self, accounts: Sequence[int]) -> dict[tuple[int, str], int]:
        """By (account, device_id), of every device that is not signed out."""
        ...


class Standing:
    """See the module's text."""

    def __init__(
        self,
        users: Users,
        devices: Devices,
        resolver: Resolver,
        sessions: Sessions,
        clock: Clock,
    ) -> None:
        self._users = users
        self._devices = devices
        self._resolver = resolver
        self._sessions = sessions
        self._clock = clock
        self._since_ms = 0
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()

    def soon(self) -> None:
        """Look at once."""
        self._wake.set()

    async def run(self) -> None:
        """In the background."""
        while True:
            try:
                await self.refresh()
            except Exception as error:  # noqa: BLE001 - the store is away: the next look sees it
                if _budget.take():
                    _log.warning("standing of accounts not read", error=type(error).__name__)
            try:
                async with asyncio.timeout(PERIOD_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def refresh(self) -> int:
        """Read what changed and apply it; how many sessions ended.

        Raises:
            LostConnection, psycopg.Error.
        """
        ended = 0
        async with self._lock:
            more = True
            while more:
                changes = await self._users.changes(self._since_ms)
                self._since_ms, more = changes.next_ms, changes.more
                for change in changes.standings:
                    ended += self._apply(change)
                ended += await self._end_signed_out(changes.standings)
                for tenant, account in changes.erased:
                    self._resolver.forget_account(tenant, account)
                    ended += self._end(account, lambda _: errors.USER_DISABLED())
        return ended

    def _apply(self, change: StandingRow) -> int:
        row = change.row
        self._resolver.restate(change.tenant, change.user, row)
        for session in self._sessions.of(row.id):
            if session.sender is not None:
                session.sender.body_suffix = body_suffix(row, "")
        return self._end(
            row.id,
            lambda session: refusal(row.disabled, row.not_before_ms, session.identity.issued_at_ms),
        )

    async def _end_signed_out(self, changed: Sequence[StandingRow]) -> int:
        """End sessions of devices that are not there any more."""
        # taken before the read: a session that registers meanwhile may not be in it
        here = [session for change in changed for session in self._sessions.of(change.row.id)]
        if not here:
            return 0
        known = await self._devices.session_nos(sorted({session.account for session in here}))
        gone = {session for session in here if (session.account, session.device_id) not in known}
        return sum(
            self._end(account, lambda one: errors.DEVICE_REFUSED() if one in gone else None)
            for account in {session.account for session in gone}
        )

    def _end(self, account: int, why: Callable[[LiveSession], Fault | None]) -> int:
        ended = 0
        for session in self._sessions.of(account):
            fault = why(session)
            if fault is not None and not session.machine.is_ended:
                session.machine.close(Closed.REASON_REVOKED, fault)
                session.settle()
                ended += 1
        return ended
