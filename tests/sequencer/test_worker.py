"""Holding a worker: claims, renewals, lost and moved workers, on a real PostgreSQL.

Each call of `step` is one claim or renewal; the boot clock is moved by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from chatmesh.ids import DEFAULT_LAYOUT, SnowflakeLayout
from chatmesh.runtime.errors import StartupError
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.postgres import LostConnection
from chatmesh.runtime.readiness import Readiness
from sequencer_svc.snowflake import WindowSpentError
from sequencer_svc.store.workers import Renewal, Reservation, WorkerStore
from sequencer_svc.watch import Watch
from sequencer_svc.worker import Policy, Worker
from tests.runtime import stores
from tests.sequencer.hand_clock import HandClock

TINY = SnowflakeLayout(57, 1, 5)  # two workers
WINDOW_MS = 10_000


class ShiftedStore(WorkerStore):
    """The real statements, seen by a database whose clock is off by `shift_ms`.

    PostgreSQL's own clock cannot be moved here; what the sequencer sees of it can.
    """

    shift_ms = 0
    lost = 0

    async def claim(
        self, *, workers: int, holder: str, window_ms: int, ahead_ms: int
    ) -> Reservation | None:
        made = await super().claim(
            workers=workers, holder=holder, window_ms=window_ms, ahead_ms=ahead_ms
        )
        if made is None:
            return None
        return replace(
            made,
            start_ms=made.start_ms + self.shift_ms,
            end_ms=made.end_ms + self.shift_ms,
            time_ms=made.time_ms + self.shift_ms,
        )

    async def renew(
        self, worker: int, epoch: int, *, window_ms: int, at_least_ms: int = 0
    ) -> Renewal | None:
        if self.lost:
            self.lost -= 1
            raise LostConnection("gone", unknown_outcome=True)
        made = await super().renew(worker, epoch, window_ms=window_ms, at_least_ms=at_least_ms)
        return None if made is None else Renewal(made.end_ms, made.time_ms + self.shift_ms)


class Made:
    """A worker and what it stands on."""

    def __init__(self, store: WorkerStore, holder: str, fixed: int | None = None) -> None:
        self.clock = HandClock()
        self.readiness = Readiness()
        self.database = self.readiness.require("postgresql")
        self.worker = Worker(
            store,
            TINY,
            Policy(holder, WINDOW_MS, fixed),
            self.clock,
            self.readiness,
            self.database,
        )

    def take(self, count: int = 1) -> list[int]:
        return [
            given.first + number
            for given in self.worker.take(count)
            for number in range(given.count)
        ]


@pytest.fixture
async def made(store: WorkerStore) -> AsyncIterator[Made]:
    one = Made(store, "one")
    yield one
    await one.worker.give_back()


async def test_not_ready_before_the_first_window_and_postgresql_is_named(made: Made) -> None:
    made.worker.tell()
    assert set(made.readiness.missing()) == {"postgresql", "worker"}
    with pytest.raises(WindowSpentError):
        made.take()
    await made.worker.step()
    made.worker.tell()
    assert made.readiness.is_ready
    assert TINY.decode(made.take()[0]).worker == 0


async def test_ids_go_on_to_the_windows_end_without_postgresql(made: Made) -> None:
    await made.worker.step()
    made.worker.tell()
    made.database.down("PostgreSQL: gone")
    made.clock.pass_ms(WINDOW_MS - 200)
    made.worker.tell()
    assert made.readiness.is_ready
    assert "postgresql" in made.readiness.degraded()
    made.take()
    made.clock.pass_ms(400)
    made.worker.tell()
    assert set(made.readiness.missing()) == {"postgresql", "worker"}
    with pytest.raises(WindowSpentError):
        made.take()
    with pytest.raises(Fault, match="used up"):
        await made.worker.take_within(1, 0.01)
    await made.worker.step()
    made.worker.tell()
    assert made.readiness.is_ready
    made.take()


async def test_who_waits_gets_ids_when_the_window_is_extended(made: Made) -> None:
    await made.worker.step()
    made.clock.pass_ms(WINDOW_MS + 1)
    waiting = asyncio.create_task(made.worker.take_within(3, 60))
    await asyncio.sleep(0)
    assert not waiting.done()
    await made.worker.step()
    assert sum(given.count for given in await waiting) == 3


async def test_a_clean_stop_gives_back_the_true_position(made: Made, store: WorkerStore) -> None:
    await made.worker.step()
    last = TINY.decode(made.take(100)[-1])  # borrows: 32 ids a millisecond
    await made.worker.give_back()
    with pytest.raises(WindowSpentError):
        made.take()
    held = await store.holding(last.worker)
    assert held is not None
    assert held.holder is None
    assert held.end_ms == last.created_at_ms + 1


async def test_a_stopped_process_loses_its_worker_and_repeats_nothing(
    made: Made, store: WorkerStore
) -> None:
    await made.worker.step()
    given = made.take(50)
    # the process is stopped past its window; another one takes both workers meanwhile
    await store.claim(workers=2, holder="other", window_ms=60_000, ahead_ms=1_000)
    await _end_window(store, 0)
    successor = Made(store, "successor")
    await successor.worker.step()
    given += successor.take(50)
    made.clock.pass_ms(60_000)
    with pytest.raises(WindowSpentError):
        made.take()
    await made.worker.step()  # the epoch is not ours any more, and no worker is free
    assert made.worker.worker is None
    made.worker.tell()
    assert "all 2 worker numbers are taken" in made.readiness.missing()["worker"]
    await successor.worker.give_back()
    await made.worker.step()
    given += made.take(50)
    assert len(set(given)) == 150
    assert given == sorted(given)


async def test_all_taken_is_told(store: WorkerStore) -> None:
    all_made = [Made(store, f"process {number}") for number in range(3)]
    for one in all_made:
        await one.worker.step()
        one.worker.tell()
    assert [one.worker.worker for one in all_made] == [0, 1, None]
    assert "all 2 worker numbers are taken" in all_made[2].readiness.missing()["worker"]
    with pytest.raises(Fault, match="all 2 worker numbers are taken"):
        await all_made[2].worker.take_within(1, 0.01)
    await all_made[0].worker.give_back()
    await all_made[2].worker.step()
    assert all_made[2].worker.worker == 0


async def test_a_database_clock_that_fell_back_moves_us_to_another_worker(
    database: stores.Store, store: WorkerStore
) -> None:
    shifted = ShiftedStore(store._lane)
    one = Made(shifted, "one")
    await one.worker.step()
    before = one.take()
    shifted.shift_ms = -3_600_000
    await one.worker.step()
    after = one.take()
    assert TINY.decode(before[0]).worker == 0
    moved = TINY.decode(after[0])
    assert moved.worker == 1
    assert TINY.decode(before[0]).created_at_ms - moved.created_at_ms > 3_500_000
    freed = await store.holding(0)
    assert freed is not None
    assert freed.holder is None


async def test_without_another_worker_ids_go_on_by_our_own_counting(store: WorkerStore) -> None:
    shifted = ShiftedStore(store._lane)
    one, other = Made(shifted, "one"), Made(store, "other")
    await one.worker.step()
    await other.worker.step()
    before = one.take()
    shifted.shift_ms = -3_600_000
    for _ in range(5):
        one.clock.pass_ms(9_000)
        await one.worker.step()
        before += one.take()
    assert before == sorted(before)
    assert one.worker.worker == 0
    times = [TINY.decode(value).created_at_ms for value in before]
    assert times[-1] - times[0] == 45_000


async def test_renewals_that_fail_do_not_stop_ids(store: WorkerStore) -> None:
    shifted = ShiftedStore(store._lane)
    one = Made(shifted, "one")
    await one.worker.step()
    shifted.lost = 1
    with pytest.raises(LostConnection):
        await one.worker.step()
    one.take()
    await one.worker.step()
    one.take()


async def test_another_split_refuses_to_start(store: WorkerStore) -> None:
    await store.settle_layout(DEFAULT_LAYOUT)
    with pytest.raises(StartupError, match="splits its ids 41/10/12"):
        await Made(store, "one").worker.step()


async def test_a_fixed_worker_that_is_renewed_refuses_the_second(store: WorkerStore) -> None:
    first, second = Made(store, "first", fixed=1), Made(store, "second", fixed=1)
    await first.worker.step()
    assert first.worker.worker == 1
    await second.worker.step()
    second.worker.tell()
    assert "worker 1 is held by first" in second.readiness.missing()["worker"]
    await second.worker.step()  # nothing has changed: the first may be dead
    await first.worker.step()
    with pytest.raises(StartupError, match="is held by first, which renews it"):
        await second.worker.step()


async def test_a_fixed_worker_of_a_dead_process_is_taken_over(store: WorkerStore) -> None:
    first, second = Made(store, "first", fixed=1), Made(store, "second", fixed=1)
    await first.worker.step()
    given = first.take(10)
    await second.worker.step()
    await _end_window(store, 1)
    await second.worker.step()
    assert second.worker.worker == 1
    given += second.take(10)
    assert len(set(given)) == 20


async def test_the_wall_clock_is_only_watched(made: Made) -> None:
    await made.worker.step()
    watch = Watch(made.worker, made.clock)
    time_ms = made.worker.time_ms()
    assert time_ms is not None
    made.clock.wall = time_ms
    watch.look()
    assert not is_alarmed(watch)
    for step_ms in (3_600_000, -3_600_000):
        made.clock.wall = time_ms + step_ms
        watch.look()
        assert is_alarmed(watch)
        assert abs(TINY.decode(made.take()[0]).created_at_ms - time_ms) < 10
    made.clock.wall = time_ms
    watch.look()
    assert not is_alarmed(watch)


def is_alarmed(watch: Watch) -> bool:
    return watch.alarmed


async def _end_window(store: WorkerStore, worker: int) -> None:
    """As if the window's time had passed: its end is moved to now, which is later than any id."""
    await store._lane.execute(
        "UPDATE sequencer.worker SET window_end_ms = "
        "(extract(epoch FROM clock_timestamp()) * 1000)::bigint WHERE worker = %s::int",
        (worker,),
    )
