"""An edit changes what a message says for those who were members when it was made, and for nobody
else: not for a new device of somebody who was removed, nor for one who came back."""

from __future__ import annotations

import dataclasses

import pytest

from chat_svc.core.membership import Change
from chat_svc.store.accounts import AccountRow
from chat_svc.store.erasure import Stage
from chatmesh.v1.types_pb2 import Content, Event, TextContent
from tests.chat_store.test_targets import delete, edit
from tests.chat_store.world import World

FIRST, SECOND, THIRD = "as it was", "edited once", "edited twice"


async def entry(world: World, account: AccountRow, conversation: int, seq: int) -> str:
    """What a new device of the account reads of a message."""
    read = await world.store.timeline.read_entries(account.id, 0, 1_000, 1 << 20)
    (row,) = (
        row
        for row in read.rows
        if (row.conversation_id, row.conversation_seq) == (conversation, seq)
    )
    return Event.FromString(row.body).content.text.body


async def listed(world: World, account: AccountRow, conversation: int, seq: int) -> str:
    """What history says of it, by both directions, alone and in its thread."""
    texts = []
    for forward in (True, False):
        for thread in (0, seq):
            page = await world.store.history.list_messages(
                account.id, conversation, from_seq=0, forward=forward, limit=100, thread=thread
            )
            assert page is not None
            (row,) = (row for row in page.messages if row.conversation_seq == seq)
            texts.append(Event.FromString(row.body).content.text.body)
    one = await world.store.history.event_at(account.id, conversation, seq)
    assert one is not None
    texts.append(Event.FromString(one.body).content.text.body)
    assert len(set(texts)) == 1
    return texts[0]


async def kept(world: World, conversation: int) -> list[tuple[int, int, str]]:
    """(message, since which position, text) of all that is kept."""
    rows = await world.ask(
        "SELECT conversation_seq, since_seq, body FROM chat.event_version"
        " WHERE conversation = %s ORDER BY 1, 2",
        conversation,
    )
    return [(seq, since, Event.FromString(body).content.text.body) for seq, since, body in rows]


async def flags(world: World, conversation: int, seq: int) -> int:
    ((found,),) = await world.ask(
        "SELECT flags FROM chat.event WHERE conversation = %s AND conversation_seq = %s",
        conversation,
        seq,
    )
    return int(found)


async def said_in_group(
    world: World, *members: AccountRow, text: str = FIRST, history: int = 1
) -> tuple[int, int]:
    """A group with one message of the first: conversation, its position there."""
    conversation = await world.group(members[0], *members[1:], history=history)
    (outcome,) = await world.commit(world.row(members[0], conversation, text))
    return conversation, outcome.conversation_seq


@pytest.mark.parametrize("batch", [1, 2])
async def test_who_left_before_an_edit_reads_the_message_as_it_was(
    world: World, batch: int
) -> None:
    owner, stays, leaves = await world.users(3)
    conversation, seq = await said_in_group(world, owner, stays, leaves)
    await world.change(owner, conversation, Change.REMOVED, leaves)
    filling = [world.row(owner, conversation) for _ in range(batch - 1)]
    await world.commit(edit(world, owner, conversation, seq, SECOND), *filling)
    for one, text in ((stays, SECOND), (owner, SECOND), (leaves, FIRST)):
        assert await entry(world, one, conversation, seq) == text
        assert await listed(world, one, conversation, seq) == text
    await world.assert_contiguous()


async def test_of_many_edits_the_newest_within_a_stay_is_read(world: World) -> None:
    owner, early, late, back = await world.users(4)
    conversation, seq = await said_in_group(world, owner, early, late, back)
    await world.change(owner, conversation, Change.REMOVED, early, back)
    await world.commit(edit(world, owner, conversation, seq, "lost"))
    await world.commit(
        edit(world, owner, conversation, seq, "never read"),
        edit(world, owner, conversation, seq, SECOND),
    )
    await world.change(owner, conversation, Change.REMOVED, late)
    await world.commit(edit(world, owner, conversation, seq, THIRD))
    expected = {early: FIRST, late: SECOND, owner: THIRD, back: FIRST}
    for one, text in expected.items():
        assert await entry(world, one, conversation, seq) == text
        assert await listed(world, one, conversation, seq) == text
    assert [text for _, _, text in await kept(world, conversation)] == [FIRST, SECOND], (
        "what nobody can read is not kept"
    )
    # who comes back reads no edit that was made meanwhile, but the next one
    await world.change(owner, conversation, Change.ADDED, back)
    assert await listed(world, back, conversation, seq) == FIRST
    await world.commit(edit(world, owner, conversation, seq, "while back"))
    for one, text in (expected | {owner: "while back", back: "while back"}).items():
        assert await entry(world, one, conversation, seq) == text


