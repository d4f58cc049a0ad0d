"""ContactService and DeviceService over a real store."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from chat_svc.api.contacts import ContactApi
from chat_svc.store.bundle import ChatStore
from chat_svc.store.devices import START_OLDEST
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.postgres import Database, Lane
from chatmesh.v1 import contacts_pb2, devices_pb2
from chatmesh.v1.contacts_pb2 import UpdateContactRequest
from tests.chat_store.api import Api
from tests.chat_store.world import uuid7


async def act(api: Api, user: str, action: Any, other: str) -> Any:
    request = UpdateContactRequest(idempotency_key=uuid7(), user_id=other, action=action)
    return await api.call(user, api.contacts.UpdateContact, request)


async def test_contacts_come_and_go(api: Api) -> None:
    one, two = (api.world.name_of(a) for a in await api.world.users(2))
    asked = await act(api, one, UpdateContactRequest.ACTION_REQUEST, two)
    assert asked.contact.state == contacts_pb2.CONTACT_STATE_REQUESTED
    assert len(api.published[-1][1]) == 2
    assert len(api.refreshed) >= 2
    accepted = await act(api, two, UpdateContactRequest.ACTION_ACCEPT, one)
    assert accepted.contact.state == contacts_pb2.CONTACT_STATE_ACCEPTED
    blocked = await act(api, two, UpdateContactRequest.ACTION_BLOCK, one)
    assert blocked.contact.state == contacts_pb2.CONTACT_STATE_BLOCKED
    listed = await api.call(two, api.contacts.ListContacts, contacts_pb2.ListContactsRequest())
    assert list(listed.contacts) == []
    freed = await act(api, two, UpdateContactRequest.ACTION_UNBLOCK, one)
    assert not freed.HasField("contact")
    for action, other, reason in (
        (0, one, "INVALID_FIELD"),
        (UpdateContactRequest.ACTION_REQUEST, two, "INVALID_FIELD"),
        (UpdateContactRequest.ACTION_REQUEST, "nobody", "NOT_REACHABLE"),
        (UpdateContactRequest.ACTION_ACCEPT, one, "NOT_FOUND"),
    ):
        with pytest.raises(Fault, match=reason):
            await act(api, two, action, other)


async def test_contacts_are_paged(api: Api) -> None:
    hub, *others = (api.world.name_of(a) for a in await api.world.users(4))
    for other in others:
        await act(api, hub, UpdateContactRequest.ACTION_REQUEST, other)
    request = contacts_pb2.ListContactsRequest(page_size=2)
    first = await api.call(hub, api.contacts.ListContacts, request)
    request.page_token = first.next_page_token
    second = await api.call(hub, api.contacts.ListContacts, request)
    assert [c.user_id for c in [*first.contacts, *second.contacts]] == others
    request.state = contacts_pb2.CONTACT_STATE_BLOCKED
    with pytest.raises(Fault, match="PAGE_TOKEN_INVALID"):
        await api.call(hub, api.contacts.ListContacts, request)


async def test_privacy(api: Api) -> None:
    (one,) = (api.world.name_of(a) for a in await api.world.users(1))
    nobody, contacts = contacts_pb2.AUDIENCE_NOBODY, contacts_pb2.AUDIENCE_CONTACTS
    request = contacts_pb2.UpdatePrivacyRequest()
    read = await api.call(one, api.contacts.UpdatePrivacy, request)
    assert read.privacy.last_seen == contacts
    request.privacy.last_seen = nobody
    await api.call(one, api.contacts.UpdatePrivacy, request)
    read = await api.call(one, api.contacts.UpdatePrivacy, contacts_pb2.UpdatePrivacyRequest())
    assert (read.privacy.last_seen, read.privacy.presence) == (nobody, contacts)
    request.privacy.presence = 7  # type: ignore[assignment]
    with pytest.raises(Fault, match="INVALID_FIELD"):
        await api.call(one, api.contacts.UpdatePrivacy, request)
    with pytest.raises(Fault, match="UNIMPLEMENTED"):
        await api.call(
            one, api.contacts.GetPresence, contacts_pb2.GetPresenceRequest(user_ids=["x"])
        )


async def test_push_tokens_belong_to_a_device_of_the_caller(api: Api) -> None:
    world = api.world
    one, two = await world.users(2)
    for account in (one, two):
        await world.store.devices.open_session(
            account.id, "phone", 1, "mine", 1, None, START_OLDEST
        )

    def binding(**fields: Any) -> devices_pb2.RegisterPushTokenRequest:
        values = {"device_id": "phone", "provider": 5, "token": "t", **fields}
        return devices_pb2.RegisterPushTokenRequest(token=devices_pb2.PushToken(**values))

    async def pushable(account: int) -> int:
        found = await world.ask(
            "SELECT push_devices FROM chat.timeline_head WHERE account = %s", account
        )
        return int(found[0][0])

    register = api.devices.RegisterPushToken
    await api.call(world.name_of(one), register, binding())
    assert await pushable(one.id) == 1
    await api.call(world.name_of(two), register, binding())
    assert (await pushable(one.id), await pushable(two.id)) == (0, 1)
    listed = await api.call(
        world.name_of(two), api.devices.ListDevices, devices_pb2.ListDevicesRequest()
    )
    assert [(d.device_id, d.push_provider, d.name) for d in listed.devices] == [
        ("phone", devices_pb2.PUSH_PROVIDER_LOG, "mine")
    ]
    for bad, reason in (
        (binding(device_id="other"), "DEVICE_UNKNOWN"),
        (binding(device_id="no spaces"), "BAD_DEVICE_ID"),
        (binding(provider=0), "PROVIDER_UNKNOWN"),
        (binding(provider=99), "PROVIDER_UNKNOWN"),
        (binding(token=""), "PUSH_TOKEN_INVALID"),
        (binding(token="x" * 4_097), "PUSH_TOKEN_INVALID"),
        (binding(locale="x" * 36), "INVALID_FIELD"),
    ):
        with pytest.raises(Fault, match=reason):
            await api.call(world.name_of(two), register, bad)
    with pytest.raises(Fault, match="SCOPE_REQUIRED"):
        await api.call(
            world.name_of(one),
            register,
            binding(),
            scopes=["chatmesh.act_as"],
            chatmesh_on_behalf_of=world.name_of(two),
        )
    unregister = devices_pb2.UnregisterPushTokenRequest(device_id="phone")
    await api.call(world.name_of(two), api.devices.UnregisterPushToken, unregister)
    assert await pushable(two.id) == 0


async def test_signing_out_ends_everything_of_a_device(api: Api) -> None:
    world = api.world
    (one,) = await world.users(1)
    me = world.name_of(one)
    node = await world.store.nodes.start_node("a", "127.0.0.1:9", 60_000)
    for device in ("a", "b", "c"):
        await world.store.devices.open_session(one.id, device, 1, "", node, None, START_OLDEST)
    token = devices_pb2.PushToken(
        device_id="a", provider=devices_pb2.PUSH_PROVIDER_LOG, token="sign-out"
    )
    await api.call(
        me, api.devices.RegisterPushToken, devices_pb2.RegisterPushTokenRequest(token=token)
    )
    answer = await api.call(me, api.devices.SignOut, devices_pb2.SignOutRequest(device_id="a"))
    assert answer.devices == 1
    assert (api.ended[-1].device_id, api.ended[-1].node_target) == ("a", "127.0.0.1:9")
    assert (one.id, "a") not in api.push.tokens
    for request, reason in (
        (devices_pb2.SignOutRequest(device_id="a"), "DEVICE_UNKNOWN"),
        (devices_pb2.SignOutRequest(), "INVALID_FIELD"),
    ):
        with pytest.raises(Fault, match=reason):
            await api.call(me, api.devices.SignOut, request)
    answer = await api.call(me, api.devices.SignOut, devices_pb2.SignOutRequest(all=True))
    assert answer.devices == 2
    answer = await api.call(me, api.devices.SignOut, devices_pb2.SignOutRequest(all=True))
    assert answer.devices == 0


async def test_loudness(api: Api) -> None:
    (one,) = (api.world.name_of(a) for a in await api.world.users(1))

    async def update(**fields: Any) -> Any:
        request = devices_pb2.UpdateNotificationSettingsRequest(**fields)
        return await api.call(one, api.devices.UpdateNotificationSettings, request)

    read = await update()
    assert (read.mute, read.quiet_start_minute, read.time_zone) == (1, 0, "")
    await update(mute=2, quiet_start_minute=1_320, quiet_end_minute=420, time_zone="Asia/Tokyo")
    read = await update()
    assert (read.mute, read.quiet_start_minute, read.quiet_end_minute, read.time_zone) == (
        2,
        1_320,
        420,
        "Asia/Tokyo",
    )
    for bad in (
        {"mute": 8},
        {"quiet_start_minute": 1_440},
        {"quiet_end_minute": -1},
        {"time_zone": "no/where"},
        {"time_zone": "../../etc/passwd"},
    ):
        with pytest.raises(Fault, match="INVALID_FIELD"):
            await update(**bad)


async def test_connections_that_died_are_nobodys_problem(api: Api) -> None:
    (one,) = (api.world.name_of(a) for a in await api.world.users(1))
    await api.world.ask(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    for _ in range(4):
        read = await api.call(one, api.contacts.UpdatePrivacy, contacts_pb2.UpdatePrivacyRequest())
        assert read.privacy.presence == contacts_pb2.AUDIENCE_CONTACTS


async def test_a_store_that_is_away_is_said_as_such(api: Api) -> None:
    (one,) = (api.world.name_of(a) for a in await api.world.users(1))
    request = contacts_pb2.ListContactsRequest()
    await api.call(one, api.contacts.ListContacts, request)  # the account is known by now
    async with Database(
        "postgresql://nobody@/none?host=/nowhere", role_name="", readiness=None
    ) as database:
        store = ChatStore.on(database, Lane("postgresql:///", role_name="", name="none"))
        away = ContactApi(dataclasses.replace(api.parts, store=store))
        with pytest.raises(Fault, match="UNAVAILABLE NOT_SERVING"):
            await api.call(one, away.ListContacts, request)
