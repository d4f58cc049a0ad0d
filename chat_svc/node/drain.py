"""How a node leaves, in this order; tested in this order.

1. NOT_SERVING: health, /readyz and new calls say so (`lifecycle`, before this begins).
2. `going_away` to every session, each with its own delay, so that a whole node's clients do not
   arrive elsewhere in the same second. Sessions go on meanwhile: sends, entries, acks.
3. Wait until they have left, or half of the grace is over.
4. No further frame is taken, and sends in flight finish: each is answered. What a client said
   meanwhile it says again to the next node, under the same keys.
5. What is left is closed with DRAINED, which tells the client to come back at once (elsewhere).
6. Routes go: presence is told that the node leaves.
7. Ended sessions are settled: cursors written, devices handed over to push, rows released.
8. The node's lease is given up: others take over its outbox rows at once.
9. Deliver streams end: there is nobody left to deliver to.

Then `lifecycle` stops the mesh listener and the loops, and the process exits.
"""

import random
from typing import Final, Protocol

from chat_svc.node.committer import Committer
from chat_svc.node.farewell import Farewell
from chat_svc.node.node import ChatNode
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import logger
from chatmesh.v1.session_pb2 import Closed, GoingAway

SPREAD_SHARE: Final = 0.3
"""Share of the grace over which clients are spread."""
LEAVE_SHARE: Final = 0.5
"""Share of the grace that sessions have for leaving by themselves."""
MAX_SPREAD_SECONDS: Final = 10.0
STEP_SECONDS: Final = 0.05
LAST_FRAMES_SECONDS: Final = 2.0

_log = logger(__name__)


class Leaves(Protocol):
    """Something to give up: the place in presence, the lease, the Deliver streams."""

    async def leave(self) -> None:
        """Give it up."""
        ...


class Drain:
    """See the module's text."""

    def __init__(
        self,
        node: ChatNode,
        committer: Committer,
        farewell: Farewell,
        presence: Leaves,
        lease: Leaves,
        streams: Leaves,
        clock: Clock,
        grace_seconds: float,
    ) -> None:
        self._node = node
        self._committer = committer
        self._farewell = farewell
        self._presence = presence
        self._lease = lease
        self._streams = streams
        self._clock = clock
        self._grace_seconds = grace_seconds
        self.is_dead = False
        """The lease was taken: nothing may be done in this node's name any more."""

    async def run(self) -> None:
        """Steps 2 to 9."""
        if self.is_dead:
            self._node.close_all(Closed.REASON_UNAVAILABLE)
            await self._wait_for_streams(LAST_FRAMES_SECONDS)
            await self._streams.leave()
            return
        sessions = len(self._node.streams)
        self._ask_to_leave()
        await self._wait_for_streams(self._grace_seconds * LEAVE_SHARE)
        left = len(self._node.streams)
        for session in self._node.streams:
            session.is_paused = True
        await self._committer.wait_idle()
        self._node.close_all(Closed.REASON_DRAINED)
        await self._wait_for_streams(LAST_FRAMES_SECONDS)
        await self._presence.leave()
        await self._farewell.wait_idle()
        await self._lease.leave()
        await self._streams.leave()
        _log.info("drained", sessions=sessions, closed_by_us=left)

    def _ask_to_leave(self) -> None:
        spread_ms = int(min(self._grace_seconds * SPREAD_SHARE, MAX_SPREAD_SECONDS) * 1_000)
        for session in list(self._node.streams):
            session.machine.going_away(
                GoingAway.REASON_DRAINING, random.randint(0, max(spread_ms, 0))
            )
            session.settle()

    async def _wait_for_streams(self, seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        while self._node.streams and self._clock.monotonic() < until:
            await self._clock.sleep(STEP_SECONDS)
