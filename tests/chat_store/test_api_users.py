"""UserService over a real store: scope, tenant, standing, and the log of it."""

from typing import Any

import psycopg
import pytest
from psycopg import sql

from chat_svc.api import users as users_api
from chat_svc.core.audit import AuditRow, first_broken
from chat_svc.store import erasure
from chat_svc.store.accounts import AccountStore
from chat_svc.store.audit import AuditFilter
from chat_svc.store.bundle import ROLE
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.identity import Identity
from chatmesh.v1 import contacts_pb2, conversations_pb2, devices_pb2, types_pb2, users_pb2
from chatmesh.v1.types_pb2 import SENDER_KIND_BOT, SENDER_KIND_PERSON, SENDER_KIND_SYSTEM
from tests.chat_store.api import Api
from tests.chat_store.world import World, uuid7

ADMIN = ("chatmesh.admin",)
BACK_END = "back end"


async def manage(api: Api, method: Any, request: Any, *, tenant: str = "default") -> Any:
    return await api.call(BACK_END, method, request, tenant=tenant, scopes=ADMIN)


async def refusal(api: Api, user: str, method: Any, request: Any, **options: Any) -> str:
    with pytest.raises(Fault) as refused:
        await api.call(user, method, request, **options)
    return refused.value.reason


async def records(world: World, tenant_id: int) -> list[AuditRow]:
    return await world.store.audit.list(tenant_id, AuditFilter(), 10_000)


def requests(api: Api, user: str) -> list[tuple[Any, Any]]:
    """Every method of the service."""
    users = api.users
    return [
        (users.GetUser, users_pb2.GetUserRequest(user_id=user)),
        (users.UpdateUser, users_pb2.UpdateUserRequest(user_id=user, kind=SENDER_KIND_BOT)),
        (users.DisableUser, users_pb2.DisableUserRequest(user_id=user)),
        (users.EnableUser, users_pb2.EnableUserRequest(user_id=user)),
        (users.RevokeTokens, users_pb2.RevokeTokensRequest(user_id=user)),
        (users.DeleteUser, users_pb2.DeleteUserRequest(user_id=user)),
        (users.ListAuditRecords, users_pb2.ListAuditRecordsRequest()),
    ]


async def test_every_method_is_tried(api: Api) -> None:
    service = users_pb2.DESCRIPTOR.services_by_name["UserService"]
    tried = {method.__name__ for method, _ in requests(api, "x")}
    assert tried == {method.name for method in service.methods}


async def test_without_the_scope_nothing_is_answered(api: Api, world: World) -> None:
    (victim,) = await world.users(1)
    name = world.name_of(victim)
    for method, request in requests(api, name):
        for scopes in ((), ("chatmesh.act_as",), ("admin",)):
            assert await refusal(api, "mallory", method, request, scopes=scopes) == "SCOPE_REQUIRED"
        reason = await refusal(
            api, "mallory", method, request, scopes=("chatmesh.admin", "chatmesh.act_as"),
            chatmesh_on_behalf_of=name,
        )  # fmt: skip
        assert reason == "SCOPE_REQUIRED"
    user = await world.store.users.get("default", name)
    assert user is not None
    assert not user.disabled
    assert user.kind == SENDER_KIND_PERSON


async def test_users_of_other_tenants_are_unknown(api: Api, world: World) -> None:
    (foreign,) = await world.users(1, tenant="elsewhere")
    name = world.name_of(foreign)
    for method, request in requests(api, name):
        if method.__name__ in ("UpdateUser", "ListAuditRecords", "DeleteUser"):
            continue
        for asked in (request, type(request)(user_id="nobody"), type(request)(user_id="a\0")):
            reason = await refusal(api, BACK_END, method, asked, scopes=ADMIN)
            assert reason == "NOT_REACHABLE"
    # naming one makes one of the own tenant, and touches nobody else's
    update = users_pb2.UpdateUserRequest(user_id=name, kind=SENDER_KIND_BOT)
    await manage(api, api.users.UpdateUser, update)
    theirs = await world.store.users.get("elsewhere", name)
    ours = await world.store.users.get("default", name)
    assert theirs is not None
    assert ours is not None
    assert (theirs.kind, ours.kind) == (SENDER_KIND_PERSON, SENDER_KIND_BOT)
    assert theirs.account != ours.account


