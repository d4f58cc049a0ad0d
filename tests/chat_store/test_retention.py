"""What leaves the store by itself: prefixes of timelines, old events, messages that disappear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from chat_svc.core.unread import EXACT_UP_TO
from chat_svc.store.accounts import AccountRow
from chat_svc.store.commit import CommitStatus, EventKind
from chat_svc.store.devices import START_OLDEST
from chat_svc.store.retention import DAY_MS, RetentionStep
from tests.chat_store.world import NODE, World, edit_body

YEARS = 3_650
ALL = 1 << 40
"""Entries: no limit that matters."""


@pytest.fixture
async def swept(world: World) -> AsyncIterator[World]:
    """A world with no pass under way, before and after."""
    await _reset(world)
    yield world
    await _reset(world)


@asynccontextmanager
async def transaction(world: World) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A transaction of somebody else, open meanwhile."""
    async with await psycopg.AsyncConnection.connect(world.url) as connection:
        yield connection
        await connection.rollback()


async def _reset(world: World) -> None:
    await world.ask("UPDATE chat.retention SET cutoff_ms = 0, next_at_ms = 0")


async def sweep(
    world: World, *, days: int = YEARS, entries: int = ALL, rows: int = 1_000, period_ms: int = 0
) -> list[RetentionStep]:
    """A whole pass; its steps."""
    steps = []
    while True:
        step = await world.store.retention.step(
            max_age_days=days, max_entries=entries, max_rows=rows, period_ms=period_ms
        )
        steps.append(step)
        if step.is_over:
            return steps


async def talk(world: World, count: int) -> tuple[AccountRow, AccountRow, int]:
    """Two accounts with `count` messages between them."""
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.commit(*(world.row(one, conversation, str(n)) for n in range(count)))
    return one, two, conversation


async def make_old(world: World, conversation: int, up_to: int, days: int) -> None:
    """As if the first events had been said that long ago."""
    await world.ask(
        "UPDATE chat.event SET created_at_ms = chat.now_ms() - %s"
        " WHERE conversation = %s AND conversation_seq <= %s",
        days * DAY_MS,
        conversation,
        up_to,
    )


async def kept(world: World, account: AccountRow) -> list[int]:
    """Positions that are left, after checking that they are what the head says."""
    seqs = [seq for seq, _, _ in await world.timeline(account)]
    head = (await world.store.devices.heads([account.id]))[account.id]
    assert seqs == list(range(head.min_seq, head.seq + 1))
    return seqs


async def events(world: World, conversation: int) -> list[int]:
    rows = await world.ask(
        "SELECT conversation_seq FROM chat.event WHERE conversation = %s ORDER BY 1", conversation
    )
    return [seq for (seq,) in rows]


async def test_old_entries_go_as_a_prefix_and_their_events_a_day_later(swept: World) -> None:
    world = swept
    one, two, conversation = await talk(world, 10)
    await make_old(world, conversation, 6, days=30)
    await sweep(world, days=31)
    assert await kept(world, one) == await kept(world, two) == list(range(1, 11))
    await sweep(world, days=30)
    assert await kept(world, one) == await kept(world, two) == [7, 8, 9, 10]
    assert await events(world, conversation) == list(range(1, 11))
    await sweep(world, days=29)
    assert await kept(world, two) == [7, 8, 9, 10]
    assert await events(world, conversation) == [7, 8, 9, 10]
    # what goes on, goes on
    (outcome,) = await world.commit(world.row(two, conversation))
    assert (outcome.conversation_seq, outcome.sender_timeline_seq) == (11, 11)