async def test_who_came_back_is_told_the_same_in_lists_and_pushes(world: World) -> None:
    owner, back = await world.users(2)
    conversation, seq = await said_in_group(world, owner, back)
    await world.store.devices.open_session(back.id, "phone", 1, "", 1, None, 1)
    await world.change(owner, conversation, Change.REMOVED, back)
    await world.commit(edit(world, owner, conversation, seq, SECOND))
    await world.change(owner, conversation, Change.ADDED, back)
    view = await world.store.conversations.view(back.id, conversation)
    assert view is not None
    assert view.last_message is not None
    assert Event.FromString(view.last_message.body).content.text.body == FIRST
    snapshot = await world.store.snapshot.page(back.id, after=None, limit=10)
    (of_group,) = (one for one in snapshot.views if one.conversation.id == conversation)
    assert of_group.last_message is not None
    assert Event.FromString(of_group.last_message.body).content.text.body == FIRST
    await world.ask(
        "UPDATE chat.member SET read_message_no = 0 WHERE conversation = %s", conversation
    )
    await world.ask("UPDATE chat.device SET acked_seq = 0 WHERE account = %s", back.id)
    (state,) = await world.store.push_state.push_state([(back.id, "phone")])
    assert [Event.FromString(row.body).content.text.body for row in state.pending] == [FIRST]


async def test_with_open_history_a_member_reads_all_edits(world: World) -> None:
    owner, back = await world.users(2)
    conversation, seq = await said_in_group(world, owner, back, history=2)
    await world.change(owner, conversation, Change.REMOVED, back)
    await world.commit(edit(world, owner, conversation, seq, SECOND))
    assert await listed(world, back, conversation, seq) == FIRST
    await world.change(owner, conversation, Change.ADDED, back)
    assert await listed(world, back, conversation, seq) == SECOND


async def test_where_nobody_left_nothing_is_kept(world: World) -> None:
    owner, member, gone = await world.users(3)
    conversation, seq = await said_in_group(world, owner, member, gone)
    await world.change(owner, conversation, Change.REMOVED, gone)
    (later,) = await world.commit(world.row(owner, conversation, FIRST))
    await world.commit(edit(world, owner, conversation, later.conversation_seq, SECOND))
    assert await kept(world, conversation) == []
    assert [await flags(world, conversation, n) for n in (seq, later.conversation_seq)] == [3, 19]


@pytest.mark.parametrize("how", ["deleted", "expired", "erased", "past retention"])
async def test_what_it_said_goes_with_the_message(world: World, how: str) -> None:
    owner, leaves = await world.users(2)
    conversation = await world.group(owner, leaves)
    row = dataclasses.replace(
        world.row(owner, conversation, FIRST), expires_at_ms=4_000_000_000_000
    )
    ((seq),) = [one.conversation_seq for one in await world.commit(row)]
    await world.change(owner, conversation, Change.REMOVED, leaves)
    await world.commit(edit(world, owner, conversation, seq, SECOND))
    assert [text for _, _, text in await kept(world, conversation)] == [FIRST]
    if how == "deleted":
        await world.commit(delete(world, owner, conversation, seq))
    elif how == "expired":
        await world.ask(
            "UPDATE chat.event SET expires_at_ms = 1 WHERE conversation = %s AND expires_at_ms > 0",
            conversation,
        )
        assert await entry(world, leaves, conversation, seq) == ""
        await world.ask("SELECT chat.expire_1(1000)")
    elif how == "erased":
        await world.ask("SELECT chat.erase_events_1(%s, %s, 0, %s, 1000)", owner.id, conversation,
            conversation)  # fmt: skip
    else:
        await world.ask(
            "DELETE FROM chat.event WHERE conversation = %s AND conversation_seq <= %s",
            conversation,
            seq,
        )
    assert await kept(world, conversation) == []
    assert await entry(world, leaves, conversation, seq) == ""


async def test_an_erased_user_is_named_by_no_version(world: World) -> None:
    owner, leaves, erased = await world.users(3)
    name = world.name_of(erased)
    conversation = await world.group(owner, leaves, erased)
    naming = Event(content=Content(text=TextContent(body=FIRST)), mention_user_ids=[name])
    (outcome,) = await world.commit(
        world.row(owner, conversation, body=naming.SerializeToString(), mentions=[erased.id])
    )
    await world.change(owner, conversation, Change.REMOVED, leaves)
    await world.commit(edit(world, owner, conversation, outcome.conversation_seq, SECOND))
    assert len(await kept(world, conversation)) == 1
    at = await world.store.erasure.begin("default", name)
    while at is not None and at.stage < Stage.TIMELINE:
        at, _ = await world.store.erasure.step(
            at if at.stage is not Stage.SESSIONS else await world.store.erasure.move(
                at, Stage.RELATIONS)
        )  # fmt: skip
    assert await kept(world, conversation) == []
    assert await listed(world, owner, conversation, outcome.conversation_seq) == SECOND


async def test_an_edit_before_versions_were_kept_reads_as_erased_for_who_had_left(
    world: World,
) -> None:
    owner, leaves = await world.users(2)
    conversation, seq = await said_in_group(world, owner, leaves)
    await world.change(owner, conversation, Change.REMOVED, leaves)
    await world.commit(edit(world, owner, conversation, seq, SECOND))
    await world.ask("DELETE FROM chat.event_version WHERE conversation = %s", conversation)
    assert await entry(world, leaves, conversation, seq) == ""
    assert await entry(world, owner, conversation, seq) == SECOND
