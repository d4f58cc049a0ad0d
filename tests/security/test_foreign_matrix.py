"""User × object × RPC: nobody gets at, or changes, what is somebody else's.

All requests are generated (`foreign`). Intruders: a stranger of the same tenant, one who was a
member and was removed, the same user id in another tenant, and a back end of another tenant with
every scope. After each RPC the victims' rows are what they were, and no answer holds their secret.
A conversation that is not the caller's is answered as one that does not exist.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import secrets
from collections.abc import AsyncIterator
from typing import Any, LiteralString

import grpc
import psycopg
import pytest
from google.protobuf.message import DecodeError

from chatmesh.cli.bench.h2 import GrpcConnection, connect
from chatmesh.embedded import keys
from chatmesh.embedded.running import RunningMesh
from chatmesh.v1 import contacts_pb2, conversations_pb2, devices_pb2, session_pb2, types_pb2
from tests.contract.descriptors import public_methods
from tests.raw import RawSession, bearer, new_key, unary
from tests.security.bad_tokens import Forge
from tests.security.foreign import HARMLESS, OBJECTS, kind_of, objects_in, requests
from tests.security.methods import PUBLIC

pytestmark = pytest.mark.mesh
RECEIVE = "/chatmesh.v1.ChatService/Receive"
NOWHERE = 4_611_686_018_427_387_904
"""A conversation that does not exist."""
SCOPES = "chatmesh.admin chatmesh.act_as"

_ROWS: tuple[LiteralString, ...] = (
    "SELECT * FROM chat.event WHERE conversation = ANY(%(talks)s) AND kind <> 9",
    "SELECT * FROM chat.member WHERE conversation = ANY(%(talks)s)",
    "SELECT id, title, member_count, join_policy FROM chat.conversation WHERE id = ANY(%(talks)s)",
    "SELECT * FROM chat.account WHERE id = ANY(%(accounts)s)",
    "SELECT * FROM chat.contact WHERE owner = ANY(%(accounts)s) AND other = ANY(%(accounts)s)",
    "SELECT * FROM chat.block WHERE owner = ANY(%(accounts)s)",
    "SELECT * FROM chat.hidden WHERE account = ANY(%(accounts)s)",
    "SELECT account, device_id, session_no FROM chat.device WHERE account = ANY(%(accounts)s)",
    "SELECT account_id, device_id, token FROM push.push_token WHERE account_id = ANY(%(accounts)s)",
    "SELECT * FROM chat.presence_wish WHERE account = ANY(%(accounts)s)",
)


class Victims:
    """Alice and Bob, what is theirs, and the secret that all of it holds."""

    def __init__(self, mesh: RunningMesh, forge: Forge, channel: grpc.aio.Channel) -> None:
        self.mesh, self.forge, self.channel = mesh, forge, channel
        suffix = secrets.token_hex(4)
        self.secret = f"secret{secrets.token_hex(6)}"
        self.alice, self.bob, self.carol = (f"{name}-{suffix}" for name in ("al", "bo", "ca"))
        self.objects: dict[str, list[Any]] = {}
        self.talks: list[int] = []
        self.accounts: list[int] = []

    def token(self, user: str, **claims: Any) -> str:
        return self.forge.sign(self.forge.claims(sub=user, **claims))

    async def ask(self, user: str, module: Any, path: str, **fields: Any) -> Any:
        name = path.rpartition("/")[2]
        request = getattr(module, f"{name}Request")(**fields)
        answer = getattr(module, f"{name}Response")
        return await unary(
            self.channel, f"/chatmesh.v1.{path}", request, answer, bearer(self.token(user))
        )

    async def say(self, user: str, text: str, **to: Any) -> int:
        """A message; its conversation."""
        message = types_pb2.OutgoingMessage(
            idempotency_key=new_key(),
            content=types_pb2.Content(text=types_pb2.TextContent(body=text)),
            **to,
        )
        answer = await self.ask(user, session_pb2, "ChatService/SendMessages", messages=[message])
        result: session_pb2.SendResult = answer.results[0]
        assert not result.HasField("problem"), result
        return result.conversation_id

    async def live(self) -> None:
        """All that somebody could want."""
        alice, conversations = self.alice, "ConversationService/"
        async with RawSession(self.channel, self.token(alice)) as session:
            await session.hello("phone")
        token = devices_pb2.PushToken(
            device_id="phone", provider=devices_pb2.PUSH_PROVIDER_LOG, token=self.secret
        )
        await self.ask(alice, devices_pb2, "DeviceService/RegisterPushToken", token=token)
        direct = await self.say(alice, self.secret, to_user_id=self.bob)
        own = await self.say(alice, self.secret, to_user_id=alice)
        made = await self.ask(
            alice, conversations_pb2, conversations + "CreateConversation",
            idempotency_key=new_key(), title="t", member_user_ids=[self.bob, self.carol],
        )  # fmt: skip
        group = made.conversation.conversation_id
        await self.say(self.carol, "nothing special", conversation_id=group)
        await self.ask(
            alice, conversations_pb2, conversations + "ChangeMembers",
            idempotency_key=new_key(), conversation_id=group,
            change=types_pb2.MEMBERSHIP_CHANGE_REMOVED, user_ids=[self.carol],
        )  # fmt: skip
        for text in ("one", "two"):
            await self.say(self.bob, f"{self.secret} {text}", conversation_id=group)
        await self.ask(
            alice, conversations_pb2, conversations + "UpdateConversation",
            idempotency_key=new_key(), conversation_id=group, title=self.secret,
        )  # fmt: skip
        await self.ask(
            alice, conversations_pb2, conversations + "UpdateMemberState",
            conversation_id=group, draft=self.secret,
        )  # fmt: skip
        await self.ask(
            alice, contacts_pb2, "ContactService/UpdateContact", idempotency_key=new_key(),
            user_id=self.bob, action=contacts_pb2.UpdateContactRequest.ACTION_REQUEST,
        )  # fmt: skip
        members = await self.ask(
            alice, conversations_pb2, conversations + "ListMembers",
            conversation_id=group, page_size=1,
        )  # fmt: skip
        listed = await self.ask(
            alice, conversations_pb2, conversations + "ListConversations", page_size=1
        )
        self.talks = [direct, own, group]
        self.objects = {
            "conversation": self.talks, "user": [alice, self.bob], "device": ["phone"],
            "page": [members.next_page_token, listed.next_page_token], "session": [],
        }  # fmt: skip
        rows = await self.read(
            "SELECT id FROM chat.account WHERE external_id = ANY(%s)", ([alice, self.bob],)
        )
        self.accounts = [number for (number,) in rows]
        assert len(self.accounts) == 2
        assert all(self.objects["page"])

    async def read(self, query: Any, values: Any) -> list[tuple[Any, ...]]:
        url = self.mesh.owner_url()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            cursor = await connection.execute(query, values)
            return await cursor.fetchall()

    async def state(self) -> dict[str, str]:
        """What is the victims', by query: a digest of the rows."""
        values = {"talks": self.talks, "accounts": self.accounts}
        found = {}
        url = self.mesh.owner_url()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            for query in _ROWS:
                rows = await (await connection.execute(query, values)).fetchall()
                found[query] = hashlib.sha256(repr(sorted(map(repr, rows))).encode()).hexdigest()
        return found