async def test_a_user_is_made_and_changed(api: Api) -> None:
    async def update(**fields: Any) -> users_pb2.User:
        request = users_pb2.UpdateUserRequest(**fields)
        answer: users_pb2.UpdateUserResponse = await manage(api, api.users.UpdateUser, request)
        return answer.user

    made = await update(user_id="new one")
    assert (made.user_id, made.kind, made.disabled) == ("new one", SENDER_KIND_PERSON, False)
    assert made.created_at_ms > 0
    assert (await update(user_id="new one", kind=SENDER_KIND_BOT)).kind == SENDER_KIND_BOT
    assert (await update(user_id="new one")).kind == SENDER_KIND_BOT
    for fields in (
        {"user_id": ""}, {"user_id": "a\n"}, {"user_id": "a" * 129},
        {"user_id": "new one", "kind": SENDER_KIND_SYSTEM}, {"user_id": "new one", "kind": 77},
    ):  # fmt: skip
        request = users_pb2.UpdateUserRequest(**fields)
        reason = await refusal(api, BACK_END, api.users.UpdateUser, request, scopes=ADMIN)
        assert reason == "INVALID_FIELD"


async def test_a_disabled_user_is_refused_and_reached_by_nobody(api: Api, world: World) -> None:
    off, other = await world.users(2)
    name = world.name_of(off)
    listing = contacts_pb2.ListContactsRequest()
    await api.call(name, api.contacts.ListContacts, listing)
    for _ in range(2):  # again changes nothing
        disable = users_pb2.DisableUserRequest(user_id=name)
        await manage(api, api.users.DisableUser, disable)
    assert api.restated[-1] == off.id
    assert await refusal(api, name, api.contacts.ListContacts, listing) == "USER_DISABLED"
    for method, request in requests(api, world.name_of(other)):  # an administrator as well
        assert await refusal(api, name, method, request, scopes=ADMIN) == "USER_DISABLED"
    acting = await refusal(
        api, BACK_END, api.contacts.ListContacts, listing, scopes=("chatmesh.act_as",),
        chatmesh_on_behalf_of=name,
    )  # fmt: skip
    assert acting == "NOT_REACHABLE"
    conversation = await world.direct(off, other)
    (outcome,) = await world.commit(world.row(other, conversation))
    assert outcome.status == 4
    await manage(api, api.users.EnableUser, users_pb2.EnableUserRequest(user_id=name))
    await api.call(name, api.contacts.ListContacts, listing)
    (outcome,) = await world.commit(world.row(other, conversation))
    assert outcome.status == 0
    told = [row.detail for row in await records(world, off.tenant_id) if row.user == name]
    assert told == ["DisableUser", "EnableUser"]


async def test_nobody_switches_themself_off(api: Api) -> None:
    for method, request in (
        (api.users.DisableUser, users_pb2.DisableUserRequest(user_id=BACK_END)),
        (api.users.DeleteUser, users_pb2.DeleteUserRequest(user_id=BACK_END)),
    ):
        assert await refusal(api, BACK_END, method, request, scopes=ADMIN) == "INVALID_FIELD"
    await manage(api, api.users.GetUser, users_pb2.GetUserRequest(user_id=BACK_END))


async def test_revoked_tokens_are_refused_and_newer_ones_are_not(api: Api, world: World) -> None:
    (user,) = await world.users(1)
    name = world.name_of(user)
    listing = contacts_pb2.ListContactsRequest()
    for issued in (0, 1_000, None):
        await api.call(name, api.contacts.ListContacts, listing, issued_at_ms=issued)
    request = users_pb2.RevokeTokensRequest(user_id=name)
    before = (await manage(api, api.users.RevokeTokens, request)).not_before_ms
    for issued in (0, 1_000, before - 1):  # 0: a token that does not say when it was issued
        reason = await refusal(api, name, api.contacts.ListContacts, listing, issued_at_ms=issued)
        assert reason == "TOKEN_REVOKED"
    await api.call(name, api.contacts.ListContacts, listing, issued_at_ms=before)
    again = (await manage(api, api.users.RevokeTokens, request)).not_before_ms
    assert again >= before


