"""One worker number held in PostgreSQL, and the ids that may be given for it.

Role: claims a free worker, extends its window before it ends, moves to another worker when the
database's clock fell back, gives the worker back at a clean stop.
Rules: an id is given only out of a window whose reservation was committed and confirmed, so a
pause at any place, of any length, can repeat none. Time is the database's at the reservation plus
CLOCK_BOOTTIME since; the wall clock is not read here. No store call is made for a request.

While PostgreSQL is away ids go on to the window's end; from then on (and before the first window)
the server is not ready, and PostgreSQL counts as missing.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Final

import grpc
import psycopg

from chatmesh.ids import SnowflakeLayout
from chatmesh.runtime import faults, metrics
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.errors import StartupError, StoreRefused
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.logs import logger
from chatmesh.runtime.postgres import LostConnection
from chatmesh.runtime.readiness import Component, Readiness
from sequencer_svc import measures
from sequencer_svc.snowflake import Range, Snowflake, WindowOverError, WindowSpentError
from sequencer_svc.store.workers import Reservation, WorkerStore

AHEAD_MS: Final = 1_000
"""A window may begin this far ahead of the database's time; else its ids would lie about theirs."""
SLOW_ANSWER_MS: Final = 500
"""After a slower answer nobody knows when the database read its clock: the old reading is kept."""
RETRY_FIRST_SECONDS: Final = 0.1
RETRY_MAX_SECONDS: Final = 1.0
LEAST_PAUSE_SECONDS: Final = 0.05
"""However often ids run out, the database is asked no more often than this."""
NO_ID: Final = "no id can be given now"

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Policy:
    """How a worker is held."""

    holder: str
    """Names this process in the table; unique for each start."""
    window_ms: int
    fixed_worker: int | None = None

    @property
    def renew_seconds(self) -> float:
        """Between two renewals: two may fail before the window ends."""
        return self.window_ms / 3_000


class _Held:
    """A reservation in use."""

    __slots__ = ("anchor_ns", "epoch", "ids")

    def __init__(self, ids: Snowflake, epoch: int, anchor_ns: int) -> None:
        self.ids = ids
        self.epoch = epoch
        self.anchor_ns = anchor_ns  # CLOCK_BOOTTIME just before the reservation was asked for

    def elapsed_ms(self, clock: Clock) -> int:
        return (clock.boottime_ns() - self.anchor_ns) // 1_000_000