@pytest.fixture(scope="module")
async def victims(running_mesh: RunningMesh) -> AsyncIterator[Victims]:
    forge = Forge(keys.development_secret(running_mesh.folder).read_text())
    async with grpc.aio.insecure_channel(running_mesh.public[0]) as channel:
        made = Victims(running_mesh, forge, channel)
        await made.live()
        receive: Any = channel.unary_stream(RECEIVE)
        hello = session_pb2.ReceiveRequest(hello=session_pb2.Hello(device_id="tablet"))
        stream = receive(hello.SerializeToString(), metadata=bearer(made.token(made.alice)))
        welcome = session_pb2.ServerFrame.FromString(await stream.read()).welcome[0]
        made.objects["session"] = [welcome.session_token]
        yield made
        stream.cancel()


@pytest.fixture(scope="module")
async def door(running_mesh: RunningMesh) -> AsyncIterator[GrpcConnection]:
    made = await connect(running_mesh.public[0])
    yield made
    made.close()


def metadata_of(victims: Victims, intruder: str, path: str) -> tuple[tuple[str, str], ...]:
    """A stranger is somebody new for each RPC: what one is given by writing to Alice (a contact,
    a conversation) is theirs, and would be seen by the next."""
    match intruder:
        case "a stranger":
            name = f"mal-{path.rpartition('/')[2]}-{secrets.token_hex(3)}"
            return bearer(victims.token(name))
        case "a former member":
            return bearer(victims.token(victims.carol))
        case "her name in another tenant":
            return bearer(victims.token(victims.alice, tenant="elsewhere"))
        case _:
            back_end = victims.token("back-end", tenant="elsewhere", scope=SCOPES)
            return (*bearer(back_end), ("chatmesh-on-behalf-of", victims.alice))


