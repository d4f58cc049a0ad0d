"""Unread counts for pongs: read for sessions whose counts may have changed since they last asked.

A ping of an idle device is answered from memory. The others gather here, and their accounts are
read together, a bounded number at a time.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from chat_svc.core.session import AccountState
from chat_svc.node.live_session import LiveSession
from chat_svc.store.devices import Head
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger

GATHER_SECONDS: Final = 0.02
RETRY_SECONDS: Final = 1.0
MAX_ACCOUNTS: Final = 200
"""Of one read: its size is that of their unread conversations."""

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class Totals(Protocol):
    """What is used of the store's conversations."""

    async def unread_totals_of(self, accounts: Sequence[int]) -> dict[int, tuple[int, int]]:
        """(unread, mentions) of each account."""
        ...


class Heads(Protocol):
    """What is used of the store's devices."""

    async def heads(self, accounts: Sequence[int]) -> dict[int, Head]:
        """Heads by account."""
        ...


class Counts:
    """See the module's text."""

    def __init__(self, totals: Totals, heads: Heads, clock: Clock) -> None:
        self._totals = totals
        self._heads = heads
        self._clock = clock
        self._waiting: dict[LiveSession, int] = {}
        self._wake = asyncio.Event()

    def wanted(self, session: LiveSession, nonce: int) -> None:
        """A session wants to answer a ping."""
        self._waiting[session] = nonce
        self._wake.set()

    async def run(self) -> None:
        """In the background."""
        while True:
            await self._wake.wait()
            await self._clock.sleep(GATHER_SECONDS)
            self._wake.clear()
            waiting, self._waiting = self._waiting, {}
            try:
                await self._answer(waiting)
            except Exception as error:  # noqa: BLE001 - the store is away: pongs still prove life
                if _budget.take():
                    _log.warning("unread not counted", error=type(error).__name__)
                for session, nonce in waiting.items():
                    self._tell(session, session.machine.account, nonce)
                await self._clock.sleep(RETRY_SECONDS)

    async def _answer(self, waiting: dict[LiveSession, int]) -> None:
        """Tell each session, and take it out."""
        by_account: dict[int, list[LiveSession]] = {}
        for session in waiting:
            by_account.setdefault(session.account, []).append(session)
        accounts = sorted(by_account)
        for start in range(0, len(accounts), MAX_ACCOUNTS):
            part = accounts[start : start + MAX_ACCOUNTS]
            heads = await self._heads.heads(part)
            totals = await self._totals.unread_totals_of(part)
            for account in part:
                version = heads[account].account_version if account in heads else 0
                for session in by_account[account]:
                    nonce = waiting.pop(session)
                    self._tell(session, AccountState(version, *totals[account]), nonce)

    def _tell(self, session: LiveSession, state: AccountState, nonce: int) -> None:
        if not session.is_over:
            session.machine.account_state(state, nonce, self._clock.wall_ms())
            session.settle()
