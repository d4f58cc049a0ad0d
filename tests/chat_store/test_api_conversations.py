"""ConversationService over a real store: lists, history, own state."""

from __future__ import annotations

from typing import Any

import pytest

from chat_svc.store.commit import EventFlag, EventKind
from chatmesh.runtime.faults import Fault
from chatmesh.v1 import conversations_pb2 as pb
from chatmesh.v1.types_pb2 import (
    MEMBER_ROLE_OWNER,
    MUTE_LEVEL_ALL,
)
from tests.chat_store.api import Api, create, names


async def test_conversations_are_listed_by_activity_and_stay_so(api: Api) -> None:
    world = api.world
    hub, *others = await world.users(7)
    me = world.name_of(hub)
    conversations = [await world.direct(hub, other) for other in others]
    for conversation in conversations:
        await world.commit(world.row(hub, conversation))
        await world.ask("SELECT pg_sleep(0.002)")  # another millisecond
    newest_first = conversations[::-1]
    request = pb.ListConversationsRequest(page_size=2)
    found: list[int] = []
    while True:
        answer = await api.call(me, api.conversations.ListConversations, request)
        found += [one.conversation_id for one in answer.conversations]
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
        # shown ones and ones to come become active meanwhile, and a new one begins
        await world.ask("SELECT pg_sleep(0.002)")
        await world.commit(world.row(hub, newest_first[0]), world.row(hub, newest_first[-1]))
        (late,) = await world.users(1)
        await world.commit(world.row(hub, await world.direct(hub, late)))
    assert found == newest_first
    again = await api.call(me, api.conversations.ListConversations, pb.ListConversationsRequest())
    assert len(again.conversations) == 8
    first = again.conversations[-1]
    assert first.last_message.content.text.body == "hello"
    assert first.peer_user_id == world.name_of(others[1])
    assert (first.last_message.sender_user_id, first.last_message.peer_user_id) == (
        me,
        first.peer_user_id,
    )


async def test_an_empty_direct_conversation_is_not_listed(api: Api) -> None:
    world = api.world
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    listed = await api.call(
        world.name_of(two), api.conversations.ListConversations, pb.ListConversationsRequest()
    )
    assert list(listed.conversations) == []
    found = await api.call(
        world.name_of(two),
        api.conversations.GetConversation,
        pb.GetConversationRequest(peer_user_id=world.name_of(one)),
    )
    assert found.conversation.conversation_id == conversation


async def test_history_reads_both_ways(api: Api) -> None:
    world = api.world
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    for n in range(10):
        flags = 0 if n % 5 == 4 else int(EventFlag.VISIBLE)
        kind = EventKind.TEXT if flags else EventKind.PIN
        await world.commit(
            world.row((one, two)[n % 2], conversation, str(n), flags=flags, kind=kind)
        )
    visible = [1, 2, 3, 4, 6, 7, 8, 9]

    async def page(start: int, forward: bool, size: int) -> tuple[list[int], bool]:
        answer = await api.call(
            world.name_of(two),
            api.conversations.ListMessages,
            pb.ListMessagesRequest(
                conversation_id=conversation,
                from_conversation_seq=start,
                forward=forward,
                page_size=size,
            ),
        )
        for message in answer.messages:
            users = {message.sender_user_id, message.peer_user_id}
            assert users == {world.name_of(one), world.name_of(two)}
            assert message.content.text.body == str(message.conversation_seq - 1)
        return [message.conversation_seq for message in answer.messages], answer.more

    assert await page(0, False, 3) == ([7, 8, 9], True)
    assert await page(7, False, 3) == ([3, 4, 6], True)
    assert await page(3, False, 3) == ([1, 2], False)
    assert await page(1, False, 3) == ([], False)
    assert await page(0, True, 3) == ([1, 2, 3], True)
    assert await page(4, True, 4) == ([6, 7, 8, 9], False)
    assert await page(10, True, 4) == ([], False)
    assert await page(0, False, 0) == (visible, False)
    with pytest.raises(Fault, match="INVALID_FIELD"):
        await page(1 << 63, True, 1)


async def test_own_state_rises_in_version_and_is_told(api: Api) -> None:
    world = api.world
    one, two = await world.users(2)
    me = world.name_of(two)
    conversation = await world.direct(one, two)
    await world.commit(*(world.row(one, conversation) for _ in range(3)))

    async def update(**fields: Any) -> Any:
        request = pb.UpdateMemberStateRequest(conversation_id=conversation, **fields)
        return (await api.call(me, api.conversations.UpdateMemberState, request)).state

    async def since(version: int) -> tuple[list[int], int]:
        answer = await api.call(
            me,
            api.conversations.GetAccountState,
            pb.GetAccountStateRequest(since_account_version=version),
        )
        return [c.conversation_id for c in answer.conversations], answer.account_version

    assert await since(0) == ([], 0)
    state = await update(read_message_no=2)
    assert (state.read_message_no, state.unread) == (2, 1)
    assert [mark.read_message_no for mark in api.marks[-1:]] == [2]
    assert await since(0) == ([conversation], 1)
    count = len(api.marks)
    assert (await update(read_message_no=1)).read_message_no == 2
    assert len(api.marks) == count
    assert await since(1) == ([], 1)
    assert (await update(read_message_no=99)).read_message_no == 3
    told = len(api.told)
    state = await update(mute=MUTE_LEVEL_ALL, mute_until_ms=5, pinned=True, draft="later")
    assert (state.mute, state.mute_until_ms, state.pinned, state.draft) == (3, 5, True, "later")
    assert api.told[told:] == [two.id]
    assert await since(2) == ([conversation], 3)
    state = await update(marked_unread=True, archived=True)
    assert (state.marked_unread, state.archived, state.pinned) == (True, True, True)
    listed = await api.call(me, api.conversations.ListConversations, pb.ListConversationsRequest())
    assert list(listed.conversations) == []
    listed = await api.call(
        me,
        api.conversations.ListConversations,
        pb.ListConversationsRequest(include_archived=True),
    )
    assert len(listed.conversations) == 1
    for bad in ({"draft": "x" * 4_097}, {"draft": "\0"}, {"mute": 9}, {"mute_until_ms": -1}):
        with pytest.raises(Fault, match="INVALID_FIELD"):
            await update(**bad)


async def test_acting_for_a_user_needs_the_scope(api: Api) -> None:
    owner, backend = await names(api, 2)
    number = (await create(api, owner)).conversation_id
    request = pb.GetConversationRequest(conversation_id=number)
    get = api.conversations.GetConversation
    with pytest.raises(Fault, match="SCOPE_REQUIRED"):
        await api.call(backend, get, request, chatmesh_on_behalf_of=owner)
    answer = await api.call(
        backend, get, request, scopes=["chatmesh.act_as"], chatmesh_on_behalf_of=owner
    )
    assert answer.conversation.state.role == MEMBER_ROLE_OWNER
