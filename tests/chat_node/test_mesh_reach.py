"""A mesh where only contacts reach each other: settings of reach and limits are the commit's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import grpc
import pytest

from chatmesh.embedded.running import RunningMesh
from chatmesh.testing.mesh import start_mesh
from chatmesh.v1 import contacts_pb2 as contacts
from chatmesh.v1 import conversations_pb2 as conversations
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1 import types_pb2 as types
from tests.chat_node.device import Device
from tests.raw import RawSession, bearer, new_key, unary

pytestmark = pytest.mark.mesh
T = TypeVar("T")
IN_FLIGHT, FLOOD = 20, 60
ENVIRONMENT = {
    "CHATMESH_REACH": "contacts",
    "CHATMESH_LIMIT_MAX_REACTIONS": "2",
    "CHATMESH_LIMIT_MAX_SENDS_IN_FLIGHT": str(IN_FLIGHT),
}
Action = contacts.UpdateContactRequest


@pytest.fixture(scope="module")
def mesh() -> Iterator[RunningMesh]:
    with start_mesh(
        chat_nodes=1, trace_sample_ratio=None, environment={"chat_svc": ENVIRONMENT}
    ) as started:
        yield started.mesh.running


class Calls:
    """Unary calls of any user."""

    def __init__(self, mesh: RunningMesh, channel: grpc.aio.Channel) -> None:
        self._mesh = mesh
        self._channel = channel

    async def call(self, user: str, method: str, request: Any, answer: type[T]) -> T:
        metadata = bearer(self._mesh.token(user))
        found: T = await unary(self._channel, f"/chatmesh.v1.{method}", request, answer, metadata)
        return found

    async def send(self, user: str, to: str, *contents: types.Content) -> list[pb.SendResult]:
        """Messages; empty: one text."""
        made = contents or (types.Content(text=types.TextContent(body="x")),)
        request = pb.SendMessagesRequest(
            messages=[
                types.OutgoingMessage(idempotency_key=new_key(), to_user_id=to, content=content)
                for content in made
            ]
        )
        answer = await self.call(user, "ChatService/SendMessages", request, pb.SendMessagesResponse)
        return list(answer.results)

    async def contact(self, user: str, other: str, action: Any) -> None:
        request = contacts.UpdateContactRequest(
            idempotency_key=new_key(), user_id=other, action=action
        )
        await self.call(
            user, "ContactService/UpdateContact", request, contacts.UpdateContactResponse
        )

    async def group(self, user: str, *others: str) -> None:
        request = conversations.CreateConversationRequest(
            idempotency_key=new_key(), member_user_ids=others
        )
        await self.call(
            user,
            "ConversationService/CreateConversation",
            request,
            conversations.CreateConversationResponse,
        )


async def test_only_contacts_reach_each_other(mesh: RunningMesh) -> None:
    async with grpc.aio.insecure_channel(mesh.public[0]) as channel:
        calls = Calls(mesh, channel)
        for user in ("alice", "bob"):
            async with RawSession(channel, mesh.token(user)) as session:
                welcome = await session.hello()
        assert welcome.limits.max_reactions == 2

        async def reason(user: str, to: str) -> str:
            (result,) = await calls.send(user, to)
            return result.problem.reason

        assert [await reason("alice", "bob"), await reason("bob", "alice")] == ["NOT_REACHABLE"] * 2
        with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
            await calls.group("alice", "bob")
        assert await reason("alice", "alice") == "", "notes to oneself"
        await calls.contact("alice", "bob", Action.ACTION_REQUEST)
        assert await reason("alice", "bob") == "NOT_REACHABLE"
        await calls.contact("bob", "alice", Action.ACTION_ACCEPT)
        assert [await reason("alice", "bob"), await reason("bob", "alice")] == ["", ""]
        await calls.group("alice", "bob")
        reaction = types.Content(
            reaction=types.ReactionContent(target_conversation_seq=1, reaction="+1")
        )
        results = await calls.send("bob", "alice", *[reaction] * 3)
        assert [result.problem.reason for result in results] == ["", "", "LIMIT_EXCEEDED"]
        assert results[-1].problem.metadata["limit"] == "max_reactions"
        await calls.contact("bob", "alice", Action.ACTION_REMOVE)
        assert await reason("alice", "bob") == "NOT_REACHABLE"


async def test_a_user_who_floods_is_bounded_before_the_batch(mesh: RunningMesh) -> None:
    """What is more than may be under way is refused, and nowhere; the session and others go on."""
    flooder, other = (
        Device(mesh.public, user, "phone", mesh.token(user)) for user in ("flooder", "bystander")
    )
    async with flooder, other:
        texts = [str(number) for number in range(FLOOD)]
        keys = await flooder.send(*texts, to=flooder.user)
        (served,) = await other.answered(await other.send("meanwhile", to=other.user))
        assert not served.HasField("problem"), served.problem
        reasons = [result.problem.reason for result in await flooder.answered(keys)]
        assert reasons == [""] * IN_FLIGHT + ["SENDS_IN_FLIGHT"] * (FLOOD - IN_FLIGHT)
        (last,) = await flooder.answered(await flooder.send("last", to=flooder.user))
        assert last.message_no == IN_FLIGHT + 1
        await flooder.until(lambda: "last" in flooder.texts())
        assert flooder.texts() == [*texts[:IN_FLIGHT], "last"]