async def test_events_wait_for_every_timeline_that_names_them(swept: World) -> None:
    world = swept
    one, two, conversation = await talk(world, 3)
    await make_old(world, conversation, 3, days=30)
    step = {"max_age_days": 10, "max_entries": ALL, "max_rows": 3, "period_ms": 0}
    # cut a step at a time: while anybody has an entry, its event is there
    seen_both = False
    while True:
        done = await world.store.retention.step(**step)
        cut = [await kept(world, account) for account in (one, two)]
        left = await events(world, conversation)
        assert set(cut[0]) | set(cut[1]) <= set(left)
        seen_both = seen_both or (cut == [[], []] and left == [1, 2, 3])
        if done.is_over:
            break
    assert seen_both
    assert left == []
    assert cut == [[], []]


async def test_only_so_many_entries_are_kept_and_events_stay(swept: World) -> None:
    world = swept
    one, two, conversation = await talk(world, 10)
    other = await world.direct(one, (await world.users(1))[0])
    await world.commit(*(world.row(one, other) for _ in range(5)))
    await sweep(world, entries=4)
    assert await kept(world, one) == [12, 13, 14, 15]
    assert await kept(world, two) == [7, 8, 9, 10]
    assert await events(world, conversation) == list(range(1, 11))
    page = await world.store.history.list_messages(
        two.id, conversation, from_seq=0, forward=True, limit=200
    )
    assert page is not None
    assert [message.conversation_seq for message in page.messages] == list(range(1, 11))


async def test_a_step_is_bounded_and_the_next_goes_on(swept: World) -> None:
    world = swept
    one, two, conversation = await talk(world, 25)
    await make_old(world, conversation, 25, days=30)
    steps = await sweep(world, days=10, rows=10)
    assert max(step.entries for step in steps) == 10
    assert max(step.events for step in steps) == 10
    assert sum(step.events for step in steps) >= 25
    assert await kept(world, one) == await kept(world, two) == []
    (outcome,) = await world.commit(world.row(one, conversation))
    assert outcome.sender_timeline_seq == 26
    assert await kept(world, two) == [26]


async def test_one_node_steps_at_a_time_and_passes_have_a_period(swept: World) -> None:
    world = swept
    one, _, _ = await talk(world, 5)
    async with transaction(world) as connection:
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('chat.retain'))")
        (step,) = await sweep(world, entries=1)
        assert step == RetentionStep(0, 0, True)
    assert len(await kept(world, one)) == 5
    await sweep(world, entries=1, period_ms=3_600_000)
    assert await kept(world, one) == [5]
    (step,) = await sweep(world, days=0)
    assert step == RetentionStep(0, 0, True)
    assert await kept(world, one) == [5]


async def test_cutting_while_messages_come_leaves_no_hole(swept: World) -> None:
    world = swept
    one, two, conversation = await talk(world, 50)
    writing = True

    async def write() -> None:
        for _ in range(40):
            await world.commit(*(world.row(one, conversation) for _ in range(5)))

    async def cut() -> int:
        passes = 0
        while writing:
            await sweep(world, entries=20, rows=7)
            passes += 1
            read = await world.store.timeline.read_entries(two.id, 0, 1_000, 1 << 20)
            seqs = [row.timeline_seq for row in read.rows]
            assert seqs == list(range(read.min_seq, read.head_seq + 1))
        return passes

    cutting = asyncio.create_task(cut())
    await write()
    writing = False
    assert await cutting > 0
    await sweep(world, entries=20)
    assert await kept(world, one) == await kept(world, two) == list(range(231, 251))


async def test_a_cursor_before_the_cut_is_invalid_and_the_snapshot_leads_on(swept: World) -> None:
    world = swept
    _, two, conversation = await talk(world, 10)
    outcomes = await world.commit(world.row(two, conversation))
    await sweep(world, entries=4)
    matches = world.store.timeline.cursor_matches
    assert not await matches(two.id, 5, 0)
    assert await matches(two.id, 7, 0)  # its next entry is there
    devices = world.store.devices

    async def opens(cursor: tuple[int, int] | None) -> tuple[bool, int]:
        opened = await devices.open_session(two.id, "d", 1, "", NODE, cursor, START_OLDEST)
        return opened.cursor_ok, opened.start_seq

    assert await opens((5, 0)) == (False, 0)
    assert await opens(None) == (True, 7)
    seq, message_id, _ = await world.store.timeline.head_cursor(two.id)
    assert (seq, message_id) == (11, outcomes[0].message_id)
    assert await opens((seq, message_id)) == (True, 11)


