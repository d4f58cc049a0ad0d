"""How presence is put before sessions: at a pace, the newest of each user once.

A storm (a node died and 2,000 users come back, each with thousands of contacts) makes far more
changes than sessions can be written, or than this node may work off at once. So a change is put at
once only while the node is within its pace and the session reads; else the *account* waits, once
however often it changes, and what is put later is what holds then. Work per second is bounded by
the pace, memory by what sessions watch; what waited instead of being put is counted.

Knows no contact and no privacy: `render` says what a session is to see of an account.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from chat_svc.core.frames import PRESENCE
from chat_svc.core.rate import TokenBucket
from chat_svc.node.counters import NodeCounters
from chat_svc.node.live_session import LiveSession
from chatmesh.runtime.clock import Clock

TICK_SECONDS: Final = 0.05
MAX_WAITING_PIECES: Final = 256
"""In one session's frames; half of what would be dropped unseen."""

Rendered = tuple[bytes, bytes]
"""(key, piece) of a presence."""


class Showing:
    """See the module's text."""

    def __init__(self, clock: Clock, counters: NodeCounters, per_second: int) -> None:
        """`per_second`: presences put before sessions of this node, in all."""
        self._clock = clock
        self._counters = counters
        self._pace = TokenBucket(per_second, max(per_second // 4, 1), clock.monotonic())
        self._waiting: dict[LiveSession, dict[int, None]] = {}
        self._wake = asyncio.Event()
        self.render: Callable[[LiveSession, int], Rendered | None] = lambda _session, _account: None
        """What the session is to see of an account now; None = nothing is known."""

    @property
    def backlog(self) -> int:
        """Presences that wait to be put."""
        return sum(map(len, self._waiting.values()))

    def show(self, session: LiveSession, account: int, rendered: Rendered) -> None:
        """Put it now if the session reads and the node is within its pace, else soon."""
        waiting = self._waiting.get(session)
        if (
            waiting is None
            and session.machine.frames.waiting_presence < MAX_WAITING_PIECES
            and self._pace.take(self._clock.monotonic())
        ):
            self._put(session, rendered)
            return
        if waiting is None:
            waiting = self._waiting[session] = {}
            self._wake.set()
        waiting[account] = None
        self._counters.presence_delayed += 1

    def forget(self, session: LiveSession) -> None:
        """The session is over."""
        self._waiting.pop(session, None)

    async def run(self) -> None:
        """Put what waited; in the background."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._clock.sleep(TICK_SECONDS)
                self._put_some()

    def _put_some(self) -> None:
        """One round over the sessions, as far as the pace allows."""
        for session in list(self._waiting):
            waiting = self._waiting.pop(session)
            while waiting and session.machine.frames.waiting_presence < MAX_WAITING_PIECES:
                if not self._pace.take(self._clock.monotonic()):
                    self._waiting[session] = waiting
                    return
                account = next(iter(waiting))
                del waiting[account]
                if (rendered := self.render(session, account)) is not None:
                    self._put(session, rendered)
            if waiting:
                self._waiting[session] = waiting  # at the end: all have their turn

    def _put(self, session: LiveSession, rendered: Rendered) -> None:
        key, piece = rendered
        session.machine.put(PRESENCE, key, piece)
        session.settle()
        self._counters.presence_shown += 1
