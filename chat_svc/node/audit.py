"""The audit log's writer: records that gather while the last ones are written go together.

Who records waits until the record is committed: what the log does not know did not happen. Refused
tokens are counted in memory and told once a minute and reason; whoever floods a node with them
writes nothing more.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final, Protocol

from chat_svc.core.audit import Note
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger

MAX_WAITING: Final = 10_000
NOTES_AT_ONCE: Final = 500
TELL_SECONDS: Final = 5.0
MAX_REASONS: Final = 1_000
"""(tenant, reason) pairs that are counted at a time."""
TRIM_SECONDS: Final = 600.0
TRIM_ROWS: Final = 5_000
UNKNOWN_TENANT: Final = "default"
"""Whose log holds refused tokens that proved no tenant."""

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class AuditRows(Protocol):
    """What is used of the store's audit log."""

    async def append(self, tenant_id: int, notes: Sequence[Note]) -> None:
        """Append to one tenant's log."""
        ...

    async def append_refused(self, tenant: str, counts: Sequence[tuple[str, int]]) -> set[str]:
        """Append counts of refused tokens; the reasons that were recorded."""
        ...

    async def trim(self, keep_days: int, rows: int) -> int:
        """Cut what is too old; how many."""
        ...


class AuditLog:
    """See the module's text."""

    def __init__(self, rows: AuditRows, clock: Clock, keep_days: int) -> None:
        """``keep_days``: 0 = records are kept for ever."""
        self._rows = rows
        self._clock = clock
        self._keep_days = keep_days
        self._waiting: deque[tuple[int, Sequence[Note], asyncio.Future[None]]] = deque()
        self._room = asyncio.Semaphore(MAX_WAITING)
        self._wake = asyncio.Event()
        self._refused: Counter[tuple[str, str]] = Counter()

    async def record(self, tenant_id: int, *notes: Note) -> None:
        """Append records to a tenant's log; returns when they are durable.

        Raises:
            LostConnection, psycopg.Error: whether they were written is not known.
        """
        if not notes:
            return
        async with self._room:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((tenant_id, notes, done))
            self._wake.set()
            await done

    def refused(self, tenant: str, reason: str) -> None:
        """A token was refused; ``tenant`` is empty when it proved none."""
        key = (tenant or UNKNOWN_TENANT, reason)
        if key in self._refused or len(self._refused) < MAX_REASONS:
            self._refused[key] += 1

    async def run(self) -> None:
        """Write records; in the background."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._write(*self._next())

    def _next(self) -> tuple[int, list[tuple[Sequence[Note], asyncio.Future[None]]]]:
        """What goes together: one tenant's, in order, at least one call's."""
        tenant_id, notes, done = self._waiting.popleft()
        batch, size = [(notes, done)], len(notes)
        while self._waiting and self._waiting[0][0] == tenant_id:
            size += len(self._waiting[0][1])
            if size > NOTES_AT_ONCE:
                break
            batch.append(self._waiting.popleft()[1:])
        return tenant_id, batch

    async def _write(
        self, tenant_id: int, batch: Sequence[tuple[Sequence[Note], asyncio.Future[None]]]
    ) -> None:
        error: Exception | None = None
        try:
            await self._rows.append(tenant_id, [note for notes, _ in batch for note in notes])
        except Exception as failed:  # noqa: BLE001 - told to those who wait
            error = failed
        for _, done in batch:
            if done.done():
                continue  # its caller has given up
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    async def run_refused(self) -> None:
        """Tell of refused tokens; in the background."""
        while True:
            await self._clock.sleep(TELL_SECONDS)
            await self.tell_refused()

    async def tell_refused(self) -> None:
        """Record what was refused since the last record of its reason; what another node has
        recorded within the last minute is counted on."""
        tenants = {tenant for tenant, _ in self._refused}
        for tenant in tenants:
            counts = [(why, n) for (owner, why), n in self._refused.items() if owner == tenant]
            try:
                told = await self._rows.append_refused(tenant, counts)
            except Exception as error:  # noqa: BLE001 - the store is away: told later
                if _budget.take():
                    _log.warning("refused tokens not recorded", error=type(error).__name__)
                return
            for why, number in counts:
                if why in told:
                    self._refused[tenant, why] -= number
                    if self._refused[tenant, why] <= 0:
                        del self._refused[tenant, why]

    async def run_trim(self) -> None:
        """Cut what is too old; in the background."""
        while True:
            try:
                while self._keep_days:
                    if await self._rows.trim(self._keep_days, TRIM_ROWS) < TRIM_ROWS:
                        break
            except Exception as error:  # noqa: BLE001 - the store is away: next time
                if _budget.take():
                    _log.warning("audit log not trimmed", error=type(error).__name__)
            await self._clock.sleep(TRIM_SECONDS)
