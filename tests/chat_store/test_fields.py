"""Times and rules that the contract names: when somebody came, was seen, when a conversation was
active, and a group that anyone joins."""

from __future__ import annotations

from typing import Any

import pytest

from chat_svc.store.accounts import AccountRow
from chatmesh.runtime.faults import Fault
from chatmesh.v1 import conversations_pb2 as pb
from chatmesh.v1 import devices_pb2
from chatmesh.v1.types_pb2 import (
    MEMBERSHIP_CHANGE_ADDED,
    MEMBERSHIP_CHANGE_LEFT,
    MEMBERSHIP_CHANGE_REMOVED,
    Conversation,
    ConversationPolicy,
    Member,
)
from tests.chat_store.api import Api, create, names
from tests.chat_store.world import NODE, World, uuid7


async def now_ms(world: World) -> int:
    ((now,),) = await world.ask("SELECT chat.now_ms()")
    return int(now)


async def change(api: Api, user: str, number: int, kind: Any, *users: str) -> None:
    request = pb.ChangeMembersRequest(
        conversation_id=number, change=kind, user_ids=users, idempotency_key=uuid7()
    )
    await api.call(user, api.conversations.ChangeMembers, request)


async def members(api: Api, user: str, number: int) -> dict[str, Member]:
    answer = await api.call(
        user, api.conversations.ListMembers, pb.ListMembersRequest(conversation_id=number)
    )
    return {member.user_id: member for member in answer.members}


async def seen(api: Api, user: str, number: int) -> Conversation:
    answer = await api.call(
        user, api.conversations.GetConversation, pb.GetConversationRequest(conversation_id=number)
    )
    found: Conversation = answer.conversation
    return found


async def test_anyone_of_the_tenant_joins_an_open_group(api: Api) -> None:
    owner, guest, other = await names(api, 3)
    (foreign,) = await names(api, 1, "elsewhere")
    policy = ConversationPolicy(join=ConversationPolicy.JOIN_OPEN)
    opened = (await create(api, owner, policy=policy)).conversation_id
    closed = (await create(api, owner)).conversation_id
    await change(api, guest, opened, MEMBERSHIP_CHANGE_ADDED, guest)
    assert set(await members(api, guest, opened)) == {owner, guest}
    await change(api, guest, opened, MEMBERSHIP_CHANGE_ADDED, other)  # members may add, too
    with pytest.raises(Fault, match="NOT_FOUND"):
        await change(api, guest, closed, MEMBERSHIP_CHANGE_ADDED, guest)
    request = pb.ChangeMembersRequest(
        conversation_id=opened,
        change=MEMBERSHIP_CHANGE_ADDED,
        user_ids=[foreign],
        idempotency_key=uuid7(),
    )
    with pytest.raises(Fault, match="NOT_FOUND"):
        await api.call(foreign, api.conversations.ChangeMembers, request, tenant="elsewhere")
    assert set(await members(api, owner, opened)) == {owner, guest, other}


async def test_who_came_again_joined_then(api: Api) -> None:
    owner, guest = await names(api, 2)
    begun = await now_ms(api.world)
    number = (await create(api, owner, guest)).conversation_id
    first = await members(api, owner, number)
    assert begun <= first[owner].joined_at_ms <= first[guest].joined_at_ms
    await change(api, guest, number, MEMBERSHIP_CHANGE_LEFT, guest)
    await api.world.ask("SELECT pg_sleep(0.002)")  # another millisecond
    await change(api, owner, number, MEMBERSHIP_CHANGE_ADDED, guest)
    again = await members(api, owner, number)
    assert first[guest].joined_at_ms < again[guest].joined_at_ms <= await now_ms(api.world)
    assert again[owner].joined_at_ms == first[owner].joined_at_ms
    await change(api, owner, number, MEMBERSHIP_CHANGE_REMOVED, guest)
    assert guest not in await members(api, owner, number)


async def test_every_event_makes_a_conversation_active(api: Api) -> None:
    world = api.world
    one, two = await world.users(2)
    number = await world.group(one, two)
    user = world.name_of(two)
    made = (await seen(api, user, number)).active_at_ms
    assert 0 < made <= await now_ms(world)
    await world.ask("SELECT pg_sleep(0.002)")
    (outcome,) = await world.commit(world.row(one, number))
    assert (await seen(api, user, number)).active_at_ms == outcome.created_at_ms > made
    await world.ask("SELECT pg_sleep(0.002)")
    (pin,) = await world.commit(world.row(one, number, kind=6, flags=0, target_seq=3))  # type: ignore[arg-type]
    after = await seen(api, user, number)
    assert after.active_at_ms == pin.created_at_ms > outcome.created_at_ms
    assert after.last_message.created_at_ms == outcome.created_at_ms


async def test_a_device_was_seen_when_its_session_last_opened(api: Api) -> None:
    world = api.world
    (account,) = await world.users(1)

    async def hello(device: str) -> None:
        await world.store.devices.open_session(account.id, device, 1, "", NODE, None, 1)

    async def devices(owner: AccountRow) -> dict[str, int]:
        answer = await api.call(
            world.name_of(owner), api.devices.ListDevices, devices_pb2.ListDevicesRequest()
        )
        return {device.device_id: device.seen_at_ms for device in answer.devices}

    begun = await now_ms(world)
    await hello("phone")
    await world.ask("SELECT pg_sleep(0.002)")
    await hello("laptop")
    first = await devices(account)
    assert list(first) == ["laptop", "phone"], "the one that was seen last comes first"
    assert begun <= first["phone"] < first["laptop"] <= await now_ms(world)
    await world.ask("SELECT pg_sleep(0.002)")
    await hello("phone")
    again = await devices(account)
    assert list(again) == ["phone", "laptop"]
    assert again["phone"] > first["laptop"] == again["laptop"]
