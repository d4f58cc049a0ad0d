"""ConversationService over a real store."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from chat_svc.api.callers import Caller
from chat_svc.api.conversations import ConversationApi
from chat_svc.api.snapshot import Snapshots
from chat_svc.node.tasks import Tasks
from chat_svc.store.bundle import ChatStore
from chat_svc.store.commit import EventFlag, EventKind
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.postgres import LostConnection
from chatmesh.v1 import conversations_pb2 as pb
from chatmesh.v1.session_pb2 import GetSnapshotRequest
from chatmesh.v1.types_pb2 import (
    MEMBER_ROLE_OWNER,
    MEMBERSHIP_CHANGE_ADDED,
    MEMBERSHIP_CHANGE_LEFT,
    MUTE_LEVEL_ALL,
    Conversation,
    ConversationPolicy,
)
from tests.chat_store.api import Api
from tests.chat_store.world import uuid7


def with_create_group(store: ChatStore, create_group: Any) -> ChatStore:
    """The store, with something in the way of new groups."""
    govern: Any = SimpleNamespace(create_group=create_group)
    return dataclasses.replace(store, govern=govern)


async def names(api: Api, count: int, tenant: str = "default") -> list[str]:
    return [api.world.name_of(account) for account in await api.world.users(count, tenant)]


async def create(api: Api, owner: str, *members: str, **fields: Any) -> Conversation:
    values = {"idempotency_key": uuid7(), "member_user_ids": members, "title": "t", **fields}
    request = pb.CreateConversationRequest(**values)
    answer = await api.call(owner, api.conversations.CreateConversation, request)
    made: Conversation = answer.conversation
    return made


async def test_a_caller_that_gives_up_does_not_end_the_commit_or_its_hand_over(api: Api) -> None:
    owner, one = await names(api, 2)
    began, told = asyncio.Event(), asyncio.Event()
    tasks, create_group = Tasks(), api.world.store.govern.create_group

    async def slowly(*arguments: Any, **named: Any) -> Any:
        began.set()
        return await create_group(*arguments, **named)

    async def publish(batch_id: int, stored: Any) -> None:
        told.set()

    store = with_create_group(api.parts.store, slowly)
    parts = dataclasses.replace(
        api.parts, store=store, publish=publish, to_the_end=tasks.to_the_end
    )
    request = pb.CreateConversationRequest(idempotency_key=uuid7(), member_user_ids=[one])
    calling = asyncio.create_task(
        api.call(owner, ConversationApi(parts).CreateConversation, request)
    )
    await began.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await told.wait()
    await tasks.close()


async def test_an_unknown_outcome_is_looked_for(api: Api) -> None:
    owner, one = await names(api, 2)
    looked: list[bool] = []

    async def lost(*arguments: Any, **named: Any) -> Any:
        raise LostConnection("gone", unknown_outcome=True)

    store = with_create_group(api.parts.store, lost)
    parts = dataclasses.replace(api.parts, store=store, may_have_rows=lambda: looked.append(True))
    request = pb.CreateConversationRequest(idempotency_key=uuid7(), member_user_ids=[one])
    with pytest.raises(Fault, match="NOT_SERVING"):
        await api.call(owner, ConversationApi(parts).CreateConversation, request)
    assert looked


async def test_a_group_is_made_once_and_published(api: Api) -> None:
    owner, one, two = await names(api, 3)
    request = pb.CreateConversationRequest(
        idempotency_key=uuid7(), title="trip", member_user_ids=[one, two, one, owner]
    )
    create_conversation = api.conversations.CreateConversation
    made = (await api.call(owner, create_conversation, request)).conversation
    assert (made.title, made.member_count, made.state.role) == ("trip", 3, MEMBER_ROLE_OWNER)
    assert made.policy.join == ConversationPolicy.JOIN_ADMINS_ADD
    batch_id, stored = api.published[-1]
    assert batch_id > 0
    assert [event.outcome.conversation_seq for event in stored] == [1, 2]
    assert [len(event.outcome.recipients) for event in stored] == [3, 3]
    count = len(api.published)
    again = (await api.call(owner, create_conversation, request)).conversation
    assert again == made
    assert len(api.published) == count
    request.title = "another"
    with pytest.raises(Fault, match="KEY_REUSED"):
        await api.call(owner, create_conversation, request)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"idempotency_key": b"short"}, "KEY_INVALID"),
        ({"idempotency_key": uuid7(at_ms=1)}, "KEY_TOO_OLD"),
        ({"idempotency_key": uuid7(at_ms=1 << 45)}, "KEY_IN_FUTURE"),
        ({"title": "x" * 257}, "INVALID_FIELD"),
        ({"title": "a\0b"}, "INVALID_FIELD"),
        ({"member_user_ids": ["nobody"]}, "NOT_REACHABLE"),
        ({"member_user_ids": ["a\0b"]}, "NOT_REACHABLE"),
        ({"member_user_ids": [""]}, "NOT_REACHABLE"),
        ({"member_user_ids": [str(n) for n in range(6)]}, "LIMIT_EXCEEDED"),
    ],
)
async def test_bad_groups_are_refused(api: Api, fields: dict[str, Any], reason: str) -> None:
    (owner,) = await names(api, 1)
    with pytest.raises(Fault, match=reason):
        await create(api, owner, **fields)


async def test_users_of_another_tenant_do_not_exist(api: Api) -> None:
    (owner,) = await names(api, 1)
    (foreign,) = await names(api, 1, "elsewhere")
    made = await create(api, owner)
    with pytest.raises(Fault, match="NOT_REACHABLE"):
        await create(api, owner, foreign)
    for method, request in (
        (api.conversations.GetConversation, pb.GetConversationRequest(peer_user_id=owner)),
        (
            api.conversations.GetConversation,
            pb.GetConversationRequest(conversation_id=made.conversation_id),
        ),
        (
            api.conversations.ListMessages,
            pb.ListMessagesRequest(conversation_id=made.conversation_id),
        ),
    ):
        with pytest.raises(Fault, match="NOT_FOUND"):
            await api.call(foreign, method, request, tenant="elsewhere")


async def test_a_stranger_learns_nothing(api: Api) -> None:
    owner, stranger = await names(api, 2)
    made = await create(api, owner)
    number = made.conversation_id
    key = uuid7()
    for call, request in (
        ("GetConversation", pb.GetConversationRequest(conversation_id=number)),
        ("ListMembers", pb.ListMembersRequest(conversation_id=number)),
        ("ListMessages", pb.ListMessagesRequest(conversation_id=number)),
        ("UpdateMemberState", pb.UpdateMemberStateRequest(conversation_id=number, pinned=True)),
        (
            "UpdateConversation",
            pb.UpdateConversationRequest(conversation_id=number, title="x", idempotency_key=key),
        ),
        (
            "ChangeMembers",
            pb.ChangeMembersRequest(
                conversation_id=number,
                change=MEMBERSHIP_CHANGE_ADDED,
                user_ids=[stranger],
                idempotency_key=key,
            ),
        ),
    ):
        faults = []
        for wanted in (number, 987_654_321, 1 << 63):
            request.conversation_id = wanted
            with pytest.raises(Fault) as caught:
                await api.call(stranger, getattr(api.conversations, call), request)
            faults.append((caught.value.code, caught.value.reason, caught.value.message))
        assert len(set(faults)) == 1, call
        assert faults[0][1] == "NOT_FOUND"


async def test_members_change_and_the_event_says_so(api: Api) -> None:
    owner, one = await names(api, 2)
    number = (await create(api, owner)).conversation_id

    def request(change: Any, *users: str) -> pb.ChangeMembersRequest:
        return pb.ChangeMembersRequest(
            conversation_id=number, change=change, user_ids=users, idempotency_key=uuid7()
        )

    change_members = api.conversations.ChangeMembers
    added = request(MEMBERSHIP_CHANGE_ADDED, one)
    answer = await api.call(owner, change_members, added)
    assert answer.event.content.membership.user_ids == [one]
    assert (answer.event.conversation_seq, answer.event.sender_user_id) == (2, owner)
    assert (await api.call(owner, change_members, added)).event == answer.event
    nothing = await api.call(owner, change_members, request(MEMBERSHIP_CHANGE_ADDED, one))
    assert not nothing.HasField("event")
    left = await api.call(one, change_members, request(MEMBERSHIP_CHANGE_LEFT, one))
    assert left.event.content.membership.change == MEMBERSHIP_CHANGE_LEFT
    for bad, reason in (
        (request(0, one), "INVALID_FIELD"),
        (request(MEMBERSHIP_CHANGE_ADDED), "INVALID_FIELD"),
        (request(MEMBERSHIP_CHANGE_ADDED, *map(str, range(101))), "LIMIT_EXCEEDED"),
    ):
        with pytest.raises(Fault, match=reason):
            await api.call(owner, change_members, bad)


async def test_members_are_paged_by_user_id(api: Api) -> None:
    owner, *others = await names(api, 5)
    number = (await create(api, owner, *others)).conversation_id
    request = pb.ListMembersRequest(conversation_id=number, page_size=2)
    found = []
    while True:
        answer = await api.call(owner, api.conversations.ListMembers, request)
        found += [member.user_id for member in answer.members]
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert found == sorted([owner, *others])
    for user, other in ((others[0], number), (owner, number + 1)):
        request.conversation_id = other
        with pytest.raises(Fault, match="PAGE_TOKEN_INVALID"):
            await api.call(user, api.conversations.ListMembers, request)
    for token in ("x", "é", "A" * 2_000, request.page_token[:-2]):
        request.page_token = token
        with pytest.raises(Fault, match="PAGE_TOKEN_INVALID"):
            await api.call(owner, api.conversations.ListMembers, request)
    request.page_token, request.page_size = "", -1
    with pytest.raises(Fault, match="INVALID_FIELD"):
        await api.call(owner, api.conversations.ListMembers, request)


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


async def test_what_is_not_offered_says_so(api: Api) -> None:
    (user,) = await names(api, 1)
    for method, request in (
        (api.conversations.SearchMessages, pb.SearchMessagesRequest()),
        (api.conversations.HideMessage, pb.HideMessageRequest()),
        (
            api.conversations.ListMessages,
            pb.ListMessagesRequest(conversation_id=1, thread_root_conversation_seq=1),
        ),
    ):
        with pytest.raises(Fault, match="UNIMPLEMENTED"):
            await api.call(user, method, request)


async def test_a_snapshot_is_as_of_one_position(api: Api) -> None:
    world = api.world
    hub, *others = await world.users(6)
    conversations = [await world.direct(hub, other) for other in others]
    for conversation in conversations:
        (last,) = await world.commit(world.row(hub, conversation))
        await world.ask("SELECT pg_sleep(0.002)")
    snapshots = Snapshots(world.store, api.parts.tokens)
    who = Caller("default", world.name_of(hub), hub, "")
    request = GetSnapshotRequest(page_size=2)
    found: list[int] = []
    while True:
        page = await snapshots.page(who, request)
        assert (page.as_of.timeline_seq, page.as_of.message_id) == (5, last.message_id)
        found += [one.conversation_id for one in page.conversations]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
        await world.commit(world.row(hub, conversations[0]))
    assert found == conversations[::-1]
    # what was committed meanwhile follows the position
    read = await world.store.timeline.read_entries(hub.id, 5, 10, 1 << 20)
    assert [row.timeline_seq for row in read.rows] == [6, 7]
    assert await world.store.timeline.cursor_matches(hub.id, 5, last.message_id)
