"""GetSnapshot: conversations as of one position, on every page, whatever is written meanwhile."""

from __future__ import annotations

import asyncio

from chat_svc.api.callers import Caller
from chat_svc.api.snapshot import Snapshots
from chat_svc.store.accounts import AccountRow
from chat_svc.store.commit import EventKind
from chat_svc.store.devices import START_OLDEST
from chatmesh.v1.session_pb2 import GetSnapshotRequest, GetSnapshotResponse
from tests.chat_store.api import Api
from tests.chat_store.world import NODE, World, delete_body


async def pages(
    api: Api, owner: AccountRow, size: int, between: list[object] | None = None
) -> list[GetSnapshotResponse]:
    """All pages; `between` are awaited one after each page but the last."""
    snapshots = Snapshots(api.world.store, api.parts.tokens)
    who = Caller("default", api.world.name_of(owner), owner, "")
    request = GetSnapshotRequest(page_size=size)
    found = []
    while True:
        found.append(await snapshots.page(who, request))
        if not found[-1].next_page_token:
            return found
        request.page_token = found[-1].next_page_token
        if between:
            await between.pop(0)  # type: ignore[misc]


async def test_every_page_is_as_of_the_first_ones_position(api: Api) -> None:
    world = api.world
    hub, *others = await world.users(6)
    conversations = [await world.direct(hub, other) for other in others]
    for conversation, other in zip(conversations, others, strict=True):
        (last,) = await world.commit(world.row(other, conversation, "before"))
        await world.ask("SELECT pg_sleep(0.002)")  # another millisecond
    (late,) = await world.users(1)

    async def write() -> None:
        """Shown ones and ones to come become active, and a new one begins."""
        await world.commit(
            *(world.row(others[n], conversations[n], "after") for n in range(5)),
            world.row(late, await world.direct(hub, late), "after"),
        )

    found = await pages(api, hub, 2, [write(), write()])
    assert len(found) == 3
    assert {(p.as_of.timeline_seq, p.as_of.message_id) for p in found} == {(5, last.message_id)}
    shown = [one for page in found for one in page.conversations]
    assert [one.conversation_id for one in shown] == conversations[::-1]
    assert {one.last_message.content.text.body for one in shown} == {"before"}
    assert {
        (one.last_conversation_seq, one.last_message_no, one.state.unread) for one in shown
    } == {(1, 1, 1)}
    assert all(one.active_at_ms == one.last_message.created_at_ms for one in shown)
    # what was committed meanwhile follows the position, and a session may begin there
    opened = await world.store.devices.open_session(
        hub.id, "d", 1, "", NODE, (5, last.message_id), START_OLDEST
    )
    assert (opened.cursor_ok, opened.start_seq, opened.acked_seq) == (True, 5, 5)
    read = await world.store.timeline.read_entries(hub.id, opened.start_seq, 100, 1 << 20)
    assert [row.timeline_seq for row in read.rows] == list(range(6, 18))


async def test_position_and_conversations_are_of_one_moment(api: Api) -> None:
    world = api.world
    hub, other = await world.users(2)
    conversation = await world.direct(hub, other)
    await world.commit(world.row(other, conversation))
    writing = True

    async def write() -> None:
        while writing:
            await world.commit(*(world.row(other, conversation) for _ in range(3)))

    task = asyncio.create_task(write())
    for _ in range(50):
        (page,) = await pages(api, hub, 10)
        (one,) = page.conversations
        # hub's timeline holds this conversation alone: the three numbers are one
        assert one.last_conversation_seq == page.as_of.timeline_seq == one.state.unread
        assert one.last_message.message_id == page.as_of.message_id
    writing = False
    await task


async def test_a_snapshot_of_nothing_names_the_head(api: Api) -> None:
    (alone,) = await api.world.users(1)
    (page,) = await pages(api, alone, 10)
    assert list(page.conversations) == []
    assert (page.as_of.timeline_seq, page.as_of.message_id, page.next_page_token) == (0, 0, "")


async def test_conversations_of_every_kind_and_archived_ones_are_in_it(api: Api) -> None:
    world = api.world
    one, two = await world.users(2)
    group, direct = await world.group(one, two), await world.direct(one, two)
    notes = await world.direct(one, one)
    await world.commit(
        world.row(two, direct), world.row(two, direct), world.row(one, notes), world.row(two, group)
    )
    await world.commit(
        world.row(
            two,
            direct,
            kind=EventKind.DELETE,
            flags=0,
            target_seq=2,
            body=delete_body(2),
        )
    )
    await world.ask(
        "UPDATE chat.member SET archived = true WHERE account = %s AND conversation = %s",
        one.id,
        group,
    )
    (page,) = await pages(api, one, 10)
    shown = {c.conversation_id: c for c in page.conversations}
    assert set(shown) == {group, direct, notes}
    assert not shown[direct].last_message.HasField("content")
    assert [shown[n].state.unread for n in (direct, notes, group)] == [1, 0, 1]
    assert await _entries(world, one) == page.as_of.timeline_seq


async def _entries(world: World, account: AccountRow) -> int:
    return len(await world.timeline(account))