async def test_the_log_is_a_chain_that_shows_every_change(world: World, api: Api) -> None:
    tenant = "chained"
    tenant_id = await world.store.audit.tenant_id(tenant)
    for number in range(12):
        request = users_pb2.UpdateUserRequest(user_id=f"bot {number}", kind=SENDER_KIND_BOT)
        await manage(api, api.users.UpdateUser, request, tenant=tenant)
    rows = await records(world, tenant_id)
    assert [row.record_no for row in rows] == list(range(1, 13))
    assert first_broken(rows) == 0
    assert first_broken(rows[3:]) == 0
    assert first_broken(rows[3:], rows[2].hash) == 0
    assert first_broken(rows[3:], rows[1].hash) == 4
    for change, broken in (
        ("UPDATE chat.audit SET detail = 'nothing' WHERE tenant = %s AND record_no = 5", 5),
        ("UPDATE chat.audit SET at_ms = at_ms - 1 WHERE tenant = %s AND record_no = 7", 7),
        ("UPDATE chat.audit SET hash = sha256('x') WHERE tenant = %s AND record_no = 8", 8),
        ("DELETE FROM chat.audit WHERE tenant = %s AND record_no = 9", 10),
    ):
        async with await psycopg.AsyncConnection.connect(world.url) as connection:
            await connection.execute(change, (tenant_id,))
            cursor = await connection.execute(
                "SELECT record_no, at_ms, action, actor, user_id, conversation, detail, hash"
                " FROM chat.audit WHERE tenant = %s ORDER BY record_no", (tenant_id,),
            )  # fmt: skip
            tampered = [AuditRow(*row) for row in await cursor.fetchall()]
            await connection.rollback()
        assert first_broken(tampered) == broken


async def test_the_service_can_neither_change_nor_remove_records(world: World, api: Api) -> None:
    await manage(api, api.users.ListAuditRecords, users_pb2.ListAuditRecordsRequest())
    for statement in (
        "UPDATE chat.audit SET detail = ''", "DELETE FROM chat.audit", "TRUNCATE chat.audit",
        "DROP TABLE chat.audit",
    ):  # fmt: skip
        async with await psycopg.AsyncConnection.connect(world.url) as connection:
            await connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(ROLE)))
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(statement)


async def test_the_log_is_read_by_page_and_its_reading_recorded(world: World, api: Api) -> None:
    tenant = "read by page"
    tenant_id = await world.store.audit.tenant_id(tenant)
    for number in range(5):
        for kind in (SENDER_KIND_BOT, SENDER_KIND_PERSON):
            request = users_pb2.UpdateUserRequest(user_id=f"user {number}", kind=kind)
            await manage(api, api.users.UpdateUser, request, tenant=tenant)

    async def read(**fields: Any) -> list[users_pb2.AuditRecord]:
        found: list[users_pb2.AuditRecord] = []
        token = ""
        while True:
            asked = users_pb2.ListAuditRecordsRequest(page_size=3, page_token=token, **fields)
            page = await manage(api, api.users.ListAuditRecords, asked, tenant=tenant)
            found += page.records
            token = page.next_page_token
            if not token:
                return found

    everything = await read()
    assert [record.record_no for record in everything] == list(range(1, 12))
    assert everything[-1].action == users_pb2.AUDIT_ACTION_AUDIT_READ
    assert {record.actor_id for record in everything} == {BACK_END}
    one = await read(user_id="user 3", action=users_pb2.AUDIT_ACTION_USER)
    assert [record.detail for record in one] == ["UpdateUser kind=bot", "UpdateUser kind=person"]
    assert [record.record_no for record in await read(after_record_no=11)] == [12, 13]
    assert await records(world, tenant_id + 1_000) == []
    reads = await read(action=users_pb2.AUDIT_ACTION_AUDIT_READ)
    assert len(reads) == 4
    other = users_pb2.ListAuditRecordsRequest()
    theirs = await manage(api, api.users.ListAuditRecords, other, tenant="another")
    assert [record.action for record in theirs.records] == [users_pb2.AUDIT_ACTION_AUDIT_READ]
    for fields, reason in (
        ({"page_token": "x"}, "PAGE_TOKEN_INVALID"), ({"page_size": -1}, "INVALID_FIELD"),
        ({"action": 99}, "INVALID_FIELD"), ({"user_id": "\0"}, "INVALID_FIELD"),
        ({"after_record_no": 1 << 63}, "INVALID_FIELD"),
    ):  # fmt: skip
        asked = users_pb2.ListAuditRecordsRequest(**fields)
        assert await refusal(api, BACK_END, api.users.ListAuditRecords, asked, scopes=ADMIN) == (
            reason
        )