def test_every_field_that_names_an_object_is_known() -> None:
    unknown = {
        f"{path}: {field.full_name}"
        for path, method in public_methods().items()
        for field in objects_in(method.input_type)
        if not kind_of(field.name) and field.name not in HARMLESS
    }
    assert unknown == set()
    assert {kind_of(name) for name in OBJECTS} == {
        "conversation", "user", "device", "page", "session", "key",
    }  # fmt: skip


async def test_every_rpc_and_object_is_reached_for(victims: Victims) -> None:
    made = list(requests(victims.objects))
    assert {path for path, _, _ in made} == public_methods().keys() == PUBLIC.keys()
    for talk in victims.talks:
        assert sum(f"={talk}" in what for _, what, _ in made) >= 10
    assert len(made) > 100
    print(f"\nforeign matrix: {len(made)} requests × 4 intruders on {len(PUBLIC)} RPCs")


@pytest.mark.parametrize(
    "intruder",
    ["a stranger", "a former member", "her name in another tenant", "a back end of another tenant"],
)
async def test_nobody_gets_at_what_is_somebody_elses(
    victims: Victims, door: GrpcConnection, intruder: str
) -> None:
    secret, wrong = victims.secret.encode(), []
    before = await victims.state()
    for path, made in itertools.groupby(requests(victims.objects), lambda one: one[0]):
        if path == RECEIVE:
            continue  # names no object but the caller's own device
        metadata = metadata_of(victims, intruder, path)
        for _, what, messages in made:
            answers, ended = await door.call(path, metadata, messages)
            if secret in b"".join(answers) or victims.secret in ended.message:
                wrong.append(f"{path} {what}: told the secret")
        if (after := await victims.state()) != before:
            changed = [query for query in _ROWS if before[query] != after[query]]
            wrong.append(f"{path}: changed {changed}")
            before = after
    assert wrong == []


async def test_a_foreign_conversation_is_answered_as_one_that_is_not_there(
    victims: Victims, door: GrpcConnection
) -> None:
    asked = 0
    nowhere = {**{kind: [] for kind in victims.objects}, "conversation": [NOWHERE]}
    theirs = {**{kind: [] for kind in victims.objects}, "conversation": victims.talks[:1]}
    metadata = metadata_of(victims, "a stranger", "/one")
    for (path, what, foreign), (_, _, absent) in zip(
        requests(theirs), requests(nowhere), strict=True
    ):
        if what == "as it is" or path == RECEIVE:
            continue
        answers, ended = await door.call(path, metadata, foreign)
        known, known_ended = await door.call(path, metadata, absent)
        assert (ended.code, ended.message) == (known_ended.code, known_ended.message), (path, what)
        assert _problems(answers) == _problems(known), (path, what)
        asked += 1
    assert asked >= 10


def _problems(answers: list[bytes]) -> list[str]:
    """Refusals within frames of sessions; answers of other kinds hold none."""
    found = []
    for answer in answers:
        frame = session_pb2.ServerFrame()
        with contextlib.suppress(DecodeError):
            frame.ParseFromString(answer)
            found += [result.problem.reason for result in frame.send_results]
    return found


async def test_the_owner_gets_all_of_it(victims: Victims, door: GrpcConnection) -> None:
    """Else the matrix would prove nothing."""
    told, metadata = set(), bearer(victims.token(victims.alice))
    reads = ("ListMessages", "GetConversation", "ListEntries", "GetSnapshot", "ListConversations")
    for path, _, messages in requests(victims.objects):
        if path.endswith(reads):
            answers, _ = await door.call(path, metadata, messages)
            if victims.secret.encode() in b"".join(answers):
                told.add(path.rpartition("/")[2])
    assert told == set(reads)
