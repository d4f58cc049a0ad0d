"""The node's life in PostgreSQL: its id, its lease, and the lives of others that have ended.

A lease of 10 s, renewed every 3 s. Its validity is judged by CLOCK_BOOTTIME: a node that was
suspended longer must renew before it acts in its own name again. When another node has taken the
lease meanwhile, this life is over: sessions are closed (their devices come back at once) and the
process ends itself, to begin anew under a new id; nothing that it did can be wrong, for all of it
is fenced by session_no or decided by PostgreSQL.

The reaper: any node takes expired leases, makes the dead node's outbox rows its own, and hands its
devices over to push. It judges others by its own lease: only while that was renewed in time for a
whole lease, by PostgreSQL's clock, does a lease that is over mean a death. After PostgreSQL was
away, was stopped, or stepped its clock, every lease is over, and the living need time to renew.

A statement may hang while all this happens to its node: a commit leaves an outbox row, an opened
session a device, under an id that is not there any more. Now and then the reaper looks for such.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from chat_svc.node.hints import NodeAddress
from chat_svc.node.outbox import Outbox
from chat_svc.node.push import Owed
from chat_svc.store.nodes import StrandedDevice
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger

LEASE_MS: Final = 10_000
RENEW_SECONDS: Final = 3.0
RETRY_SECONDS: Final = 0.3
SAFETY_MS: Final = 1_000
"""A lease counts as over this long before PostgreSQL would say so."""
IN_TIME_MS: Final = 4_500
"""Between two renewals, by PostgreSQL's clock: more, and PostgreSQL was away for a moment."""
JUDGE_MS: Final = 4_000
"""So long after the last renewal others may be judged by it."""
REAP_SECONDS: Final = 3.0
ORPHANS_SECONDS: Final = 30.0
"""How often a node looks for what nodes that were removed have left after all."""
STRANDED_PAGE: Final = 500
TAKE_OVER_ROWS: Final = 1_000

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class NodeRows(Protocol):
    """What is used of the store's nodes."""

    async def start_node(self, name: str, target: str, lease_ms: int) -> int:
        """A new life: its id."""
        ...

    async def renew(self, node_id: int, lease_ms: int) -> int:
        """Extend; the new end by PostgreSQL's clock. 0: taken."""
        ...

    async def leave(self, node_id: int) -> None:
        """End the lease."""
        ...

    async def take_expired(
        self, before_ms: int, limit: int = 16, *, again_after_ms: int = 30_000
    ) -> list[int]:
        """Take nodes whose lease is over, unless PostgreSQL's clock has passed `before_ms`."""
        ...

    async def stranded_devices(
        self, node_id: int, after: tuple[int, str], limit: int
    ) -> list[StrandedDevice]:
        """Devices still bound to a node."""
        ...

    async def release_devices(self, devices: Sequence[StrandedDevice]) -> None:
        """Unbind them."""
        ...

    async def remove_node(self, node_id: int) -> bool:
        """Delete a taken node that owns nothing."""
        ...

    async def orphaned_nodes(self, limit: int = 16) -> list[int]:
        """Nodes that are not there any more and own something."""
        ...


class TakesOver(Protocol):
    """What is used of the store's outbox."""

    async def take_over(self, node_id: int, dead_nodes: Sequence[int], limit: int) -> int:
        """Make rows of dead nodes this node's own; how many."""
        ...


class HandsOver(Protocol):
    """What is used of the push link."""

    async def hand_over(self, owed: Sequence[Owed]) -> None:
        """Return once all are committed jobs."""
        ...


class Judge(Protocol):
    """What the reaper needs of its own node's lease."""

    @property
    def judges_until_ms(self) -> int:
        """See NodeLease."""
        ...


