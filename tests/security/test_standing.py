"""Users switched off or signed out everywhere, on a running mesh: on every node, by every RPC."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import psycopg
import pytest

from chatmesh.cli.bench.h2 import GrpcConnection, connect
from chatmesh.client import AuditAction, NotReachable, UnaryClient
from chatmesh.embedded import keys
from chatmesh.embedded.running import RunningMesh
from chatmesh.v1 import session_pb2, types_pb2, users_pb2
from tests.raw import RawSession, bearer, call, new_key, unary
from tests.security.bad_tokens import Forge
from tests.security.methods import PUBLIC, public_request

pytestmark = pytest.mark.mesh
USERS = "/chatmesh.v1.UserService/"
DEADLINE_SECONDS = 30


class Mesh:
    """Both nodes, a back end's token, and tokens of any user."""

    def __init__(
        self, forge: Forge, doors: list[GrpcConnection], channels: list[grpc.aio.Channel]
    ) -> None:
        self.forge, self.doors, self.channels = forge, doors, channels

    def token(self, user: str, **claims: Any) -> str:
        return self.forge.sign(self.forge.claims(sub=user, **claims))

    async def manage(self, method: str, node: int = 0, **fields: Any) -> Any:
        """A call of the back end."""
        token = self.token("back-end", scope="chatmesh.admin")
        asked = getattr(users_pb2, f"{method}Request")(**fields)
        answer = getattr(users_pb2, f"{method}Response")
        return await unary(self.channels[node], USERS + method, asked, answer, bearer(token))

    async def all_refuse(self, reason: str, *tokens: str) -> None:
        """Every public RPC of both nodes, with requests of the matrix; what does not do so yet is
        asked again."""
        waiting = [
            (node, path, token)
            for node in range(len(self.doors)) for path in PUBLIC for token in tokens
        ]  # fmt: skip
        loop = asyncio.get_running_loop()
        give_up = loop.time() + DEADLINE_SECONDS
        while waiting:
            ends = [
                (place, await call(self.doors[place[0]], place[1], bearer(place[2]),
                                   [public_request(place[1])]))
                for place in waiting
            ]  # fmt: skip
            left = [(place, end) for place, end in ends if end.reason != reason]
            waiting = [place for place, _ in left]
            assert loop.time() < give_up, [(node, path, end) for (node, path, _), end in left]
            if waiting:
                await asyncio.sleep(0.1)


@pytest.fixture
async def mesh(running_mesh: RunningMesh) -> AsyncIterator[Mesh]:
    forge = Forge(keys.development_secret(running_mesh.folder).read_text())
    doors = [await connect(address) for address in running_mesh.public]
    channels = [grpc.aio.insecure_channel(address) for address in running_mesh.public]
    yield Mesh(forge, doors, channels)
    for door in doors:
        door.close()
    for channel in channels:
        await channel.close()


