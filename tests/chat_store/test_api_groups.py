"""Groups over ConversationService and a real store: made, changed, listed."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from chat_svc.api.conversations import ConversationApi
from chat_svc.node.tasks import Tasks
from chat_svc.store.bundle import ChatStore
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.postgres import LostConnection
from chatmesh.v1 import conversations_pb2 as pb
from chatmesh.v1.types_pb2 import (
    MEMBER_ROLE_OWNER,
    MEMBERSHIP_CHANGE_ADDED,
    MEMBERSHIP_CHANGE_LEFT,
    ConversationPolicy,
)
from tests.chat_store.api import Api, create, names
from tests.chat_store.world import uuid7


def with_create_group(store: ChatStore, create_group: Any) -> ChatStore:
    """The store, with something in the way of new groups."""
    govern: Any = SimpleNamespace(create_group=create_group)
    return dataclasses.replace(store, govern=govern)


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
