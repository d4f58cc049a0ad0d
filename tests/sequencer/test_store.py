"""The statements on worker numbers, on a real PostgreSQL."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from chatmesh.ids import SnowflakeLayout
from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.postgres import Lane
from sequencer_svc.store.workers import Reservation, WorkerStore
from tests.runtime import stores
from tests.sequencer.conftest import ROLE

TINY = SnowflakeLayout(57, 2, 4)
WINDOW_MS, AHEAD_MS = 10_000, 1_000


async def claim(store: WorkerStore, holder: str = "me") -> Reservation | None:
    return await store.claim(workers=4, holder=holder, window_ms=WINDOW_MS, ahead_ms=AHEAD_MS)


async def set_row(lane: Lane, worker: int, end_from_now_ms: int, holder: str | None) -> None:
    # as the owner would: the tests' login is the owner, the lane took the service's role
    await lane.execute(
        "UPDATE sequencer.worker SET holder = %s::text, window_end_ms = "
        "(extract(epoch FROM clock_timestamp()) * 1000)::bigint + %s::bigint "
        "WHERE worker = %s::int",
        (holder, end_from_now_ms, worker),
    )


async def test_the_first_claim_begins_now_and_takes_the_lowest(store: WorkerStore) -> None:
    await store.settle_layout(TINY)
    made = await claim(store)
    assert made is not None
    assert made.worker == 0
    assert made.epoch == 1
    assert made.start_ms == made.time_ms
    assert made.end_ms == made.start_ms + WINDOW_MS


async def test_a_successor_begins_at_the_end(store: WorkerStore, lane: Lane) -> None:
    await store.settle_layout(TINY)
    first = await claim(store)
    assert first is not None
    for worker in (1, 2, 3):
        await set_row(lane, worker, 60_000, "others")
    await store.give_back(first.worker, first.epoch, first.end_ms - WINDOW_MS + 700)
    second = await claim(store, "you")
    assert second is not None
    assert second.worker == first.worker
    assert second.epoch == first.epoch + 1
    assert second.start_ms == max(first.start_ms + 700, second.time_ms)
    assert await store.renew(first.worker, first.epoch, window_ms=WINDOW_MS) is None
    assert not await store.give_back(first.worker, first.epoch, first.start_ms)


async def test_an_end_far_ahead_is_not_taken(store: WorkerStore, lane: Lane) -> None:
    await store.settle_layout(TINY)
    for worker in range(4):
        await set_row(lane, worker, 3_600_000, None)
    assert await claim(store) is None
    found = await store.occupancy(4)
    assert found.held == 0
    assert found.lowest_free_end_ms is not None
    assert found.lowest_free_end_ms > found.time_ms + AHEAD_MS
    await set_row(lane, 2, 900, None)
    made = await claim(store)
    assert made is not None
    assert made.worker == 2
    assert made.start_ms > made.time_ms


async def test_all_taken_then_one_ends(store: WorkerStore, lane: Lane) -> None:
    await store.settle_layout(TINY)
    made = [await claim(store, f"process {number}") for number in range(4)]
    assert sorted(one.worker for one in made if one is not None) == [0, 1, 2, 3]
    assert await claim(store) is None
    found = await store.occupancy(4)
    assert (found.held, found.lowest_free_end_ms) == (4, None)
    await set_row(lane, 3, -1, "a dead one")
    again = await claim(store)
    assert again is not None
    assert again.worker == 3


async def test_claims_at_once_get_different_workers(database: stores.Store) -> None:
    lanes = [Lane(database.url, role_name=ROLE, name=f"racer {number}") for number in range(4)]
    try:
        for lane in lanes:
            await lane.connect()
        await WorkerStore(lanes[0]).settle_layout(TINY)
        made = await asyncio.gather(*(claim(WorkerStore(lane)) for lane in lanes))
        assert sorted(one.worker for one in made if one is not None) == [0, 1, 2, 3]
    finally:
        for lane in lanes:
            await lane.close()


async def test_renewal_extends_from_now_and_never_shrinks(store: WorkerStore) -> None:
    await store.settle_layout(TINY)
    made = await claim(store)
    assert made is not None
    longer = await store.renew(made.worker, made.epoch, window_ms=60_000)
    assert longer is not None
    assert longer.end_ms == longer.time_ms + 60_000
    same = await store.renew(made.worker, made.epoch, window_ms=WINDOW_MS)
    assert same is not None
    assert same.end_ms == longer.end_ms
    ahead = await store.renew(
        made.worker, made.epoch, window_ms=WINDOW_MS, at_least_ms=longer.end_ms + 5
    )
    assert ahead is not None
    assert ahead.end_ms == longer.end_ms + 5


async def test_a_fixed_worker_is_for_one(store: WorkerStore, lane: Lane) -> None:
    await store.settle_layout(TINY)
    options = {"window_ms": WINDOW_MS, "ahead_ms": 60_000}
    first = await store.claim_fixed(2, holder="me", **options)
    assert first is not None
    assert await store.claim_fixed(2, holder="you", **options) is None
    held = await store.holding(2)
    assert held is not None
    assert (held.holder, held.epoch) == ("me", 1)
    # a claim whose answer was lost is made again by the same process
    again = await store.claim_fixed(2, holder="me", **options)
    assert again is not None
    assert again.start_ms == first.end_ms
    await set_row(lane, 2, -1, "me")
    assert await store.claim_fixed(2, holder="you", **options) is not None
    assert await store.holding(99) is None


async def test_the_first_layout_stays(store: WorkerStore) -> None:
    assert await store.settle_layout(TINY) == TINY
    assert await store.settle_layout(SnowflakeLayout()) == TINY


async def test_a_missing_or_newer_schema_is_refused(lane: Lane, database: stores.Store) -> None:
    store = WorkerStore(lane)
    await store.require_schema()
    with psycopg.connect(database.url, autocommit=True) as owner:
        owner.execute("UPDATE sequencer.schema_version SET needs_code = 99")
        with pytest.raises(StoreRefused, match="start a newer release"):
            await store.require_schema()
        owner.execute("UPDATE sequencer.schema_version SET needs_code = 0, version = 0")
        with pytest.raises(StoreRefused, match="chatmesh migrate"):
            await store.require_schema()
        owner.execute("UPDATE sequencer.schema_version SET version = 1")


async def test_the_role_has_no_ddl(lane: Lane) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await lane.execute("DROP TABLE sequencer.worker")