async def until(ask: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until it holds."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await ask():  # noqa: ASYNC110 - another process changes
            await asyncio.sleep(0.1)


async def closed(session: RawSession) -> tuple[str, int]:
    """Reason of the status that a session ended with, and of its last frame."""
    end = await session.ended()
    (last,) = [frame.closed[0] for frame in session.seen if frame.closed]
    return end.reason, last.reason


async def test_a_disabled_user_is_out_everywhere(mesh: Mesh) -> None:
    user = f"off-{uuid.uuid4().hex[:8]}"
    token = mesh.token(user)
    async with (
        RawSession(mesh.channels[0], token) as here,
        RawSession(mesh.channels[1], token) as there,
    ):
        await here.hello("phone")
        await there.hello("laptop")
        await mesh.manage("DisableUser", user_id=user)
        for session in (here, there):
            assert await closed(session) == (
                "USER_DISABLED", session_pb2.Closed.REASON_REVOKED
            )  # fmt: skip

    await mesh.all_refuse("USER_DISABLED", token)
    await mesh.manage("EnableUser", node=1, user_id=user)

    async def comes_in() -> bool:
        async with RawSession(mesh.channels[0], token) as session:
            await session.send('hello { device_id: "phone" }')
            try:
                await session.until(lambda frame: bool(frame.caught_up))
            except AssertionError:
                return False
            return True

    await until(comes_in)


async def test_nodes_hear_of_signed_out_devices_when_nobody_tells_them(
    mesh: Mesh, running_mesh: RunningMesh
) -> None:
    """As when the node that was asked dies just after its commit."""
    user = f"stolen-{uuid.uuid4().hex[:8]}"
    token = mesh.token(user)
    async with (
        RawSession(mesh.channels[0], token) as here,
        RawSession(mesh.channels[1], token) as there,
        RawSession(mesh.channels[1], token) as kept,
    ):
        await here.hello("phone")
        await there.hello("laptop")
        await kept.hello("tablet")
        url = running_mesh.owner_url()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(
                "SELECT chat.sign_out_1(a.id, ARRAY['phone', 'laptop']) FROM chat.account a"
                " WHERE a.external_id = %s", (user,)
            )  # fmt: skip
        for session in (here, there):
            assert await closed(session) == (
                "DEVICE_REFUSED", session_pb2.Closed.REASON_REVOKED
            )  # fmt: skip
        await kept.send("ping {}")
        await kept.until(lambda frame: bool(frame.pong))


async def test_revoked_tokens_are_out_everywhere_and_a_newer_one_is_in(mesh: Mesh) -> None:
    user = f"revoked-{uuid.uuid4().hex[:8]}"
    token, dateless = mesh.token(user), mesh.token(user, iat=None)
    async with (
        RawSession(mesh.channels[0], token) as here,
        RawSession(mesh.channels[1], dateless) as there,
    ):
        await here.hello("phone")
        await there.hello("laptop")
        answer = await mesh.manage("RevokeTokens", user_id=user)
        for session in (here, there):
            assert await closed(session) == (
                "TOKEN_REVOKED", session_pb2.Closed.REASON_REVOKED
            )  # fmt: skip

    await mesh.all_refuse("TOKEN_REVOKED", token, dateless)
    newer = mesh.token(user, iat=answer.not_before_ms // 1_000 + 1)
    for channel in mesh.channels:
        async with RawSession(channel, newer) as session:
            await session.hello("phone")
            # and does not stay with an older one
            await session.send(f'renew_token {{ token: "{token}" }}')
            assert (await session.ended()).reason == "TOKEN_REVOKED"


async def test_a_bot_and_its_back_end_are_named_in_what_they_send(mesh: Mesh) -> None:
    suffix = uuid.uuid4().hex[:8]
    bot, reader = f"bot-{suffix}", f"reader-{suffix}"
    await mesh.manage("UpdateUser", user_id=bot, kind=types_pb2.SENDER_KIND_BOT)

    async def send(token: str, text: str, behalf: str = "") -> None:
        text_content = types_pb2.TextContent(body=text)
        message = types_pb2.OutgoingMessage(
            idempotency_key=new_key(), to_user_id=reader,
            content=types_pb2.Content(text=text_content),
        )  # fmt: skip
        metadata = (*bearer(token), *((("chatmesh-on-behalf-of", behalf),) if behalf else ()))
        answer = await unary(
            mesh.channels[1], "/chatmesh.v1.ChatService/SendMessages",
            session_pb2.SendMessagesRequest(messages=[message]),
            session_pb2.SendMessagesResponse, metadata,
        )  # fmt: skip
        assert not answer.results[0].HasField("problem"), answer

    async with RawSession(mesh.channels[0], mesh.token(reader)) as session:
        await session.hello("phone")
        await send(mesh.token(bot), "own account")
        await send(mesh.token("helper", scope="chatmesh.act_as"), "acting", behalf=bot)

        def events() -> list[types_pb2.Event]:
            return [entry.event for frame in session.seen for entry in frame.entries]

        await session.until(lambda _: len(events()) == 2)
        seen = [
            (event.sender_user_id, event.sender_kind, event.sent_by_user_id) for event in events()
        ]
        assert seen == [
            (bot, types_pb2.SENDER_KIND_BOT, ""), (bot, types_pb2.SENDER_KIND_BOT, "helper"),
        ]  # fmt: skip


async def test_a_refused_token_becomes_a_record(mesh: Mesh) -> None:
    began_ms = int(time.time() * 1000) - 60_000
    for door in mesh.doors:
        for _ in range(20):
            await call(door, USERS + "GetUser", bearer("not.a.token"), [b""])

    async def recorded() -> bool:
        answer = await mesh.manage(
            "ListAuditRecords", action=users_pb2.AUDIT_ACTION_LOGIN_FAILED, page_size=1_000
        )
        told = [
            record
            for record in answer.records
            if record.at_ms >= began_ms and record.detail.startswith("reason=TOKEN_MALFORMED ")
        ]
        return bool(told) and all(not record.actor_id for record in told)

    await until(recorded)


async def test_a_back_end_manages_users_by_the_sdk(mesh: Mesh, running_mesh: RunningMesh) -> None:
    user = f"managed-{uuid.uuid4().hex[:8]}"
    token = mesh.token("sdk-back-end", scope="chatmesh.admin")
    async with UnaryClient(running_mesh.public[1], token=token) as back_end:
        made = await back_end.update_user(user)
        assert made == await back_end.user(user)
        await back_end.disable_user(user)
        assert (await back_end.user(user)).disabled
        await back_end.enable_user(user)
        assert await back_end.revoke_tokens(user) > made.created_at_ms
        records = await back_end.audit_records(user_id=user)
        assert [(record.action, record.detail) for record in records] == [
            (AuditAction.USER, "DisableUser"), (AuditAction.USER, "EnableUser"),
            (AuditAction.USER, "RevokeTokens"),
        ]  # fmt: skip
        assert await back_end.delete_user(user)
        with pytest.raises(NotReachable):
            await back_end.user(user)
