"""Delete for me, and the other events of an account's own log: told to all of its own devices."""

from __future__ import annotations

import pytest

from chat_svc.store.accounts import AccountRow
from chatmesh.runtime.faults import Fault
from chatmesh.v1 import contacts_pb2, conversations_pb2, devices_pb2
from chatmesh.v1.types_pb2 import MUTE_LEVEL_ALL, AccountContent, Event
from tests.chat_store.api import Api
from tests.chat_store.world import World


async def log(world: World, account: AccountRow) -> list[AccountContent]:
    """What an account's own log says."""
    read = await world.store.timeline.read_entries(account.id, 0, 1_000, 1 << 20)
    contents = [Event.FromString(row.body).content for row in read.rows]
    return [content.account for content in contents if content.HasField("account")]


async def hide(api: Api, account: AccountRow, conversation: int, seq: int) -> None:
    request = conversations_pb2.HideMessageRequest(
        conversation_id=conversation, conversation_seq=seq
    )
    user = api.world.name_of(account)
    assert await api.call(user, api.conversations.HideMessage, request) is not None


async def history(api: Api, account: AccountRow, conversation: int) -> list[int]:
    seen = []
    for forward in (False, True):
        answer = await api.call(
            api.world.name_of(account),
            api.conversations.ListMessages,
            conversations_pb2.ListMessagesRequest(conversation_id=conversation, forward=forward),
        )
        seen.append([message.conversation_seq for message in answer.messages])
    assert seen[0] == seen[1]
    return seen[0]


async def test_a_hidden_message_is_gone_for_its_owner_alone(api: Api) -> None:
    world = api.world
    one, two = await world.users(2)
    conversation = await world.direct(one, two)
    await world.commit(*(world.row(one, conversation, str(n)) for n in range(1, 4)))
    told, published = len(api.told), len(api.published)
    await hide(api, two, conversation, 3)
    await hide(api, two, conversation, 3)
    assert api.told[told:] == [two.id]
    assert len(api.published) == published + 1
    (event,) = api.published[-1][1]
    assert [r.account for r in event.outcome.recipients] == [two.id]
    (said,) = await log(world, two)
    assert (said.subject, said.conversation_id, said.conversation_seq) == (
        "hidden",
        conversation,
        3,
    )
    assert await log(world, one) == []
    assert await history(api, two, conversation) == [1, 2]
    assert await history(api, one, conversation) == [1, 2, 3]
    view = await world.store.conversations.view(two.id, conversation)
    assert view is not None
    assert view.last_message is not None
    assert (view.last_message.conversation_seq, view.state.unread) == (2, 2)
    # a device that comes later never sees it; its entry leaves no hole
    read = await world.store.timeline.read_entries(two.id, 0, 10, 1 << 20)
    assert [(row.timeline_seq, bool(row.body)) for row in read.rows] == [
        (1, True),
        (2, True),
        (3, False),
        (4, True),
    ]
    await world.assert_contiguous()


async def test_only_what_one_may_read_can_be_hidden(api: Api) -> None:
    world = api.world
    one, two, stranger = await world.users(3)
    (foreign,) = await world.users(1, tenant="elsewhere")
    conversation = await world.direct(one, two)
    await world.commit(world.row(one, conversation), world.row(one, conversation, flags=0))
    for account, seq in ((stranger, 1), (two, 0), (two, 2), (two, 3)):
        with pytest.raises(Fault, match="NOT_FOUND"):
            await hide(api, account, conversation, seq)
    request = conversations_pb2.HideMessageRequest(conversation_id=conversation, conversation_seq=1)
    with pytest.raises(Fault, match="NOT_FOUND"):
        await api.call(
            world.name_of(foreign), api.conversations.HideMessage, request, tenant="elsewhere"
        )
    assert await world.ask("SELECT 1 FROM chat.hidden WHERE conversation = %s", conversation) == []
    assert [await log(world, account) for account in (one, two, stranger)] == [[], [], []]


async def test_settings_and_sign_outs_are_told_to_the_own_devices(api: Api) -> None:
    world = api.world
    one, two = await world.users(2)
    await world.direct(one, two)
    user = world.name_of(one)
    privacy = contacts_pb2.UpdatePrivacyRequest(
        privacy=contacts_pb2.PrivacySettings(typing=contacts_pb2.AUDIENCE_NOBODY)
    )
    for request in (contacts_pb2.UpdatePrivacyRequest(), privacy):
        await api.call(user, api.contacts.UpdatePrivacy, request)
    loudness = devices_pb2.UpdateNotificationSettingsRequest(mute=MUTE_LEVEL_ALL)
    for _ in range(2):  # the second changes nothing
        await api.call(user, api.devices.UpdateNotificationSettings, loudness)
    await world.store.devices.open_session(one.id, "phone", 1, "", 1, None, 1)
    await api.call(user, api.devices.SignOut, devices_pb2.SignOutRequest(device_id="phone"))
    assert [(said.subject, said.user_id, said.state) for said in await log(world, one)] == [
        ("privacy", "", "updated"),
        ("mutes", "", "updated"),
        ("devices", "", "signed_out"),
    ]
    assert await log(world, two) == []
    await world.assert_contiguous()
