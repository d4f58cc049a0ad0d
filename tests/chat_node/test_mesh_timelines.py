"""Timelines and own state on a real mesh: receipts in groups, delete for me, cuts, settings."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc
import psycopg
import pytest

from chatmesh.embedded.running import RunningMesh
from chatmesh.v1 import contacts_pb2 as contacts
from chatmesh.v1 import conversations_pb2 as conversations
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1 import types_pb2
from tests.chat_node.device import Device, all_see
from tests.raw import bearer, new_key, unary

pytestmark = pytest.mark.mesh
T = TypeVar("T")


class People:
    """Users of one test, their devices and their calls."""

    def __init__(self, mesh: RunningMesh, channel: grpc.aio.Channel) -> None:
        self.mesh = mesh
        self._channel = channel
        self._suffix = uuid.uuid4().hex[:8]
        self.devices: list[Device] = []

    def user(self, name: str) -> str:
        return f"{name}-{self._suffix}"

    async def device(self, name: str, device_id: str, node: int, **hello: Any) -> Device:
        made = Device(
            self.mesh.public,
            self.user(name),
            device_id,
            self.mesh.token(self.user(name)),
            node=node,
        )
        self.devices.append(made)
        return await made.open(**hello)

    async def call(self, name: str, method: str, request: Any, answer: type[T]) -> T:
        metadata = bearer(self.mesh.token(self.user(name)))
        found: T = await unary(self._channel, f"/chatmesh.v1.{method}", request, answer, metadata)
        return found

    async def group(self, owner: str, *others: str) -> int:
        request = conversations.CreateConversationRequest(
            idempotency_key=new_key(), title="g", member_user_ids=[self.user(n) for n in others]
        )
        answer = await self.call(
            owner,
            "ConversationService/CreateConversation",
            request,
            conversations.CreateConversationResponse,
        )
        return answer.conversation.conversation_id

    async def say(self, device: Device, conversation: int, text: str) -> pb.SendResult:
        key = new_key()
        message = types_pb2.OutgoingMessage(
            idempotency_key=key,
            conversation_id=conversation,
            content=types_pb2.Content(text=types_pb2.TextContent(body=text)),
        )
        await device.say(send=pb.Send(messages=[message]))
        (result,) = await device.answered([key])
        assert not result.HasField("problem"), result
        return result

    async def ask(self, query: Any, *values: Any) -> list[tuple[Any, ...]]:
        async with await psycopg.AsyncConnection.connect(
            self.mesh.owner_url(), autocommit=True
        ) as connection:
            cursor = await connection.execute(query, values)
            return await cursor.fetchall() if cursor.description else []


@pytest.fixture
async def people(running_mesh: RunningMesh) -> AsyncIterator[People]:
    channel = grpc.aio.insecure_channel(running_mesh.public[1])
    made = People(running_mesh, channel)
    yield made
    for device in made.devices:
        await device.hang_up()
    await channel.close()


def receipts(device: Device) -> list[pb.Receipt]:
    return [receipt for frame in device.frames for receipt in frame.receipts]


async def told(device: Device, user: str, *, delivered: int = 0, read: int = 0) -> None:
    """Wait until the device knows that the user is that far."""
    await device.until(
        lambda: any(
            receipt.user_id == user
            and receipt.delivered_conversation_seq >= delivered
            and receipt.read_message_no >= read
            for receipt in receipts(device)
        )
    )


def has_text(text: str) -> Callable[[Device], bool]:
    return lambda device: text in device.texts()


async def test_receipts_in_a_small_group(people: People) -> None:
    alice = await people.device("alice", "phone", 0)
    bob = await people.device("bob", "phone", 1)
    carol = await people.device("carol", "phone", 0)
    group = await people.group("alice", "bob", "carol")
    said = await people.say(alice, group, "hello")
    await all_see((bob, carol), has_text("hello"))
    # delivered: to the sender alone
    for name in ("bob", "carol"):
        await told(alice, people.user(name), delivered=said.conversation_seq)
    # read: to all members
    await bob.say(mark_read=pb.MarkRead(conversation_id=group, message_no=said.message_no))
    for device in (alice, carol):
        await told(device, people.user("bob"), read=said.message_no)
    assert all(not receipt.delivered_conversation_seq for receipt in receipts(carol))
    # hidden: nothing is told any more, either way
    await people.call(
        "carol",
        "ContactService/UpdatePrivacy",
        contacts.UpdatePrivacyRequest(
            privacy=contacts.PrivacySettings(read_receipts=contacts.AUDIENCE_NOBODY)
        ),
        contacts.UpdatePrivacyResponse,
    )
    await carol.until(
        lambda: any(e.event.content.account.subject == "privacy" for e in carol.stored)
    )
    again = await people.say(alice, group, "again")
    await all_see((bob, carol), has_text("again"))
    await carol.say(mark_read=pb.MarkRead(conversation_id=group, message_no=again.message_no))
    await bob.say(mark_read=pb.MarkRead(conversation_id=group, message_no=again.message_no))
    await told(alice, people.user("bob"), read=again.message_no)
    of_carol = [r for r in receipts(alice) if r.user_id == people.user("carol")]
    assert max(r.read_message_no for r in of_carol) == 0
    assert max(r.read_message_no for r in receipts(carol)) == said.message_no


async def test_delivered_marks_come_from_the_cursor_of_a_resume(people: People) -> None:
    alice = await people.device("alice", "phone", 0)
    bob = await people.device("bob", "phone", 1)
    bob.acks = False  # as acks that died with a node
    keys = await alice.send("one", "two", to=people.user("bob"))
    *_, last = await alice.answered(keys)
    await bob.until(lambda: "two" in bob.texts())
    assert receipts(alice) == []
    await bob.open()  # hello carries the cursor
    await told(alice, people.user("bob"), delivered=last.conversation_seq)


async def test_delete_for_me_reaches_the_own_devices(people: People) -> None:
    alice = await people.device("alice", "phone", 0)
    phone = await people.device("bob", "phone", 0)
    laptop = await people.device("bob", "laptop", 1)
    (key,) = await alice.send("secret", to=people.user("bob"))
    (said,) = await alice.answered([key])
    await all_see((phone, laptop), has_text("secret"))
    request = conversations.HideMessageRequest(
        conversation_id=said.conversation_id, conversation_seq=said.conversation_seq
    )
    await people.call(
        "bob", "ConversationService/HideMessage", request, conversations.HideMessageResponse
    )

    def hidden(device: Device) -> bool:
        accounts = [entry.event.content.account for entry in device.stored]
        return any(
            (one.subject, one.conversation_id, one.conversation_seq)
            == ("hidden", said.conversation_id, said.conversation_seq)
            for one in accounts
        )

    await all_see((phone, laptop), hidden)
    assert not hidden(alice)
    late = await people.device("bob", "tablet", 0)
    await late.until(lambda: hidden(late))
    assert "secret" not in late.texts()


async def test_a_cut_timeline_gives_a_snapshot_and_then_the_tail(people: People) -> None:
    alice = await people.device("alice", "phone", 0)
    bob = await people.device("bob", "phone", 1)
    keys = await alice.send(*(str(n) for n in range(10)), to=people.user("bob"))
    await alice.answered(keys)
    await bob.until(lambda: "9" in bob.texts())
    await bob.hang_up()
    old = types_pb2.Cursor(
        timeline_seq=bob.stored[4].timeline_seq, message_id=bob.stored[4].event.message_id
    )
    # as retention cuts: rows and min_seq in one transaction
    await people.ask(
        "WITH me AS (SELECT id FROM chat.account WHERE external_id = %s), gone AS ("
        " DELETE FROM chat.timeline t USING me WHERE t.account = me.id AND t.timeline_seq < 8)"
        " UPDATE chat.timeline_head h SET min_seq = 8 FROM me WHERE h.account = me.id",
        people.user("bob"),
    )
    bob.stored = []
    with pytest.raises(ConnectionError):
        await bob.open(cursor=old)
    assert bob.closed is not None
    assert bob.closed.reason == pb.Closed.REASON_CURSOR_INVALID
    snapshot = await people.call(
        "bob", "ChatService/GetSnapshot", pb.GetSnapshotRequest(), pb.GetSnapshotResponse
    )
    (conversation,) = snapshot.conversations
    assert conversation.last_message.content.text.body == "9"
    assert conversation.state.unread == 10
    await bob.open(cursor=snapshot.as_of)
    await alice.send("tail", to=people.user("bob"))
    await bob.until(lambda: bob.texts() == ["tail"])
    # a new device begins at the oldest that is retained
    new = await people.device("bob", "new", 0)
    await new.until(lambda: "tail" in new.texts())
    assert new.stored[0].timeline_seq == 8
