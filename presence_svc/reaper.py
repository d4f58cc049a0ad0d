"""Looks at the leases: marks that presence lives, and takes the sessions of dead nodes away.

Every replica looks; the first one to claim a dead node takes its sessions away. All steps are
compare-and-delete, so two at once, or one that stops half-way, do no harm.
"""

import asyncio

from chatmesh.runtime import metrics
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import logger
from chatmesh.runtime.readiness import Component
from presence_svc import measures
from presence_svc.lease import POLL_SECONDS, Warmth
from presence_svc.observer import RETRY_SECONDS, STORE_ERRORS, Observer
from presence_svc.store.accounts import AccountStore
from presence_svc.store.nodes import NodeStore, Roll

REAP_AT_ONCE = 1_024
"""Sessions per round trip."""
JUST_AFTER_SECONDS = 0.01
"""A look this long after the end of a lease finds it gone."""

_log = logger(__name__)


class Reaper:
    """Leases of all nodes, as this replica sees them."""

    def __init__(
        self,
        nodes: NodeStore,
        accounts: AccountStore,
        observer: Observer,
        warmth: Warmth,
        clock: Clock,
        readiness: Component,
    ) -> None:
        self._nodes = nodes
        self._accounts = accounts
        self._observer = observer
        self._warmth = warmth
        self._clock = clock
        self._readiness = readiness
        self._hurry = asyncio.Event()
        self._live = metrics.gauge(measures.NODES)
        self._unknown = metrics.gauge(measures.UNKNOWN)
        self._lapsed = metrics.counter(measures.LAPSED)

    def hurry(self) -> None:
        """A lease was ended on purpose: look now."""
        self._hurry.set()

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            self._hurry.clear()
            try:
                roll = await self._nodes.look()
                self._take_in(roll)
                for node_id in roll.dead:
                    await self._reap(node_id)
                pause = _pause(roll)
            except STORE_ERRORS as error:
                self._readiness.down(f"leases not read: {error}")
                pause = RETRY_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            except TimeoutError:
                pass  # time to look again

    def _take_in(self, roll: Roll) -> None:
        now = self._clock.monotonic()
        if self._warmth.observe(roll.store, now):
            self._observer.start_anew()
        self._accounts.know_nodes(frozenset(roll.live))
        self._live.set(len(roll.live))
        self._unknown.set(1 if self._warmth.unknown(now) else 0)
        self._readiness.up()

    async def _reap(self, node_id: int) -> None:
        if not await self._nodes.claim_reaping(node_id):
            return
        held = await self._nodes.held_by(node_id)
        for start in range(0, len(held), REAP_AT_ONCE):
            await self._accounts.detach(
                node_id, held[start : start + REAP_AT_ONCE], self._clock.wall_ms(), lapsed=True
            )
        forgotten = await self._nodes.forget(node_id)
        self._lapsed.inc(len(held))
        _log.warning("node lease ended", node=node_id, sessions=len(held), forgotten=forgotten)


def _pause(roll: Roll) -> float:
    if roll.next_end_seconds is None:
        return POLL_SECONDS
    return min(POLL_SECONDS, roll.next_end_seconds + JUST_AFTER_SECONDS)