async def test_acting_for_a_user_is_recorded_once_per_call(world: World, api: Api) -> None:
    (user,) = await world.users(1)
    name = world.name_of(user)
    for _ in range(2):
        await api.call(
            BACK_END, api.contacts.ListContacts, contacts_pb2.ListContactsRequest(),
            scopes=("chatmesh.act_as",), chatmesh_on_behalf_of=name,
        )  # fmt: skip
    told = [
        (row.action, row.actor) for row in await records(world, user.tenant_id) if row.user == name
    ]
    assert told == [(users_pb2.AUDIT_ACTION_ACTED_FOR, BACK_END)] * 2


async def test_refused_tokens_are_counted_once_a_minute(world: World) -> None:
    store = world.store.audit
    counts = [("TOKEN_EXPIRED", 3), ("TOKEN_INVALID", 4)]
    assert await store.append_refused("guarded", counts) == {"TOKEN_EXPIRED", "TOKEN_INVALID"}
    more = [("TOKEN_EXPIRED", 1), ("TOKEN_MISSING", 1)]
    assert await store.append_refused("guarded", more) == {"TOKEN_MISSING"}
    rows = await records(world, await store.tenant_id("guarded"))
    assert [row.detail for row in rows] == [
        "reason=TOKEN_EXPIRED count=3", "reason=TOKEN_INVALID count=4",
        "reason=TOKEN_MISSING count=1",
    ]  # fmt: skip
    assert first_broken(rows) == 0


async def test_old_records_are_cut_and_the_rest_still_holds(world: World) -> None:
    store = world.store.audit
    tenant_id = await store.tenant_id("old")
    for reason in ("ONE", "TWO", "THREE"):
        await store.append_refused("old", [(reason, 1)])
    await world.ask(
        "UPDATE chat.audit SET at_ms = at_ms - 40 * 86400000::bigint WHERE tenant = %s", tenant_id
    )
    assert await store.trim(50, 100) == 0
    assert await store.trim(1, 1) == 1
    assert await store.trim(1, 100) == 1  # the newest stays: the next one hangs on it
    await store.append_refused("old", [("FOUR", 1)])
    rows = await records(world, tenant_id)
    assert [row.record_no for row in rows] == [3, 4]


