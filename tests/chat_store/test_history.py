"""ListMessages: threads, and pages that stay as they are while people write."""

from __future__ import annotations

import os
from typing import Any

import pytest

from chat_svc.store.accounts import AccountRow
from chat_svc.store.commit import EventKind
from chatmesh.runtime.faults import Fault
from chatmesh.v1 import conversations_pb2 as pb
from chatmesh.v1.types_pb2 import Content, DataContent, Event, TextContent
from tests.chat_store.api import Api
from tests.chat_store.world import delete_body


async def listed(
    api: Api, account: AccountRow, conversation: int, **fields: Any
) -> pb.ListMessagesResponse:
    request = pb.ListMessagesRequest(conversation_id=conversation, **fields)
    answer: pb.ListMessagesResponse = await api.call(
        api.world.name_of(account), api.conversations.ListMessages, request
    )
    return answer


def in_thread(text: str, root: int, **fields: Any) -> bytes:
    content = Content(text=TextContent(body=text))
    return Event(content=content, thread_root_conversation_seq=root, **fields).SerializeToString()


@pytest.mark.parametrize("forward", [True, False])
async def test_pages_neither_repeat_nor_skip_while_people_write(api: Api, forward: bool) -> None:
    world = api.world
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.commit(*(world.row(one, conversation, str(n)) for n in range(1, 21)))
    seen: list[int] = []
    position = 0
    while True:
        page = await listed(
            api,
            two,
            conversation,
            from_conversation_seq=position,
            forward=forward,
            page_size=7,
        )
        seqs = [message.conversation_seq for message in page.messages]
        seen = seen + seqs if forward else seqs + seen
        await world.commit(
            world.row(two, conversation),
            world.row(
                one, conversation, kind=EventKind.DELETE, flags=0, target_seq=3, body=delete_body(3)
            ),
        )
        if not page.more or len(seen) >= 20:
            break
        position = seqs[-1] if forward else seqs[0]
    assert seen[:20] == list(range(1, 21))
    assert len(seen) == len(set(seen))


async def test_a_thread_is_its_root_and_what_names_it(api: Api) -> None:
    world = api.world
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    rows = [
        world.row(one, conversation, "root"),
        world.row(two, conversation, body=in_thread("a", 1)),
        world.row(two, conversation, "beside"),
        world.row(two, conversation, body=in_thread("of another", 3)),
        world.row(one, conversation, body=in_thread("b", 1, silent=True)),
        world.row(one, conversation, body=in_thread("gone", 1)),
        world.row(two, conversation, body=in_thread("c", 1, reply_to_conversation_seq=2)),
    ]
    await world.commit(*rows[:3])
    for row in rows[3:]:
        await world.commit(row)
    await world.commit(
        world.row(
            one, conversation, kind=EventKind.DELETE, flags=0, target_seq=6, body=delete_body(6)
        )
    )

    async def thread(root: int, **fields: Any) -> tuple[list[int], bool]:
        page = await listed(api, one, conversation, thread_root_conversation_seq=root, **fields)
        return [message.conversation_seq for message in page.messages], page.more

    for forward in (True, False):
        assert await thread(1, forward=forward) == ([1, 2, 5, 7], False)
        assert await thread(3, forward=forward) == ([3, 4], False)
        assert await thread(2, forward=forward) == ([2], False)
        assert await thread(99, forward=forward) == ([], False)
    assert await thread(1, forward=True, page_size=2) == ([1, 2], True)
    assert await thread(1, forward=True, page_size=2, from_conversation_seq=2) == ([5, 7], False)
    assert await thread(1, page_size=3) == ([2, 5, 7], True)
    with pytest.raises(Fault, match="INVALID_FIELD"):
        await thread(1 << 63)


async def test_the_root_is_read_from_any_body(api: Api) -> None:
    world = api.world
    bodies = {
        in_thread("x", 1): 1,
        in_thread("x" * 300, (1 << 40) + 5): (1 << 40) + 5,
        in_thread("", 127, metadata={"k": "v"}, mention_user_ids=["a"]): 127,
        Event(content=Content(text=TextContent(body="x"))).SerializeToString(): 0,
        b"": 0,
        b"\x90\x01": 0,
        b"\x90\x01\xff": 0,
        b"\x90\x01" + b"\xff" * 20: 0,
        b"\x4a\xff\xff\xff\xff\x0f\x90\x01\x05": 0,
        b"\x4d\x00\x00\x90\x01\x05": 0,
    }
    for body, root in bodies.items():
        assert await world.ask("SELECT chat.thread_of_1(%s)", body) == [(root,)], body
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    noise = [b"\x90\x01" + os.urandom(40) for _ in range(200)]
    rows = [
        world.row(
            one,
            conversation,
            body=Event(
                content=Content(data=DataContent(media_type="a/b", body=body)),
                thread_root_conversation_seq=n % 2,
            ).SerializeToString(),
        )
        for n, body in enumerate(noise)
    ]
    await world.commit(*rows)
    page = await listed(api, two, conversation, thread_root_conversation_seq=1, page_size=200)
    seqs = [message.conversation_seq for message in page.messages]
    assert seqs == [1, *range(2, 201, 2)]