class Worker:
    """Gives ids. `run` must be running (in the background)."""

    def __init__(
        self,
        store: WorkerStore,
        layout: SnowflakeLayout,
        policy: Policy,
        clock: Clock,
        readiness: Readiness,
        database: Component,
    ) -> None:
        self._store = store
        self._layout = layout
        self._policy = policy
        self._clock = clock
        self._readiness = readiness
        self._database = database
        self._window = readiness.require("worker")
        self._held: _Held | None = None
        self._settled = False
        self._rival: tuple[int, int] | None = None
        self._why = "no worker number is reserved yet"
        self._all_taken = False
        self._wanted = asyncio.Event()
        self._extended = asyncio.Event()
        self._reservations = metrics.counter(measures.RESERVATIONS)
        self.fatal: StartupError | None = None

    # -- giving ids ---------------------------------------------------------------------------

    def take(self, count: int) -> list[Range]:
        """`count` ids as rising ranges. Raises WindowSpentError when the window gives no more."""
        held = self._held
        if held is None:
            raise WindowOverError(self._why)
        elapsed_ms = held.elapsed_ms(self._clock)
        try:
            ranges = held.ids.take(count, elapsed_ms)
        except WindowSpentError:
            self._wanted.set()
            raise
        return ranges

    async def take_within(self, count: int, seconds: float) -> list[Range]:
        """`count` ids, waiting for the window to be extended if it is used up.

        Raises Fault UNAVAILABLE NOT_SERVING when that took longer than `seconds`.
        """
        try:
            return self.take(count)
        except WindowSpentError:
            pass
        try:
            async with asyncio.timeout(seconds):
                while True:
                    await self._extended.wait()
                    try:
                        return self.take(count)
                    except WindowSpentError:
                        continue
        except TimeoutError:
            metrics.counter(measures.REFUSED).labels(faults.NOT_SERVING).inc()
            why = self._why if self._held is None else "the reserved window is used up"
            raise Fault(
                grpc.StatusCode.UNAVAILABLE, faults.NOT_SERVING, f"{NO_ID}: {why}"
            ) from None

    @property
    def is_crowded_out(self) -> bool:
        """Whether there is no window because all worker numbers are taken."""
        return self._all_taken and self._held is None

    @property
    def why(self) -> str:
        """Why there is no window."""
        return self._why

    @property
    def worker(self) -> int | None:
        """The number held; None when there is none."""
        return None if self._held is None else self._held.ids.worker

    def time_ms(self) -> int | None:
        """The database's time by our counting, ms since the Unix epoch; None without a window."""
        held = self._held
        return None if held is None else held.ids.time_ms(held.elapsed_ms(self._clock))

    def tell(self) -> None:
        """Tell readiness and metrics how the window stands."""
        held = self._held
        left_ms = borrowed_ms = 0
        if held is not None:
            now_ms = held.ids.time_ms(held.elapsed_ms(self._clock))
            left_ms = max(0, held.ids.end_ms - now_ms)
            borrowed_ms = max(0, held.ids.position_ms - 1 - now_ms)
        metrics.gauge(measures.WINDOW_LEFT_SECONDS).set(left_ms / 1000)
        metrics.gauge(measures.BORROWED_SECONDS).set(borrowed_ms / 1000)
        if left_ms:
            self._window.up()
        else:
            self._window.down("the reserved window has ended" if held is not None else self._why)
        needed = not left_ms
        if self._database.critical != needed:
            self._database.critical = needed
            self._readiness.changed()

    # -- holding the worker -------------------------------------------------------------------

    async def run(self) -> None:
        """Claim and renew until cancelled; ends early only when `fatal` is set."""
        retry = RETRY_FIRST_SECONDS
        while True:
            self._wanted.clear()
            pause = self._policy.renew_seconds
            try:
                await self.step()
                retry = RETRY_FIRST_SECONDS
                if self._held is None or self._is_over(self._held):
                    pause = RETRY_FIRST_SECONDS
            except StartupError as error:
                self.fatal = error
                return
            except (LostConnection, StoreRefused, psycopg.Error) as error:
                self._failed(error)
                pause = retry * random.uniform(0.5, 1.0)
                retry = min(retry * 2, RETRY_MAX_SECONDS)
            self.tell()
            await asyncio.sleep(LEAST_PAUSE_SECONDS)
            try:
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            except TimeoutError:
                pass  # the time to renew

    async def step(self) -> None:
        """Make one claim or renewal.

        Raises StartupError when this process may not go on, and what the store raises.
        """
        if not self._settled:
            await self._settle()
        if self._held is None:
            await self._claim()
        else:
            await self._renew(self._held)

    async def give_back(self) -> None:
        """Give no more ids and free the worker at the first millisecond that none was given of."""
        held, self._held = self._held, None
        self._why = "the server is stopping"
        if held is None:
            return
        try:
            await self._free(held)
        except (LostConnection, StoreRefused, psycopg.Error) as error:
            _log.warning("worker not given back: it is free when its window ends", why=str(error))

    async def _free(self, held: _Held) -> None:
        freed = await self._store.give_back(held.ids.worker, held.epoch, held.ids.position_ms)
        _log.info("worker given back", worker=held.ids.worker, was_ours=freed)

    async def _settle(self) -> None:
        await self._store.require_schema()
        kept = await self._store.settle_layout(self._layout)
        if kept != self._layout:
            raise StartupError(
                f"this deployment splits its ids {_split(kept)}, not {_split(self._layout)}: set "
                "CHATMESH_SEQUENCER_TIME_BITS, _WORKER_BITS, _SEQUENCE_BITS and _EPOCH_MS to that; "
                "two splits would give equal ids"
            )
        self._settled = True

    async def _claim(self) -> None:
        sent_ns = self._clock.boottime_ns()
        reservation = await self._reserve()
        if reservation is None:
            self._reservations.labels("none").inc()
            await self._explain()
            return
        self._reservations.labels("claimed").inc()
        self._hold(reservation, sent_ns)

    async def _reserve(self) -> Reservation | None:
        policy = self._policy
        if policy.fixed_worker is None:
            return await self._store.claim(
                workers=self._layout.workers,
                holder=policy.holder,
                window_ms=policy.window_ms,
                ahead_ms=AHEAD_MS,
            )
        return await self._store.claim_fixed(
            policy.fixed_worker,
            holder=policy.holder,
            window_ms=policy.window_ms,
            ahead_ms=AHEAD_MS,
        )

    def _hold(self, reservation: Reservation, sent_ns: int) -> None:
        ids = Snowflake(
            self._layout,
            reservation.worker,
            start_ms=reservation.start_ms,
            end_ms=reservation.end_ms,
            time_ms=reservation.time_ms,
        )
        self._held = _Held(ids, reservation.epoch, sent_ns)
        self._rival = None
        _log.info("worker reserved", worker=reservation.worker, epoch=reservation.epoch)
        self._wake_waiting()

    async def _renew(self, held: _Held) -> None:
        window_ms = self._policy.window_ms
        sent_ns = self._clock.boottime_ns()
        renewal = await self._store.renew(held.ids.worker, held.epoch, window_ms=window_ms)
        if renewal is None:
            # Its ids stay ours up to its end, but that has passed, else nobody could have taken it.
            self._reservations.labels("lost").inc()
            _log.warning("worker was taken over after its window", worker=held.ids.worker)
            self._held = None
            await self._claim()
            return
        ours_ms = held.ids.time_ms((sent_ns - held.anchor_ns) // 1_000_000)
        if ours_ms - renewal.time_ms > AHEAD_MS:
            await self._clock_fell(held, ours_ms, sent_ns)
            return
        slow = self._clock.boottime_ns() - sent_ns > SLOW_ANSWER_MS * 1_000_000
        held.ids.extend(renewal.end_ms, ours_ms if slow else renewal.time_ms)
        held.anchor_ns = sent_ns
        self._reservations.labels("renewed").inc()
        self._wake_waiting()

    async def _clock_fell(self, held: _Held, ours_ms: int, sent_ns: int) -> None:
        """The database's clock fell back, as after a failover to a host whose clock is slow.

        Another worker begins at the database's time. When there is none (or the worker is fixed),
        ids go on by our own counting, ahead of that time: unique all the same.
        """
        _log.warning("the database's clock fell back", worker=held.ids.worker)
        if self._policy.fixed_worker is None:
            await self._claim()
            if self._held is not held:
                self._reservations.labels("moved").inc()
                await self._free(held)
                return
        renewal = await self._store.renew(
            held.ids.worker,
            held.epoch,
            window_ms=self._policy.window_ms,
            at_least_ms=ours_ms + self._policy.window_ms,
        )
        if renewal is not None:
            held.ids.extend(renewal.end_ms, ours_ms)
            held.anchor_ns = sent_ns
            self._wake_waiting()

    async def _explain(self) -> None:
        """Say why nothing could be claimed. Raises StartupError when another holds our number."""
        fixed = self._policy.fixed_worker
        if fixed is not None:
            await self._explain_fixed(fixed)
            return
        workers = self._layout.workers
        found = await self._store.occupancy(workers)
        self._all_taken = found.lowest_free_end_ms is None
        if self._all_taken:
            why = (
                f"all {workers} worker numbers are taken: stop a sequencer that is not needed, or "
                "wait for the window of a killed one to end"
            )
        else:
            why = "every free worker's window ends ahead of the database's clock: waiting"
        if why != self._why:
            _log.error("no worker", why=why, held=found.held, workers=workers)
        self._why = why

    async def _explain_fixed(self, fixed: int) -> None:
        found = await self._store.holding(fixed)
        if found is None or found.holder in (None, self._policy.holder):
            self._why = f"worker {fixed} ends ahead of the database's clock: waiting"
            return
        now = (found.epoch, found.end_ms)
        if self._rival is not None and self._rival != now:
            raise StartupError(
                f"worker {fixed} (CHATMESH_SEQUENCER_WORKER) is held by {found.holder}, which "
                "renews it: give each sequencer a number of its own, or leave the variable out"
            )
        self._rival = now
        self._why = f"worker {fixed} is held by {found.holder}: waiting for its window to end"

    def _failed(self, error: Exception) -> None:
        """The store did not do it. What it answered (not: that it is gone) is told here."""
        if isinstance(error, psycopg.Error):
            self._database.down(f"PostgreSQL: {type(error).__name__}")
            _log.warning("reservation failed", error=str(error))
        elif isinstance(error, StoreRefused):
            self._database.down(str(error))

    def _is_over(self, held: _Held) -> bool:
        return held.ids.is_over(held.elapsed_ms(self._clock))

    def _wake_waiting(self) -> None:
        self._database.up()
        self._extended.set()
        self._extended = asyncio.Event()


def _split(layout: SnowflakeLayout) -> str:
    bits = f"{layout.time_bits}/{layout.worker_bits}/{layout.sequence_bits}"
    return f"{bits} from epoch {layout.epoch_ms}"