# -- messages that disappear -----------------------------------------------------------------------


async def stored(world: World, conversation: int) -> list[bool]:
    """Whether each event has a body in its row."""
    rows = await world.ask(
        "SELECT body <> '' FROM chat.event WHERE conversation = %s ORDER BY conversation_seq",
        conversation,
    )
    return [full for (full,) in rows]


async def read(world: World, account: AccountRow, conversation: int) -> list[list[bool]]:
    """Whether each event has a body for its reader: in the timeline, and in history."""
    entries = await world.store.timeline.read_entries(account.id, 0, 100, 1 << 20)
    page = await world.store.history.list_messages(
        account.id, conversation, from_seq=0, forward=True, limit=100
    )
    assert page is not None
    return [[bool(row.body) for row in entries.rows], [bool(one.body) for one in page.messages]]


async def unread(world: World, account: AccountRow, conversation: int) -> int:
    view = await world.store.conversations.view(account.id, conversation)
    assert view is not None
    (totals, _) = await world.store.conversations.unread_totals(account.id)
    assert view.state.unread == totals
    return totals


async def test_what_disappears_reads_as_erased_before_the_sweep_blanks_it(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.commit(
        world.row(one, conversation, expires_at_ms=1 << 60),
        world.row(one, conversation, expires_at_ms=1 << 61),
        world.row(one, conversation),
    )
    assert await unread(world, two, conversation) == 3
    await world.store.retention.expire(100)
    assert await stored(world, conversation) == [True, True, True]
    await world.ask(
        "UPDATE chat.event SET expires_at_ms = 1 WHERE conversation = %s AND conversation_seq = 1",
        conversation,
    )
    assert await stored(world, conversation) == [True, True, True]
    for _ in range(2):
        assert await read(world, two, conversation) == [[False, True, True]] * 2
        assert await unread(world, two, conversation) == 2
        await world.store.retention.expire(100)
    assert await stored(world, conversation) == [False, True, True]
    assert EXACT_UP_TO > 3


async def test_an_edit_disappears_with_its_message(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    (first,) = await world.commit(world.row(one, conversation, expires_at_ms=1 << 60))
    edit = edit_body(first.conversation_seq, "new")
    for batch in (1, 2):
        edits = [
            world.row(one, conversation, kind=EventKind.EDIT, flags=0, target_seq=1, body=edit)
            for _ in range(batch)
        ]
        assert {o.status for o in await world.commit(*edits)} == {CommitStatus.ACCEPTED}
    ends = await world.ask(
        "SELECT DISTINCT expires_at_ms FROM chat.event WHERE conversation = %s", conversation
    )
    assert ends == [(1 << 60,)]
    await world.ask("UPDATE chat.event SET expires_at_ms = 1 WHERE conversation = %s", conversation)
    entries = (await world.store.timeline.read_entries(two.id, 0, 9, 1 << 20)).rows
    assert [bool(row.body) for row in entries] == [False] * 4
    while await world.store.retention.expire(3):
        pass
    assert await stored(world, conversation) == [False] * 4


async def test_the_sweep_waits_for_nobody_and_takes_its_share(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.commit(*(world.row(one, conversation, expires_at_ms=1) for _ in range(5)))
    async with transaction(world) as connection:
        await connection.execute(
            "SELECT FROM chat.event WHERE conversation = %s AND conversation_seq = 1"
            " FOR NO KEY UPDATE",
            (conversation,),
        )
        assert await world.store.retention.expire(100) >= 4
        assert await stored(world, conversation) == [True, False, False, False, False]
    assert await world.store.retention.expire(100) == 1
    assert await world.store.retention.expire(100) == 0
