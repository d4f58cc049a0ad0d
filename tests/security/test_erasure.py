"""An erased user is in no store, no queue, no trace and no log any more: proved by canaries.

The user's id, and everything that it writes anywhere, holds a word that exists nowhere else. After
the deletion the word is looked for in every column of every table, every key of Redis, the span
store and the logs. Before it, it must be found in PostgreSQL and Redis, or the search proves
nothing.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
import redis
from psycopg import sql

from chatmesh.embedded import keys
from chatmesh.embedded.running import RunningMesh
from chatmesh.v1 import (
    contacts_pb2,
    conversations_pb2,
    devices_pb2,
    session_pb2,
    types_pb2,
    users_pb2,
)
from tests.raw import RawSession, bearer, new_key, unary
from tests.security.bad_tokens import Forge

pytestmark = pytest.mark.mesh
DEADLINE_SECONDS = 60
SAMPLED = ("traceparent", "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01")


class Erased:
    """A mesh with somebody to erase, whose word is in all that they do."""

    def __init__(self, mesh: RunningMesh, forge: Forge, channel: grpc.aio.Channel) -> None:
        self.mesh, self.forge, self.channel = mesh, forge, channel
        self.word = "canary" + secrets.token_hex(8)
        self.user = f"user-{self.word}"
        self.other = f"other-{secrets.token_hex(4)}"
        self.old = self.token(self.user)
        self.admin = forge.sign(forge.claims(sub="back-end", scope="chatmesh.admin"))

    async def ask(self, module: Any, path: str, login: str = "", /, **fields: Any) -> Any:
        """A unary call, by default of the user to erase."""
        name = path.rpartition("/")[2]
        request = getattr(module, f"{name}Request")(**fields)
        metadata = (*bearer(login or self.old), SAMPLED)
        response = getattr(module, f"{name}Response")
        return await unary(self.channel, f"/chatmesh.v1.{path}", request, response, metadata)

    def token(self, user: str, **claims: Any) -> str:
        return self.forge.sign(self.forge.claims(sub=user, **claims))

    async def send(self, user: str, **fields: Any) -> session_pb2.SendResult:
        """One message; its text is `text`."""
        if "text" in fields:
            text = types_pb2.TextContent(body=fields.pop("text"))
            fields["content"] = types_pb2.Content(text=text)
        message = types_pb2.OutgoingMessage(idempotency_key=new_key(), **fields)
        answer: session_pb2.SendMessagesResponse = await self.ask(
            session_pb2, "ChatService/SendMessages", self.token(user), messages=[message]
        )
        assert not answer.results[0].HasField("problem"), answer
        return answer.results[0]

    def in_postgres(self) -> list[str]:
        """`schema.table.column` of every column that holds the word."""
        found = []
        with psycopg.connect(self.mesh.owner_url(), autocommit=True) as connection:
            columns = connection.execute(
                "SELECT table_schema, table_name, column_name FROM information_schema.columns"
                " JOIN information_schema.tables USING (table_schema, table_name)"
                " WHERE table_type = 'BASE TABLE'"
                " AND table_schema NOT IN ('pg_catalog', 'information_schema')"
            ).fetchall()
            for schema, table, column in columns:
                # bytea is shown as hex: both forms are looked for
                query = sql.SQL(
                    "SELECT 1 FROM {} WHERE {}::text LIKE {} OR {}::text LIKE {} LIMIT 1"
                ).format(
                    sql.Identifier(schema, table), sql.Identifier(column),
                    sql.Literal(f"%{self.word}%"), sql.Identifier(column),
                    sql.Literal(f"%{self.word.encode().hex()}%"),
                )  # fmt: skip
                if connection.execute(query).fetchone():
                    found.append(f"{schema}.{table}.{column}")
        return found

    def in_redis(self) -> list[str]:
        """Keys whose name or value holds the word."""
        word, found = self.word.encode(), []
        with redis.Redis.from_url(self.mesh.redis_url()) as client:
            for key in client.scan_iter(count=1_000):
                kind = client.type(key)
                reads: dict[bytes, Any] = {
                    b"string": client.get, b"hash": client.hgetall, b"set": client.smembers,
                    b"stream": client.xrange,
                    b"list": lambda name: client.lrange(name, 0, -1),
                    b"zset": lambda name: client.zrange(name, 0, -1),
                    b"none": lambda _: b"",
                }  # fmt: skip
                if word in key or word in repr(reads[kind](key)).encode():
                    found.append(key.decode())
        return found

    def in_files(self) -> list[str]:
        """Logs and span stores that hold the word."""
        root: Path = self.mesh.folder.path
        files = [*root.glob("logs/*"), *root.glob("*span*"), *root.glob("**/*spans*")]
        assert len(files) > 5
        word = self.word.encode()
        return sorted({str(file) for file in files if file.is_file() and word in file.read_bytes()})

    def places(self) -> list[str]:
        """Where the word still is."""
        return [*self.in_postgres(), *self.in_redis(), *self.in_files()]


@pytest.fixture
async def erased(running_mesh: RunningMesh) -> AsyncIterator[Erased]:
    forge = Forge(keys.development_secret(running_mesh.folder).read_text())
    async with grpc.aio.insecure_channel(running_mesh.public[0]) as channel:
        yield Erased(running_mesh, forge, channel)


async def live(one: Erased) -> tuple[int, int]:
    """Everything that a user can leave behind; (direct conversation, group)."""
    word, user, other = one.word, one.user, one.other
    # the provider `log` writes what it shows into its log, as it is meant to: it shows nothing
    for name, device in ((user, f"phone-{word}"), (other, "phone")):
        async with RawSession(one.channel, one.token(name)) as session:
            await session.hello(device)
        token = devices_pb2.PushToken(
            device_id=device, provider=devices_pb2.PUSH_PROVIDER_LOG, token=f"push-{device}",
            privacy=devices_pb2.PUSH_PRIVACY_ID_ONLY,
        )  # fmt: skip
        register = "DeviceService/RegisterPushToken"
        await one.ask(devices_pb2, register, one.token(name), token=token)
    first = await one.send(user, to_user_id=other, text=f"hello {word}", metadata={"k": word})
    edit = types_pb2.EditContent(
        target_conversation_seq=first.conversation_seq,
        text=types_pb2.TextContent(body=f"edited {word}"),
    )
    direct = first.conversation_id
    await one.send(user, conversation_id=direct, content=types_pb2.Content(edit=edit))
    await one.send(user, to_user_id=user, text=f"a note to myself {word}")
    made: conversations_pb2.CreateConversationResponse = await one.ask(
        conversations_pb2, "ConversationService/CreateConversation", one.token(other),
        idempotency_key=new_key(), title="a group", member_user_ids=[user],
    )  # fmt: skip
    group = made.conversation.conversation_id
    await one.send(other, conversation_id=group, text="look", mention_user_ids=[user])
    forwarded = types_pb2.ForwardedFrom(user_id=user)
    await one.send(other, conversation_id=group, text="said", forwarded_from=forwarded)
    helper = one.token(user, scope="chatmesh.act_as")
    message = types_pb2.OutgoingMessage(
        idempotency_key=new_key(), conversation_id=group,
        content=types_pb2.Content(text=types_pb2.TextContent(body="sent for other")),
    )  # fmt: skip
    await unary(
        one.channel, "/chatmesh.v1.ChatService/SendMessages",
        session_pb2.SendMessagesRequest(messages=[message]), session_pb2.SendMessagesResponse,
        (*bearer(helper), ("chatmesh-on-behalf-of", other)),
    )  # fmt: skip
    await one.send(user, conversation_id=group, text=f"in the group {word}")
    update = contacts_pb2.UpdateContactRequest
    for by, whom, action in (
        (other, user, update.ACTION_BLOCK), (user, other, update.ACTION_BLOCK),
    ):  # fmt: skip
        await one.ask(
            contacts_pb2, "ContactService/UpdateContact", one.token(by),
            idempotency_key=new_key(), user_id=whom, action=action,
        )  # fmt: skip
    await one.ask(
        conversations_pb2, "ConversationService/UpdateMemberState", conversation_id=group,
        draft=f"a draft {word}",
    )  # fmt: skip
    return direct, group


async def delete(one: Erased) -> int:
    """Call again until it is done; how many messages were blanked."""
    erased = 0
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            answer: users_pb2.DeleteUserResponse = await one.ask(
                users_pb2, "UserService/DeleteUser", one.admin, user_id=one.user
            )
            erased += answer.erased_messages
            if answer.done:
                return erased
            await asyncio.sleep(0.1)


async def test_nothing_of_an_erased_user_is_left(erased: Erased) -> None:
    one = erased
    direct, group = await live(one)
    async with RawSession(one.channel, one.token(one.user)) as session:
        await session.hello(f"laptop-{one.word}")
        await session.send(
            f'set_presence {{ state: PRESENCE_STATE_ONLINE status_text: "{one.word}" }}'
        )
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not one.in_redis():  # noqa: ASYNC110 - another process writes
                await asyncio.sleep(0.1)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while "chat.search_entry.words" not in (held := one.in_postgres()):  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # the index is filled behind the commit
        for column in (
            "chat.account.external_id", "chat.device.device_id", "chat.event.body",
            "chat.member.draft", "push.push_token.token", "chat.audit.actor", "chat.audit.user_id",
        ):  # fmt: skip
            assert column in held
        assert await delete(one) == 3
        assert (await session.ended()).reason == "USER_DISABLED"
    give_up = time.monotonic() + DEADLINE_SECONDS
    while places := one.places():  # what was on its way settles: pushes end, the queue is cut
        assert time.monotonic() < give_up, places
        await asyncio.sleep(0.5)
    await the_others_go_on(one, direct, group)


async def the_others_go_on(one: Erased, direct: int, group: int) -> None:
    """Messages read as erased, by nobody; the conversations are whole."""
    other = one.token(one.other)
    listing = "ConversationService/ListMessages"
    for number, bodies in ((direct, [""]), (group, ["look", "said", "sent for other", ""])):
        answer = await one.ask(
            conversations_pb2, listing, other, conversation_id=number, forward=True
        )
        assert [event.content.text.body for event in answer.messages] == bodies
        for event in answer.messages:
            if not event.HasField("content"):
                assert event.sender_user_id == ""
            assert not event.mention_user_ids
            assert event.sent_by_user_id == ""
            assert event.forwarded_from.user_id == ""
        numbers = [event.message_no for event in answer.messages]
        assert numbers == list(range(1, len(bodies) + 1))
    entries = await one.ask(session_pb2, "ChatService/ListEntries", other, page_size=1_000)
    positions = [entry.timeline_seq for entry in entries.entries]
    assert positions == list(range(1, len(positions) + 1))
    views = await one.ask(conversations_pb2, "ConversationService/ListConversations", other)
    assert {view.conversation_id for view in views.conversations} >= {direct, group}
    members = await one.ask(
        conversations_pb2, "ConversationService/ListMembers", other, conversation_id=group
    )
    assert [member.user_id for member in members.members] == [one.other]
    # its tokens open nothing, and make no account
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await one.ask(contacts_pb2, "ContactService/ListContacts")
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await one.ask(users_pb2, "UserService/GetUser", one.admin, user_id=one.user)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    assert one.places() == []
    # somebody new may have the name
    newer = one.token(one.user, iat=int(time.time()) + 2)
    answer = await one.ask(contacts_pb2, "ContactService/ListContacts", newer)
    assert not answer.contacts
    assert await delete(one) == 0
    assert one.places() == []
