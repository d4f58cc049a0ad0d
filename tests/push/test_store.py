"""Jobs, tokens, records and letters in a real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest

from chatmesh.runtime.postgres import Lane
from push_svc.decide import Job, Provider
from push_svc.store.jobs import Ending, IntakeStore, JobStore, Progress, Result
from push_svc.store.records import Letter, RecordStore, Retried
from push_svc.store.tokens import TokenStore
from tests.push.conftest import ROLE
from tests.push.parts import ALICE, BOB, CAROL, done, target, token
from tests.runtime import stores

CLAIM_MS = 60_000


async def claimed(jobs: JobStore, *busy: int, limit: int = 100) -> list[Job]:
    return sorted(
        await jobs.claim(busy, limit, CLAIM_MS), key=lambda job: (job.account_id, job.device_id)
    )


def named(found: list[Job]) -> list[tuple[int, str, int]]:
    return [(job.account_id, job.device_id, job.timeline_seq) for job in found]


async def test_a_target_becomes_a_job_per_device_with_a_token(
    intake: IntakeStore, jobs: JobStore, tokens: TokenStore
) -> None:
    for device in ("phone", "tablet", "laptop"):
        await tokens.put(ALICE, token(device))
    await tokens.put(BOB, token("bobs-phone"))
    trace = bytes(range(24)) + b"\x01"
    accounts = await intake.put(
        [
            target(ALICE, 5, except_device_ids=("laptop",), trace=trace),
            target(BOB, 7, device_ids=("bobs-phone", "unknown")),
            target(CAROL, 9),
        ]
    )
    assert sorted(accounts) == [ALICE, ALICE, BOB]
    found = await claimed(jobs)
    assert named(found) == [(ALICE, "phone", 5), (ALICE, "tablet", 5), (BOB, "bobs-phone", 7)]
    first = found[0]
    assert (first.trace, first.message_id, first.attempt, first.claim) == (trace, 50, 1, 1)
    assert (first.binding.token, first.binding.locale) == ("token of phone", "en")
    assert (first.binding.pushed_seq, first.binding.badge) == (0, -1)
    assert first.age_seconds >= 0
    assert await claimed(jobs) == [], "claimed already"


async def test_a_job_is_raised_and_hurried_never_lowered(
    intake: IntakeStore, jobs: JobStore, tokens: TokenStore
) -> None:
    await tokens.put(ALICE, token())
    await intake.put([target(ALICE, 5, delay_ms=60_000)])
    assert await claimed(jobs) == []
    due = await jobs.next_due_seconds()
    assert due is not None
    assert 50 < due <= 60
    await intake.put([target(ALICE, 3, delay_ms=0)])
    assert named(await claimed(jobs)) == [(ALICE, "phone", 5)]


async def test_targets_of_one_device_in_one_batch_are_joined(
    intake: IntakeStore, jobs: JobStore, tokens: TokenStore
) -> None:
    await tokens.put(ALICE, token())
    await intake.put(
        [target(ALICE, 5), target(ALICE, 9, delay_ms=60_000), target(ALICE, 7, delay_ms=1_000)]
    )
    found = await claimed(jobs)
    assert [(job.timeline_seq, job.message_id) for job in found] == [(9, 90)]


async def test_what_was_told_makes_no_job(
    intake: IntakeStore, jobs: JobStore, tokens: TokenStore
) -> None:
    await tokens.put(ALICE, token())
    await intake.put([target(ALICE, 5)])
    (job,) = await claimed(jobs)
    await jobs.finish([done(job, told_seq=5, badge=2, outcome="sent", visible=True)])
    assert await intake.put([target(ALICE, 5)]) == []
    assert await intake.put([target(ALICE, 6)]) == [ALICE]
    (job,) = await claimed(jobs)
    assert (job.binding.pushed_seq, job.binding.badge) == (5, 2)


async def test_a_job_raised_while_it_is_under_way_is_due_again(
    intake: IntakeStore, jobs: JobStore, tokens: TokenStore
) -> None:
    await tokens.put(ALICE, token())
    await intake.put([target(ALICE, 5)])
    (job,) = await claimed(jobs)
    await intake.put([target(ALICE, 6)])
    assert await claimed(jobs) == [], "it is not hurried past its claim"
    await jobs.finish([done(job, told_seq=5, badge=1)])
    (again,) = await claimed(jobs)
    assert (again.timeline_seq, again.attempt, again.claim) == (6, 1, 2)
    await jobs.finish([done(again, told_seq=6)])
    assert await jobs.next_due_seconds() is None


async def test_a_claim_that_ended_is_taken_over_and_its_late_result_ends_no_job(
    intake: IntakeStore, jobs: JobStore, tokens: TokenStore
) -> None:
    await tokens.put(ALICE, token())
    await intake.put([target(ALICE, 5)])
    (old,) = await jobs.claim((), 10, -1)
    (new,) = await claimed(jobs)
    assert (old.claim, new.claim, new.attempt) == (1, 2, 2)
    await jobs.finish([done(old, told_seq=4)])
    await jobs.finish([Result(new, Ending.AGAIN, delay_ms=0, attempts=new.attempt)])
    (third,) = await claimed(jobs)
    assert third.attempt == 3
    assert third.binding.pushed_seq == 4, "what was told was told"


async def test_a_job_that_backs_off_is_not_hurried_by_news(
    intake: IntakeStore, jobs: JobStore, tokens: TokenStore
) -> None:
    await tokens.put(ALICE, token())
    await intake.put([target(ALICE, 5)])
    (job,) = await claimed(jobs)
    await jobs.finish([Result(job, Ending.AGAIN, delay_ms=60_000, attempts=1)])
    await intake.put([target(ALICE, 6)])
    assert await claimed(jobs) == []
    await jobs.finish([Result(job, Ending.AGAIN, delay_ms=60_000, attempts=0)])
    await intake.put([target(ALICE, 7)])
    assert named(await claimed(jobs)) == [(ALICE, "phone", 7)]


async def test_busy_providers_are_left_out(
    intake: IntakeStore, jobs: JobStore, tokens: TokenStore
) -> None:
    await tokens.put(ALICE, token())
    await tokens.put(BOB, token("hook", "https://example.com/", Provider.WEBHOOK))
    await intake.put([target(ALICE, 5), target(BOB, 5)])
    assert [job.account_id for job in await claimed(jobs, Provider.LOG)] == [BOB]


async def test_acks_void_jobs_up_to_them(
    intake: IntakeStore, jobs: JobStore, tokens: TokenStore
) -> None:
    for device in ("phone", "tablet"):
        await tokens.put(ALICE, token(device))
    await intake.put([target(ALICE, 5)])
    await intake.cancel([Progress(ALICE, "phone", 4)], 0)
    await intake.cancel([Progress(ALICE, "phone", 5), Progress(BOB, "phone", 9)], 0)
    assert named(await claimed(jobs)) == [(ALICE, "tablet", 5)]


async def test_reading_voids_all_and_dismisses_where_it_was_shown(
    intake: IntakeStore, jobs: JobStore, tokens: TokenStore
) -> None:
    for device in ("phone", "tablet"):
        await tokens.put(ALICE, token(device))
    await intake.put([target(ALICE, 5, device_ids=("phone",))])
    (job,) = await claimed(jobs)
    await jobs.finish([done(job, told_seq=5, badge=1)])
    await intake.put([target(ALICE, 6)])
    assert await intake.cancel([Progress(ALICE, "", 6)], 0) == 1
    (dismissal,) = await claimed(jobs)
    assert (dismissal.device_id, dismissal.timeline_seq, dismissal.dismiss_seq) == ("phone", 0, 6)
    await jobs.finish([done(dismissal, badge=0, dismissed_seq=6)])
    assert await intake.cancel([Progress(ALICE, "", 6)], 0) == 0, "once is enough"
    assert await jobs.next_due_seconds() is None


async def test_a_token_belongs_to_one_device(
    intake: IntakeStore, jobs: JobStore, tokens: TokenStore
) -> None:
    bound = await tokens.put(ALICE, token(text="T"))
    assert (bound.push_devices, bound.moved_from, bound.moved_from_devices) == (1, 0, 0)
    assert (await tokens.put(ALICE, token("tablet"))).push_devices == 2
    await intake.put([target(ALICE, 5)])
    bound = await tokens.put(BOB, token("bobs", "T"))
    assert (bound.push_devices, bound.moved_from, bound.moved_from_devices) == (1, ALICE, 1)
    await intake.put([target(BOB, 2)])
    assert named(await claimed(jobs)) == [(ALICE, "tablet", 5), (BOB, "bobs", 2)]
    bound = await tokens.put(BOB, token("bobs-new", "T"))
    assert (bound.push_devices, bound.moved_from) == (1, 0)


async def test_a_new_token_of_a_device_keeps_what_the_device_was_told(
    intake: IntakeStore, jobs: JobStore, tokens: TokenStore
) -> None:
    await tokens.put(ALICE, token(text="T1"))
    await intake.put([target(ALICE, 5)])
    (job,) = await claimed(jobs)
    await jobs.finish([done(job, told_seq=5)])
    await tokens.put(ALICE, token(text="T2"))
    assert await intake.put([target(ALICE, 5)]) == []
    assert not await tokens.delete_one(ALICE, "phone", job.binding.token_key), "another by now"
    await intake.put([target(ALICE, 6)])
    (job,) = await claimed(jobs)
    assert await tokens.delete_one(ALICE, "phone", job.binding.token_key)
    assert await tokens.count(ALICE) == 0


async def test_two_accounts_race_for_one_token(tokens: TokenStore) -> None:
    for number in range(20):
        text = f"T{number}"
        await asyncio.gather(
            *(tokens.put(account, token("d", text)) for account in (ALICE, BOB, CAROL))
        )
        counts = [await tokens.count(account) for account in (ALICE, BOB, CAROL)]
        assert sum(counts) == 1


async def test_unbinding_ends_jobs(intake: IntakeStore, jobs: JobStore, tokens: TokenStore) -> None:
    for device in ("phone", "tablet", "laptop"):
        await tokens.put(ALICE, token(device))
    await intake.put([target(ALICE, 5)])
    assert await tokens.delete(ALICE, ["phone", "unknown"]) == 2
    listed = await tokens.list(ALICE)
    assert {(one.device_id, one.token) for one in listed} == {("tablet", ""), ("laptop", "")}
    assert [job.device_id for job in await claimed(jobs)] == ["laptop", "tablet"]
    assert await tokens.delete(ALICE, []) == 0
    assert await jobs.next_due_seconds() is None


async def test_records_and_letters(
    intake: IntakeStore, jobs: JobStore, tokens: TokenStore, records: RecordStore
) -> None:
    await tokens.put(ALICE, token())
    await intake.put([target(ALICE, 5)])
    (job,) = await claimed(jobs)
    await jobs.finish(
        [done(job, told_seq=5, outcome="sent", visible=True, title="bob", body="hi", message_id=3)]
    )
    (row,) = await records.list_pushes(ALICE, 10)
    assert (row.device_id, row.provider, row.timeline_seq, row.message_id) == ("phone", 5, 5, 3)
    assert (row.outcome, row.visible, row.title, row.body) == ("sent", True, "bob", "hi")
    letters = [
        Letter(0, "sync", ALICE, "", 6, "odd", 0, b"\x00\xff", 700, 3),
        Letter(0, "push", ALICE, "phone", 8, "refused", 0, b""),
        Letter(0, "push", ALICE, "other", 9, "refused", 0, b""),
        Letter(0, "sync", 0, "", 0, "unreadable", 0, b"?"),
    ]
    await records.put_letters(letters)
    found = await records.list_letters(0, 10)
    assert [replace(one, letter_id=0, created_at_ms=0) for one in found] == letters
    assert await records.count_letters() == 4
    assert len(await records.list_letters(found[1].letter_id, 1)) == 1
    assert await records.retry_letters([found[0].letter_id]) == Retried(1, 0)
    assert await records.retry_letters([]) == Retried(2, 1), "one names no account: it stays"
    assert await records.retry_letters([found[3].letter_id]) == Retried(0, 1)
    assert [one.reason for one in await records.list_letters(0, 10)] == ["unreadable"]
    assert named(await claimed(jobs)) == [(ALICE, "phone", 8)]


async def test_the_sweep_bounds_what_is_kept(
    empty: stores.Store, records: RecordStore, tokens: TokenStore
) -> None:
    with psycopg.connect(empty.url, autocommit=True) as connection:
        connection.execute(
            """INSERT INTO push.push_log (account_id, device_id, provider, timeline_seq, message_id,
                 sent_at, outcome, visible, title, body, attempt)
               SELECT 1, 'd', 5, n, 0, now() - n * interval '1 day', 'sent', true, '', '', 1
               FROM generate_series(0, 20) n"""
        )
        connection.execute(
            """INSERT INTO push.push_job (account_id, device_id, timeline_seq, due_at)
                    VALUES (1, 'gone', 5, now() - interval '1 hour')"""
        )
    assert await records.sweep(7) == 14 + 1
    assert len(await records.list_pushes(1, 100)) == 7
    assert await records.sweep(7) == 0


@pytest.fixture
async def workers(empty: stores.Store) -> AsyncIterator[list[Lane]]:
    """Connections of four replicas: two take jobs in, two claim them."""
    lanes = [Lane(empty.url, role_name=ROLE, name=f"worker {n}") for n in range(4)]
    yield lanes
    for lane in lanes:
        await lane.close()


async def test_replicas_share_jobs_without_a_double_and_without_a_deadlock_seen(
    workers: list[Lane], tokens: TokenStore
) -> None:
    accounts = range(1, 41)
    for account in accounts:
        await tokens.put(account, token(text=f"T{account}"))
    seen: list[tuple[int, int]] = []

    async def produce(lane: Lane) -> None:
        store = IntakeStore(lane)
        for seq in range(1, 31):
            batch = [target(account, seq) for account in accounts]
            random.shuffle(batch)
            await store.put(batch)
            await store.cancel([Progress(random.choice(accounts), "phone", seq - 2)], 0)

    async def consume(lane: Lane) -> None:
        store = JobStore(lane)
        while True:
            is_last = all(one.done() for one in producers)
            found = await store.claim((), 16, CLAIM_MS)
            random.shuffle(found)
            # a job written while its position was being told comes back and is found told: `decide`
            seen.extend(
                (job.account_id, job.timeline_seq)
                for job in found
                if job.timeline_seq > job.binding.pushed_seq
            )
            if found:
                await store.finish([done(job, told_seq=job.timeline_seq) for job in found])
            elif is_last and await store.next_due_seconds() is None:
                return

    async with asyncio.TaskGroup() as group:
        producers = [group.create_task(produce(lane)) for lane in workers[:2]]
        for lane in workers[2:]:
            group.create_task(consume(lane))
    assert len(seen) == len(set(seen)), "a position was told twice"
    assert {account for account, seq in seen if seq == 30} == set(accounts)