async def test_who_came_went_blocked_and_signed_out_is_recorded_once(
    world: World, api: Api
) -> None:
    tenant = "recorded"
    owner, guest, other = await world.users(3, tenant=tenant)
    one, two, three = (world.name_of(user) for user in (owner, guest, other))

    async def ask(user: str, method: Any, request: Any, **options: Any) -> Any:
        return await api.call(user, method, request, tenant=tenant, **options)

    create = conversations_pb2.CreateConversationRequest(
        idempotency_key=uuid7(), title="a secret title", member_user_ids=[two]
    )
    made = await ask(one, api.conversations.CreateConversation, create)
    await ask(one, api.conversations.CreateConversation, create)  # the same key: no second event
    number = made.conversation.conversation_id
    for change, user, role in (
        (types_pb2.MEMBERSHIP_CHANGE_ADDED, three, types_pb2.MEMBER_ROLE_UNSPECIFIED),
        (types_pb2.MEMBERSHIP_CHANGE_ROLE, three, types_pb2.MEMBER_ROLE_ADMIN),
        (types_pb2.MEMBERSHIP_CHANGE_REMOVED, two, types_pb2.MEMBER_ROLE_UNSPECIFIED),
    ):
        changed = conversations_pb2.ChangeMembersRequest(
            idempotency_key=uuid7(), conversation_id=number, change=change, user_ids=[user],
            role=role,
        )  # fmt: skip
        await ask(one, api.conversations.ChangeMembers, changed)
    asked = contacts_pb2.UpdateContactRequest
    for action in (asked.ACTION_BLOCK, asked.ACTION_UNBLOCK):
        update = asked(idempotency_key=uuid7(), user_id=two, action=action)
        acting: dict[str, Any] = {"scopes": ("chatmesh.act_as",), "chatmesh_on_behalf_of": one}
        await ask(BACK_END, api.contacts.UpdateContact, update, **acting)
    await world.store.devices.open_session(owner.id, "secret-phone", 1, "", 1, None, 1)
    token = devices_pb2.PushToken(
        device_id="secret-phone", provider=devices_pb2.PUSH_PROVIDER_LOG, token="secret token"
    )
    register = devices_pb2.RegisterPushTokenRequest(token=token)
    await ask(one, api.devices.RegisterPushToken, register)
    sign_out = devices_pb2.SignOutRequest(all=True)
    await ask(one, api.devices.SignOut, sign_out)
    await ask(one, api.devices.SignOut, sign_out)  # nothing is left to sign out
    rows = await records(world, owner.tenant_id)
    membership, block, device, acted = (
        users_pb2.AUDIT_ACTION_MEMBERSHIP, users_pb2.AUDIT_ACTION_BLOCK,
        users_pb2.AUDIT_ACTION_DEVICE, users_pb2.AUDIT_ACTION_ACTED_FOR,
    )  # fmt: skip
    assert [(row.action, row.actor, row.user, row.conversation, row.detail) for row in rows] == [
        (membership, one, two, number, "CreateConversation added"),
        (membership, one, three, number, "ChangeMembers added"),
        (membership, one, three, number, "ChangeMembers role role=admin"),
        (membership, one, two, number, "ChangeMembers removed"),
        (acted, BACK_END, one, 0, ""),
        (block, BACK_END, two, 0, "UpdateContact action=block"),
        (acted, BACK_END, one, 0, ""),
        (block, BACK_END, two, 0, "UpdateContact action=unblock"),
        (device, one, one, 0, "RegisterPushToken"),
        (device, one, one, 0, "SignOut devices=1"),
    ]
    assert first_broken(rows) == 0
    assert "secret" not in str(rows)


async def test_nothing_notifies_a_disabled_user(world: World, api: Api) -> None:
    off, other = await world.users(2)
    await world.store.devices.open_session(off.id, "phone", 1, "", 1, None, 1)
    await world.commit(world.row(other, await world.direct(off, other)))
    (state,) = await world.store.push_state.push_state([(off.id, "phone")])
    assert (state.notify_seq, state.badge, len(state.pending)) == (1, 1, 1)
    disable = users_pb2.DisableUserRequest(user_id=world.name_of(off))
    await manage(api, api.users.DisableUser, disable)
    (state,) = await world.store.push_state.push_state([(off.id, "phone")])
    assert (state.exists, state.notify_seq, state.badge, state.pending) == (True, 0, 0, [])


