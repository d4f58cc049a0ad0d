"""ListMessages: threads, and pages that stay as they are while people write."""

from __future__ import annotations

import os
from typing import Any

import pytest

from chat_svc.core.membership import Change
from chat_svc.store.accounts import AccountRow
from chat_svc.store.commit import EventKind
from chatmesh.runtime.faults import Fault
from chatmesh.v1 import conversations_pb2 as pb
from chatmesh.v1.types_pb2 import Content, DataContent, Event, PinContent, TextContent
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


async def test_what_is_pinned_now_is_listed(api: Api) -> None:
    world = api.world
    one, two, later = await world.users(3)
    group = await world.group(one, two)
    rows = await world.commit(*(world.row(one, group, f"{n}") for n in range(150)))
    seqs = [row.conversation_seq for row in rows]

    async def pin(target: int, removed: bool = False) -> None:
        content = Content(pin=PinContent(target_conversation_seq=target, removed=removed))
        body = Event(content=content).SerializeToString()
        row = world.row(two, group, kind=EventKind.PIN, flags=0, target_seq=target, body=body)
        await world.commit(row)

    async def pinned(account: AccountRow, **fields: Any) -> tuple[list[int], bool]:
        page = await listed(api, account, group, pinned=True, **fields)
        return [message.conversation_seq for message in page.messages], page.more

    assert await pinned(one) == ([], False)
    # targets whose numbers look like the field that takes a pin back
    wanted = [seqs[0], 16, 128 + 16, seqs[4]]
    for target in (*wanted, seqs[5], seqs[6], seqs[7]):
        await pin(target)
    await pin(seqs[5], removed=True)
    await pin(seqs[6], removed=True)
    await pin(seqs[6])
    await world.commit(
        world.row(
            one, group, kind=EventKind.DELETE, flags=0, target_seq=seqs[7],
            body=delete_body(seqs[7]),
        )
    )  # fmt: skip
    expected = sorted([*wanted, seqs[6]])
    assert await pinned(two) == (expected, False)
    assert await pinned(two, forward=True) == (expected, False)
    assert await pinned(two, forward=True, page_size=2) == (expected[:2], True)
    assert await pinned(two, page_size=2) == (expected[-2:], True)
    await world.change(one, group, Change.ADDED, later)
    assert await pinned(later) == ([], False)
    with pytest.raises(Fault, match="INVALID_FIELD"):
        await pinned(two, thread_root_conversation_seq=1)


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
