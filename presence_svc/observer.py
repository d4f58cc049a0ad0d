"""Keeps the watched accounts of this replica read and told.

Three loops: notices of changes come in (`listen`), accounts that may have changed are read in
batches and shown (`observe`), and once a second `look_after` compares the counts of changes and
ends status texts. What fails is tried again; what is asked for twice is read once.
"""

import asyncio
import contextlib
import heapq
from collections.abc import Iterable

from chatmesh.runtime import metrics
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import logger
from chatmesh.runtime.redis import Client
from presence_svc import measures
from presence_svc.lease import Store, Warmth
from presence_svc.merge import merge
from presence_svc.store import keys
from presence_svc.store.accounts import AccountStore
from presence_svc.store.changes import subscribe
from presence_svc.store.nodes import NodeStore
from presence_svc.store.records import Record, UnknownFormat, View
from presence_svc.store.shards import StoreAway, StoreBroken
from presence_svc.watch import Counters, Notice, Reading, Watches

READ_AT_ONCE = 1_000
"""Accounts per read: about 3 ms of this process."""
RETRY_SECONDS = 0.3
LOOK_SECONDS = 1.0
STORE_ERRORS = (StoreAway, StoreBroken, UnknownFormat)

_log = logger(__name__)


class Observer:
    """Reads for `Watches`."""

    def __init__(
        self,
        client: Client,
        accounts: AccountStore,
        nodes: NodeStore,
        watches: Watches,
        warmth: Warmth,
        clock: Clock,
    ) -> None:
        self._client = client
        self._accounts = accounts
        self._nodes = nodes
        self._watches = watches
        self._warmth = warmth
        self._clock = clock
        self._counters = Counters()
        self._wanted: dict[int, None] = {}
        self._wake = asyncio.Event()
        self._was_unknown = False
        self._status_ends: list[tuple[int, int]] = []
        """Heap of (Unix ms, account); entries whose text has changed since do no harm."""

    def request(self, account_ids: Iterable[int]) -> None:
        """Read these soon, if they are watched."""
        self._wanted.update((key, None) for key in account_ids if key in self._watches)
        if self._wanted:
            self._wake.set()

    def request_all(self) -> None:
        """Read all watched accounts soon: what is known of them may be old."""
        self.request(self._watches.accounts())

    def take_in(self, view: View) -> bool:
        """Note a reading's marks; whether an account without a session may have one all the same.

        Every reading of accounts comes by here, so an emptied store is noticed by the first one.
        """
        store = Store(view.generation, view.alive, view.warming)
        now = self._clock.monotonic()
        if self._warmth.observe(store, now):
            self.start_anew()
        return self._warmth.unknown(now)

    def start_anew(self) -> None:
        """The store was emptied: counts begin at nothing, everything watched is read again."""
        _log.warning("the store has started empty: offline answers are `unknown` for one lease")
        self._counters.reset()
        self.request_all()

    async def listen(self) -> None:
        """Take in notices of changes for ever."""
        while True:
            try:
                async with contextlib.aclosing(subscribe(self._client)) as changes:
                    async for change in changes:
                        if change is None:
                            # what happened before the subscription stood is not known
                            self._counters.reset()
                            self.request_all()
                        elif self._counters.notice(change.bucket, change.count):
                            self._read_bucket(change.bucket)
                        else:
                            self.request(change.account_ids)
            except STORE_ERRORS as error:
                _log.debug("subscription lost", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def observe(self) -> None:
        """Read what is wanted and release what was held, for ever."""
        while True:
            await self._sleep_until_wanted()
            self._watches.release(self._clock.monotonic())
            batch = list(self._wanted)[:READ_AT_ONCE]
            if not batch:
                continue
            for account_id in batch:
                del self._wanted[account_id]
            try:
                view = await self._accounts.read(batch)
            except STORE_ERRORS as error:
                _log.debug("watched accounts not read", error=str(error))
                self.request(batch)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            unknown = self.take_in(view)
            now = self._clock.monotonic()
            for account_id, record in view.records.items():
                self._watches.observe(
                    account_id, self._reading(account_id, record, view, unknown), now
                )

    async def look_after(self) -> None:
        """Find lost notices, the end of the warm-up and of status texts, for ever."""
        watched = metrics.gauge(measures.WATCHED)
        missed = metrics.counter(measures.MISSED)
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            watched.set(len(self._watches))
            unknown = self._warmth.unknown(self._clock.monotonic())
            if self._was_unknown and not unknown:
                self.request_all()  # who is still without a session is offline now
            self._was_unknown = unknown
            if not len(self._watches):
                continue
            try:
                for bucket in self._counters.look(await self._nodes.change_counts()):
                    missed.inc()
                    self._read_bucket(bucket)
                await self._end_statuses()
            except STORE_ERRORS as error:
                _log.debug("changes not compared", error=str(error))

    async def _sleep_until_wanted(self) -> None:
        if self._wanted:
            return
        self._wake.clear()
        due = self._watches.next_release()
        with contextlib.suppress(TimeoutError):
            # streams may add held notices while this waits, so it wakes once a second at least
            pause = LOOK_SECONDS if due is None else due - self._clock.monotonic()
            async with asyncio.timeout(min(max(pause, 0), LOOK_SECONDS)):
                await self._wake.wait()

    def notice(self, account_id: int, view: View, unknown: bool) -> Notice:
        """One account of a view as somebody who asks once is told of it."""
        reading = self._reading(account_id, view.records[account_id], view, unknown)
        return Notice(account_id, reading.fact, reading.generation, reading.version)

    def _reading(self, account_id: int, record: Record, view: View, unknown: bool) -> Reading:
        wish = self._watches.wish_of(account_id, record.wish)
        now_ms = self._clock.wall_ms()
        if wish is not None and wish.status_until_ms > now_ms and account_id in self._watches:
            heapq.heappush(self._status_ends, (wish.status_until_ms, account_id))
        fact = merge(
            view.live_sessions(record),
            wish,
            last_seen_ms=record.last_seen_ms,
            now_ms=now_ms,
            unknown=unknown,
        )
        return Reading(
            fact, self._warmth.generation, record.version, lapsed=record.lapsed, wish=record.wish
        )

    def _read_bucket(self, bucket: int) -> None:
        self.request(key for key in self._watches.accounts() if keys.bucket_of(key) == bucket)

    async def _end_statuses(self) -> None:
        now_ms = self._clock.wall_ms()
        due: set[int] = set()
        while self._status_ends and self._status_ends[0][0] <= now_ms:
            _, account_id = heapq.heappop(self._status_ends)
            if account_id in self._watches:
                due.add(account_id)
        if due:
            await self._accounts.end_statuses(tuple(due), now_ms)
            self.request(due)
