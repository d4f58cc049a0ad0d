"""Messages about messages: edits, deletes, answers, mentions."""

from __future__ import annotations

import pytest

from chat_svc.store.accounts import AccountRow
from chat_svc.store.commit import CommitRow, CommitStatus, EventKind
from chatmesh.v1.types_pb2 import Content, Event, TextContent
from tests.chat_store.world import World, delete_body, edit_body, text_body


def edit(world: World, sender: AccountRow, conversation: int, target: int, text: str) -> CommitRow:
    return world.row(
        sender,
        conversation,
        kind=EventKind.EDIT,
        flags=0,
        target_seq=target,
        body=edit_body(target, text),
    )


def delete(world: World, sender: AccountRow, conversation: int, target: int) -> CommitRow:
    return world.row(
        sender,
        conversation,
        kind=EventKind.DELETE,
        flags=0,
        target_seq=target,
        body=delete_body(target),
    )


async def body_of(world: World, conversation: int, seq: int) -> Event:
    ((body,),) = await world.ask(
        "SELECT body FROM chat.event WHERE conversation = %s AND conversation_seq = %s",
        conversation,
        seq,
    )
    return Event.FromString(body)


@pytest.mark.parametrize("batch", [1, 2])
async def test_an_edit_changes_what_the_message_says_now(world: World, batch: int) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    original = Event(
        content=Content(text=TextContent(body="x" * 300)),
        reply_to_conversation_seq=7,
        encrypted=True,
    )
    await world.commit(world.row(one, conversation, body=original.SerializeToString()))
    filling = [world.row(two, conversation) for _ in range(batch - 1)]
    outcomes = await world.commit(edit(world, one, conversation, 1, "new"), *filling)
    assert outcomes[0].status == CommitStatus.ACCEPTED
    assert (outcomes[0].conversation_seq, outcomes[0].message_no) == (2, 0)
    now = await body_of(world, conversation, 1)
    assert now.content.text.body == "new"
    assert (now.reply_to_conversation_seq, now.encrypted) == (7, True)
    event = await body_of(world, conversation, 2)
    assert event.content.edit.text.body == "new"
    await world.assert_contiguous()


async def test_of_two_edits_in_a_batch_the_later_stands(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.commit(world.row(one, conversation))
    await world.commit(*(edit(world, one, conversation, 1, text) for text in ("a", "b", "c")))
    assert (await body_of(world, conversation, 1)).content.text.body == "c"


@pytest.mark.parametrize("batch", [1, 2])
async def test_a_delete_blanks_the_message_and_its_edits(world: World, batch: int) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.commit(world.row(one, conversation), world.row(one, conversation, "stays"))
    await world.commit(edit(world, one, conversation, 1, "secret"))
    filling = [world.row(two, conversation) for _ in range(batch - 1)]
    outcomes = await world.commit(delete(world, one, conversation, 1), *filling)
    assert outcomes[0].status == CommitStatus.ACCEPTED
    for seq in (1, 3):
        assert await body_of(world, conversation, seq) == Event()
    assert (await body_of(world, conversation, 2)).content.text.body == "stays"
    late = await world.commit(edit(world, one, conversation, 1, "again"))
    assert late[0].status == CommitStatus.TARGET_UNKNOWN


async def test_within_a_batch_what_is_deleted_is_gone(world: World) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.commit(world.row(one, conversation))
    outcomes = await world.commit(
        edit(world, one, conversation, 1, "first"),
        delete(world, one, conversation, 1),
        edit(world, one, conversation, 1, "late"),
        world.row(two, conversation, target_seq=1),
    )
    assert [o.status for o in outcomes] == [
        CommitStatus.ACCEPTED,
        CommitStatus.ACCEPTED,
        CommitStatus.TARGET_UNKNOWN,
        CommitStatus.TARGET_UNKNOWN,
    ]
    assert await body_of(world, conversation, 1) == Event()
    assert await body_of(world, conversation, 2) == Event()  # the edit's own event
    await world.assert_contiguous()


@pytest.mark.parametrize("batch", [1, 2])
async def test_refusals(world: World, batch: int) -> None:
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.commit(
        world.row(one, conversation),
        world.row(one, conversation, kind=EventKind.PIN, flags=0, target_seq=0),
        world.row(one, conversation, expires_at_ms=1),
    )

    async def status(row: CommitRow) -> CommitStatus:
        filling = [world.row(two, conversation) for _ in range(batch - 1)]
        return (await world.commit(row, *filling))[0].status

    unknown, accepted = CommitStatus.TARGET_UNKNOWN, CommitStatus.ACCEPTED
    assert await status(world.row(two, conversation, target_seq=1)) == accepted
    for target in (2, 3, 900):  # not visible, expired, not there
        assert await status(world.row(two, conversation, target_seq=target)) == unknown
    assert await status(edit(world, two, conversation, 1, "x")) == CommitStatus.NOT_YOURS
    assert await status(delete(world, two, conversation, 1)) == CommitStatus.NOT_YOURS
    mention = world.row(two, conversation, mentions=[one.id, 4711])
    assert await status(mention) == CommitStatus.MENTION_UNKNOWN
    assert await status(world.row(two, conversation, mentions=[one.id])) == accepted
    await world.ask("UPDATE chat.event SET created_at_ms = 1 WHERE conversation = %s", conversation)
    over = edit(world, one, conversation, 1, "x")
    assert await status(over) == CommitStatus.EDIT_WINDOW_OVER
    await world.assert_contiguous()


async def test_the_functions_match_a_body_of_any_length(world: World) -> None:
    for length in (0, 1, 127, 128, 20_000):
        body = text_body("x" * length) + b"\x50\x07"
        ((rest,),) = await world.ask("SELECT chat.without_content(%s)", body)
        assert rest == b"\x50\x07"
    ((rest,),) = await world.ask("SELECT chat.without_content(%s)", b"\x50\x07")
    assert rest == b"\x50\x07"
