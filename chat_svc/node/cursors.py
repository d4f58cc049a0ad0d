"""Acks become cursors in PostgreSQL: one write for all devices of the node, 200 ms at most behind.

What is lost with a node is sent again to its devices, which drop what they have: cursors may lag,
they may not lead. The store fences them by session_no and lets them rise only.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from chat_svc.core.window import AckResult
from chat_svc.node.counters import NodeCounters
from chat_svc.node.live_session import LiveSession
from chat_svc.store.devices import CursorWrite
from chatmesh.runtime import failpoints
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger

GATHER_SECONDS: Final = 0.15
"""With the write itself below the 200 ms that are promised."""
RETRY_SECONDS: Final = 1.0

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class CursorRows(Protocol):
    """What is used of the store."""

    async def write_cursors(self, rows: Sequence[CursorWrite]) -> None:
        """Forward only, fenced by session_no."""
        ...


class Cursors:
    """See the module's text."""

    def __init__(self, rows: CursorRows, clock: Clock, counters: NodeCounters) -> None:
        self._rows = rows
        self._clock = clock
        self._counters = counters
        self._waiting: dict[tuple[int, str], CursorWrite] = {}
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()

    def acked(self, session: LiveSession, ack: AckResult) -> None:
        """A device has stored up to a position."""
        self._waiting[session.account, session.device_id] = CursorWrite(
            session.account,
            session.device_id,
            session.session_no,
            ack.timeline_seq,
            ack.message_id,
        )
        self._wake.set()

    async def run(self) -> None:
        """Write what gathers; in the background."""
        while True:
            await self._wake.wait()
            await self._clock.sleep(GATHER_SECONDS)
            self._wake.clear()
            if not await self.flush():
                self._wake.set()
                await self._clock.sleep(RETRY_SECONDS)

    async def flush(self) -> bool:
        """Write everything that waits now; False when the store is away (it waits on)."""
        async with self._writing:
            rows, self._waiting = self._waiting, {}
            if not rows:
                return True
            try:
                await self._rows.write_cursors(list(rows.values()))
            except Exception as error:  # noqa: BLE001 - the store is away; nothing is lost
                for key, row in rows.items():
                    self._waiting.setdefault(key, row)
                if _budget.take():
                    _log.warning("cursors not written", error=type(error).__name__)
                return False
            self._counters.cursor_writes += 1
            await failpoints.hit("ack.after")
            return True