class NodeLease:
    """This node's own lease."""

    def __init__(self, rows: NodeRows, address: NodeAddress, clock: Clock) -> None:
        self._rows = rows
        self._address = address
        self._clock = clock
        self._valid_until_ns = 0
        self._until_ms = 0  # of the last renewal, by PostgreSQL's clock; 0 = none yet
        self._in_time_since_ms = 0  # end given by the first of the renewals in time
        self._is_over = False  # given up, or taken: nothing is renewed any more
        self._renewed = asyncio.Event()
        self._hurry = asyncio.Event()
        self.on_lost: Callable[[], None] = lambda: None
        """Told when another node has taken the lease: this life is over."""

    @property
    def is_valid(self) -> bool:
        """Whether the lease holds for certain."""
        return self._clock.boottime_ns() < self._valid_until_ns

    @property
    def judges_until_ms(self) -> int:
        """Until when, by PostgreSQL's clock, an expired lease of another means its death; 0 = not
        now."""
        if self._is_over or self._until_ms - self._in_time_since_ms < LEASE_MS:
            return 0
        return self._until_ms - LEASE_MS + JUDGE_MS

    async def start(self) -> None:
        """Begin a life; waits for PostgreSQL as long as it takes. Sets the address's node id."""
        while True:
            began_ns = self._clock.boottime_ns()
            try:
                self._address.node_id = await self._rows.start_node(
                    self._address.name, self._address.target, LEASE_MS
                )
            except Exception as error:  # noqa: BLE001 - PostgreSQL or its schema is not there yet
                if _budget.take():
                    _log.warning("no node id yet", error=type(error).__name__)
                await self._clock.sleep(RETRY_SECONDS)
                continue
            self._extend(began_ns)
            self._hurry.set()  # the first renewal begins the time after which others are judged
            return

    async def wait_valid(self) -> None:
        """Return once the lease holds; at once, nearly always."""
        while not self.is_valid:
            self._renewed.clear()
            self.hurry()
            await self._renewed.wait()

    def hurry(self) -> None:
        """Renew now, not when it is time."""
        self._hurry.set()

    async def run(self) -> None:
        """Renew; in the background."""
        while True:
            try:
                async with asyncio.timeout(RENEW_SECONDS):
                    await self._hurry.wait()
            except TimeoutError:
                pass  # the ordinary case: it is time
            self._hurry.clear()
            if not self._is_over:
                await self._renew()

    async def _renew(self) -> None:
        began_ns = self._clock.boottime_ns()
        try:
            until_ms = await self._rows.renew(self._address.node_id, LEASE_MS)
        except Exception as error:  # noqa: BLE001 - PostgreSQL is away: so is every judge
            if _budget.take():
                _log.warning("lease not renewed", error=type(error).__name__)
            await self._clock.sleep(RETRY_SECONDS)
            if not self.is_valid:
                self._hurry.set()
            return
        if until_ms:
            if not 0 <= until_ms - self._until_ms <= IN_TIME_MS:
                self._in_time_since_ms = until_ms
            self._until_ms = until_ms
            self._extend(began_ns)
        else:
            self._is_over = True
            _log.error("another node has taken this node's lease", node=self._address.node_id)
            self.on_lost()

    async def leave(self) -> None:
        """Give the lease up: what is left goes to others at once."""
        self._is_over = True
        try:
            await self._rows.leave(self._address.node_id)
        except Exception as error:  # noqa: BLE001 - then it runs out by itself
            _log.warning("lease not given up", error=type(error).__name__)

    def _extend(self, began_ns: int) -> None:
        self._valid_until_ns = began_ns + (LEASE_MS - SAFETY_MS) * 1_000_000
        self._renewed.set()


class Reaper:
    """Hands over what dead nodes left behind."""

    def __init__(
        self,
        rows: NodeRows,
        outbox_rows: TakesOver,
        outbox: Outbox,
        push: HandsOver,
        address: NodeAddress,
        lease: Judge,
        clock: Clock,
    ) -> None:
        self._lease = lease
        self._rows = rows
        self._outbox_rows = outbox_rows
        self._outbox = outbox
        self._push = push
        self._address = address
        self._clock = clock
        self._quiet_until = 0.0
        self._orphans_at = clock.monotonic() + ORPHANS_SECONDS * random.uniform(0.5, 1.0)

    async def run(self) -> None:
        """In the background."""
        while True:
            await self._clock.sleep(REAP_SECONDS)
            before_ms = self._lease.judges_until_ms
            if not before_ms or self._clock.monotonic() < self._quiet_until:
                continue
            try:
                for dead in await self._rows.take_expired(before_ms):
                    await self._reap(dead)
                if self._clock.monotonic() >= self._orphans_at:
                    self._orphans_at = self._clock.monotonic() + ORPHANS_SECONDS
                    for gone in await self._rows.orphaned_nodes():
                        await self._reap(gone)
            except Exception as error:  # noqa: BLE001 - the store or push is away: taken again later
                self._quiet_until = self._clock.monotonic() + LEASE_MS / 1_000
                if _budget.take():
                    _log.warning("a dead node waits", error=type(error).__name__)

    async def _reap(self, dead: int) -> None:
        rows = 0
        while taken := await self._outbox_rows.take_over(
            self._address.node_id, [dead], TAKE_OVER_ROWS
        ):
            rows += taken
        if rows:
            await self._outbox.took_over()
        devices = await self._hand_over_devices(dead)
        await self._rows.remove_node(dead)
        _log.warning("a dead node was taken over", node=dead, outbox_rows=rows, devices=devices)

    async def _hand_over_devices(self, dead: int) -> int:
        count = 0
        after = (0, "")
        while page := await self._rows.stranded_devices(dead, after, STRANDED_PAGE):
            owed = [
                Owed(device.account, device.device_id, device.notify_seq)
                for device in page
                if device.acked_seq < device.notify_seq
            ]
            if owed:
                await self._push.hand_over(owed)
            await self._rows.release_devices(page)
            after = (page[-1].account, page[-1].device_id)
            count += len(page)
        return count