async def test_a_deleted_user_leaves_groups_whole_and_a_large_past_takes_many_calls(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "EVENTS_AT_ONCE", 7)
    monkeypatch.setattr(erasure, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(erasure, "MEMBERS_AT_ONCE", 1)
    monkeypatch.setattr(users_api, "MAX_ERASING_WORK", 10)
    gone, heir, third = await world.users(3)
    name = world.name_of(gone)
    led = await world.group(gone, heir, third)
    alone = await world.group(gone)
    joined = await world.group(heir, gone)
    direct = await world.direct(gone, heir)
    keys = [uuid7() for _ in range(20)]
    for number, key in enumerate(keys):
        place = (led, alone, joined, direct)[number % 4]
        await world.commit(world.row(gone, place, f"secret {number}", key=key))
        await world.commit(world.row(heir, joined, "kept"))
    request = users_pb2.DeleteUserRequest(user_id=name)
    erased, calls = 0, 0
    while True:
        answer = await manage(api, api.users.DeleteUser, request)
        erased, calls = erased + answer.erased_messages, calls + 1
        if answer.done:
            break
    assert calls > 5
    assert erased == 20
    bodies = await world.ask(
        "SELECT count(*) FROM chat.event WHERE sender = %s AND body <> ''", gone.id
    )
    assert bodies == [(0,)]
    left = await world.ask("SELECT count(*) FROM chat.idempotency_key WHERE sender = %s", gone.id)
    assert left == [(0,)]
    for table, column in (
        ("account", "id"), ("member", "account"), ("member_interval", "account"),
        ("timeline", "account"), ("contact", "other"), ("contact", "owner"), ("erasure", "account"),
    ):  # fmt: skip
        query = sql.SQL("SELECT count(*) FROM {} WHERE {} = %s").format(
            sql.Identifier("chat", table), sql.Identifier(column)
        )
        assert await world.ask(query, gone.id) == [(0,)], table  # type: ignore[arg-type]
    roles = await world.ask(
        "SELECT account, role FROM chat.member WHERE conversation = %s ORDER BY account", led
    )
    assert roles == [(heir.id, 3), (third.id, 1)]
    counts = await world.ask(
        "SELECT id, member_count, title FROM chat.conversation WHERE id = ANY (%s) ORDER BY id",
        [led, alone, joined],
    )
    assert counts == [(led, 2, "group"), (alone, 0, ""), (joined, 1, "group")]
    (outcome,) = await world.commit(world.row(heir, direct))
    assert outcome.status == 4
    (outcome,) = await world.commit(world.row(heir, led))
    assert outcome.status == 0
    told = [row for row in await records(world, gone.tenant_id) if row.action == 7]
    assert [(row.actor, row.user) for row in told] == [(BACK_END, "")]
    assert name not in str(await records(world, gone.tenant_id))
    assert await refusal(api, BACK_END, api.users.DeleteUser, request, scopes=ADMIN) == (
        "NOT_REACHABLE"
    )
    kept = await world.ask(
        "SELECT count(*) FROM chat.event WHERE sender = %s AND body = ''", heir.id
    )
    assert kept == [(0,)]


async def test_a_namesake_of_another_tenant_keeps_everything(world: World, api: Api) -> None:
    name = "namesake"
    for tenant in ("first house", "second house"):
        users = ["admin", name]
        made = await world.store.accounts.resolve_accounts(tenant, users, True, world.new_ids)
        one, other = made["admin"], made[name]
        pair = (min(one.id, other.id), max(one.id, other.id))
        directs = await world.store.conversations.direct_conversations(
            one.tenant_id, [pair], world.new_ids
        )
        body = types_pb2.Event(
            content=types_pb2.Content(text=types_pb2.TextContent(body="hello")),
            mention_user_ids=[name],
        ).SerializeToString()
        await world.commit(
            world.row(one, directs[pair], body=body), world.row(other, directs[pair], "mine")
        )
    request = users_pb2.DeleteUserRequest(user_id=name)
    answer = await manage(api, api.users.DeleteUser, request, tenant="first house")
    assert (answer.done, answer.erased_messages) == (True, 1)
    for tenant, mentions, bodies in (("first house", 0, 1), ("second house", 1, 2)):
        rows = await world.ask(
            "SELECT e.body FROM chat.event e JOIN chat.conversation c ON c.id = e.conversation"
            " JOIN chat.tenant t ON t.id = c.tenant WHERE t.name = %s AND e.body <> ''", tenant,
        )  # fmt: skip
        events = [types_pb2.Event.FromString(body) for (body,) in rows]
        assert len(events) == bodies
        assert sum(len(event.mention_user_ids) for event in events) == mentions
    assert await world.store.users.get("second house", name) is not None


async def test_who_comes_again_is_admitted_without_a_read(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    (user,) = await world.users(1)
    reads = 0
    read = AccountStore.resolve_accounts

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(*args, **options)

    monkeypatch.setattr(AccountStore, "resolve_accounts", counted)
    name = world.name_of(user)
    identity = Identity("default", name, frozenset(), 1 << 60, "test", "", 1_000)
    for _ in range(50):
        assert (await api.parts.resolver.admit(identity)).id == user.id
    assert reads == 1
    await manage(api, api.users.RevokeTokens, users_pb2.RevokeTokensRequest(user_id=name))
    reads = 0
    for _ in range(50):
        with pytest.raises(Fault):
            await api.parts.resolver.admit(identity)
    assert reads == 0
