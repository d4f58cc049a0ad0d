"""Reads cost what is asked for, however much was said: counted in rows of event, never in time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from chat_svc.core.membership import Change
from chat_svc.core.unread import EXACT_UP_TO
from chat_svc.store.accounts import AccountRow
from chat_svc.store.bundle import ROLE, ChatStore
from chat_svc.store.govern import Properties
from chatmesh.runtime.postgres import Database, Lane
from tests.chat_store.world import World, text_body

SAID = 600
FEW = 60


class Counted:
    """Stores on one connection, whose reads of event are counted."""

    def __init__(self, world: World, store: ChatStore, database: Database) -> None:
        self.world, self.store, self._database = world, store, database

    async def rows(self, read: Callable[[], Awaitable[object]]) -> int:
        """How many rows of event a read looked at."""
        before = await self._seen()
        await read()
        return await self._seen() - before

    async def _seen(self) -> int:
        async with self._database.connection() as connection:
            await connection.execute("SELECT pg_stat_force_next_flush()")
        ((seen,),) = await self.world.ask(
            "SELECT (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables"
            " WHERE schemaname = 'chat' AND relname = 'event'"
        )
        return int(seen)


@pytest.fixture(scope="module")
async def counted(world: World) -> AsyncIterator[Counted]:
    settings = (("enable_seqscan", "off"),)  # the tables of a test are small
    async with (
        Database(world.url, role_name=ROLE, max_size=1, session_settings=settings) as database,
        Lane(world.url, role_name=ROLE, name="unused") as lane,
    ):
        yield Counted(world, ChatStore.on(database, lane), database)


async def say(world: World, sender: AccountRow, conversation: int, count: int) -> None:
    for _ in range(0, count, 200):
        await world.commit(*(world.row(sender, conversation) for _ in range(200)))


async def test_who_joins_late_does_not_read_what_went_before(counted: Counted) -> None:
    world, conversations = counted.world, counted.store.conversations
    owner, member, late = await world.users(3)
    group = await world.group(owner, member)
    await say(world, owner, group, SAID)
    await world.change(owner, group, Change.ADDED, late)
    views, _ = await conversations.list_views(late.id, after=None, limit=10, include_archived=False)
    assert [(view.conversation.id, view.last_message) for view in views] == [(group, None)]

    async def listed() -> None:
        await conversations.list_views(late.id, after=None, limit=10, include_archived=False)

    assert await counted.rows(listed) <= FEW
    await world.commit(world.row(owner, group, "welcome"))
    view = await conversations.view(late.id, group)
    assert view is not None
    assert view.last_message is not None
    assert view.last_message.body == text_body("welcome")


async def test_who_comes_back_does_not_read_what_was_said_meanwhile(counted: Counted) -> None:
    world, history = counted.world, counted.store.history
    owner, guest = await world.users(2)
    group = await world.group(owner, guest)
    await world.commit(*(world.row(owner, group, f"before {n}") for n in range(3)))
    await world.change(owner, group, Change.REMOVED, guest)
    await say(world, owner, group, SAID)
    view = await counted.store.conversations.view(owner.id, group)
    assert view is not None
    assert view.conversation.last_message_no == SAID + 3
    await world.change(owner, group, Change.ADDED, guest)
    await world.commit(*(world.row(owner, group, f"after {n}") for n in range(3)))
    texts = [text_body(f"{when} {n}") for when in ("before", "after") for n in range(3)]

    for forward in (False, True):

        async def listed(forward: bool = forward) -> None:
            page = await history.list_messages(
                guest.id, group, from_seq=0, forward=forward, limit=10
            )
            assert page is not None
            assert ([message.body for message in page.messages], page.more) == (texts, False)

        assert await counted.rows(listed) <= FEW


async def test_stays_that_overlap_show_each_message_once(counted: Counted) -> None:
    world, history = counted.world, counted.store.history
    owner, guest = await world.users(2)
    group = await world.group(owner, guest)
    await world.commit(*(world.row(owner, group, str(n)) for n in range(3)))
    await world.change(owner, group, Change.REMOVED, guest)
    await world.commit(*(world.row(owner, group, str(n)) for n in range(3, 6)))
    await world.store.govern.update_group(
        world.request(owner), group, Properties(None, None, 2), ids=await world.new_ids(2)
    )
    await world.change(owner, group, Change.ADDED, guest)  # with all that went before
    for forward in (False, True):
        seen: list[bytes] = []
        position = 0
        while True:
            page = await history.list_messages(
                guest.id, group, from_seq=position, forward=forward, limit=2
            )
            assert page is not None
            bodies = [message.body for message in page.messages]
            seen = seen + bodies if forward else bodies + seen
            position = page.messages[-1 if forward else 0].conversation_seq
            if not page.more:
                break
        assert seen == [text_body(str(n)) for n in range(6)]


async def test_who_never_marks_as_read_does_not_read_all_that_they_wrote(counted: Counted) -> None:
    world = counted.world
    writer, reader = await world.users(2)
    group = await world.group(writer, reader)
    await world.commit(world.row(reader, group, mentions=[writer.id]))
    await say(world, writer, group, EXACT_UP_TO + SAID)

    async def total() -> None:
        unread = await counted.store.conversations.unread_totals(writer.id)
        assert unread == (EXACT_UP_TO + SAID + 1, 0)

    assert await counted.rows(total) <= EXACT_UP_TO + FEW
