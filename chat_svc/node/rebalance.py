"""New nodes get their share: sessions of a node that holds clearly more are asked to move.

A node that starts has no session, and clients that are connected stay where they are for half an
hour. So each node tells how many sessions it has and reads how many all have. One that is clearly
above the mean asks its oldest sessions to reconnect (``going_away``, reason rebalanced): a part of
its surplus at each look, each session at a moment of its own, and all of it in about a minute.

Where they go is for their balancing to decide; who comes back here is young and is left alone. A
node that is little above the mean asks nobody, so nothing moves back and forth. Sessions also move
by age alone (see `live_session`), before their connection reaches its greatest age.

Knows neither presence nor how clients are balanced.
"""

import math
import random
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, NamedTuple, Protocol

from chat_svc.node.hints import NodeAddress
from chat_svc.node.live_session import LiveSession
from chat_svc.node.sessions import Sessions
from chatmesh.runtime import metrics
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.metrics import Spec
from chatmesh.v1.session_pb2 import GoingAway

LOOK_SECONDS: Final = 10.0
SPREAD_LOOKS: Final = 6
"""The surplus is asked within so many looks."""
TOLERANCE: Final = 1.2
"""Clearly more than its share: so many times the mean."""
MIN_SURPLUS: Final = 20
"""Fewer are not worth a reconnect."""
ASK_AGAIN_SECONDS: Final = 600.0
"""A client that stayed is asked again after this."""

_MOVED: Final = Spec(
    "chatmesh_chat_sessions_rebalanced_total", "Sessions asked to move to nodes with fewer"
)
_log = logger(__name__)
_budget = LogBudget(per_second=1)


class Share(NamedTuple):
    """Live nodes, and the sessions of all of them."""

    nodes: int
    sessions: int


class ShareRows(Protocol):
    """What is used of the store's nodes."""

    async def share(self, node_id: int, sessions: int) -> tuple[int, int]:
        """Say how many sessions this node has; (live nodes, sessions on all of them)."""
        ...


class Rebalance:
    """See the module's text."""

    def __init__(
        self,
        rows: ShareRows,
        address: NodeAddress,
        sessions: Sessions,
        clock: Clock,
        *,
        min_age_seconds: float,
        is_leaving: Callable[[], bool],
    ) -> None:
        """``min_age_seconds``: younger sessions are left alone; 0 = nobody is asked.
        ``is_leaving``: the drain asks everybody itself."""
        self._rows = rows
        self._address = address
        self._sessions = sessions
        self._clock = clock
        self._min_age_seconds = min_age_seconds
        self._is_leaving = is_leaving
        self._asked: dict[LiveSession, float] = {}
        self._moved = metrics.counter(_MOVED)

    async def run(self) -> None:
        """Look now and then; in the background."""
        while True:
            await self._clock.sleep(LOOK_SECONDS * random.uniform(0.8, 1.2))
            try:
                share = Share(*await self._rows.share(self._address.node_id, self._sessions.count))
            except Exception as error:  # noqa: BLE001 - the store is away: nobody has to move now
                if _budget.take():
                    _log.warning("share of sessions not known", error=type(error).__name__)
                continue
            if self._min_age_seconds and not self._is_leaving():
                self._ask(self._surplus(share))

    def _surplus(self, share: Share) -> int:
        """Sessions above what is still a fair share; 0 when they are few."""
        if share.nodes < 2:
            return 0
        mean = share.sessions / share.nodes
        surplus = self._sessions.count - math.ceil(mean * TOLERANCE)
        return surplus if surplus >= MIN_SURPLUS else 0

    def _ask(self, surplus: int) -> None:
        now = self._clock.monotonic()
        self._forget(now)
        count = math.ceil(surplus / SPREAD_LOOKS)
        chosen = self._oldest(count, now - self._min_age_seconds) if count else []
        for session in chosen:
            self._asked[session] = now
            wait_ms = random.randint(0, int(LOOK_SECONDS * 1_000))
            session.machine.going_away(GoingAway.REASON_REBALANCED, wait_ms)
            session.settle()
        if chosen:
            self._moved.inc(len(chosen))
            if _budget.take():
                _log.info("more than its share of sessions", surplus=surplus, asked=len(chosen))

    def _oldest(self, count: int, began_before: float) -> Sequence[LiveSession]:
        """In the order in which their accounts came here, which is nearly that of their ages."""
        fit = (
            session
            for session in self._sessions
            if session.began_at <= began_before and session not in self._asked
        )
        return list(islice(fit, count))

    def _forget(self, now: float) -> None:
        self._asked = {
            session: at
            for session, at in self._asked.items()
            if not session.is_over and now - at < ASK_AGAIN_SECONDS
        }
