"""Sessions on a real mesh with raw stubs: two nodes, several devices, every way to end."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from chatmesh.embedded.running import RunningMesh
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1 import session_pb2_grpc, types_pb2
from tests.chat_node.device import Device, all_see
from tests.raw import bearer, new_key

pytestmark = pytest.mark.mesh
Make = Callable[..., Device]


@pytest.fixture
async def people(running_mesh: RunningMesh) -> AsyncIterator[tuple[str, str, Make]]:
    """Two users of this test alone, and a maker of devices that are gone afterwards."""
    suffix = uuid.uuid4().hex[:8]
    alice, bob = f"alice-{suffix}", f"bob-{suffix}"
    made: list[Device] = []

    def make(user: str, device_id: str, node: int = 0) -> Device:
        device = Device(running_mesh.public, user, device_id, running_mesh.token(user), node=node)
        made.append(device)
        return device

    yield alice, bob, make
    for device in made:
        await device.hang_up()


async def test_a_message_reaches_every_device_on_every_node(
    people: tuple[str, str, Make],
) -> None:
    alice, bob, make = people
    phone = await make(alice, "phone", 0).open()
    laptop = await make(alice, "laptop", 1).open()
    other = await make(bob, "phone", 1).open()
    (key,) = await phone.send("hello", to=bob)
    (result,) = await phone.answered([key])
    await all_see((phone, laptop, other), lambda device: device.stored)
    events = [device.stored[0].event for device in (phone, laptop, other)]
    assert [event.idempotency_key for event in events] == [key, key, b""]
    for event in events:
        event.ClearField("idempotency_key")
    assert events[0] == events[1] == events[2], "the same bytes for all"
    assert events[0].message_id == result.message_id
    assert (events[0].conversation_seq, events[0].message_no) == (1, 1)
    assert (events[0].sender_user_id, events[0].peer_user_id) == (alice, bob)


async def test_order_is_the_same_everywhere_under_load(people: tuple[str, str, Make]) -> None:
    alice, bob, make = people
    phone = await make(alice, "phone", 0).open()
    laptop = await make(alice, "laptop", 1).open()
    other = await make(bob, "phone", 1).open()

    async def talk(device: Device, to: str) -> None:
        for number in range(20):
            keys = await device.send(*(f"{number}-{i}" for i in range(10)), to=to)
            await device.answered(keys)

    await asyncio.gather(talk(phone, bob), talk(laptop, bob), talk(other, alice))
    await all_see((phone, laptop, other), lambda device: len(device.stored) == 600)
    orders = [
        [(entry.event.conversation_seq, entry.event.message_id) for entry in device.stored]
        for device in (phone, laptop, other)
    ]
    assert orders[0] == orders[1] == orders[2]
    assert [seq for seq, _ in orders[0]] == list(range(1, 601))
    assert len({message for _, message in orders[0]}) == 600


async def test_the_same_key_is_answered_alike_by_any_node(people: tuple[str, str, Make]) -> None:
    alice, bob, make = people
    phone = await make(alice, "phone", 0).open()
    laptop = await make(alice, "laptop", 1).open()
    (key,) = await phone.send("once", to=bob)
    (first,) = await phone.answered([key])
    message = types_pb2.OutgoingMessage(
        idempotency_key=key,
        to_user_id=bob,
        content=types_pb2.Content(text=types_pb2.TextContent(body="once")),
    )
    await laptop.say(send=pb.Send(messages=[message]))
    (second,) = await laptop.answered([key])
    assert (first.repeated, second.repeated) == (False, True)
    assert second.message_id == first.message_id
    message.content.text.body = "other content"
    del laptop.results[key]
    await laptop.say(send=pb.Send(messages=[message]))
    (third,) = await laptop.answered([key])
    assert third.problem.reason == "KEY_REUSED"


async def test_a_device_resumes_on_another_node(people: tuple[str, str, Make]) -> None:
    alice, bob, make = people
    phone, other = await make(alice, "phone", 0).open(), await make(bob, "phone", 0).open()
    await phone.answered(await phone.send("one", to=bob))
    await other.until(lambda: len(other.stored) == 1)
    await other.hang_up()
    await phone.answered(await phone.send("two", "three", to=bob))
    await other.open()  # the next node
    await other.until(lambda: any(frame.caught_up for frame in other.frames))
    assert other.texts() == ["one", "two", "three"]
    assert other.welcome is not None
    assert other.welcome.start_timeline_seq == 1
    await phone.answered(await phone.send("four", to=bob))
    await other.until(lambda: other.texts()[-1] == "four")


async def test_the_newest_session_of_a_device_wins_on_any_node(
    people: tuple[str, str, Make],
) -> None:
    alice, _, make = people
    for first, second in ((0, 0), (0, 1)):
        older = await make(alice, "phone", first).open()
        newer = await make(alice, "phone", second).open()
        await all_see((older,), lambda device: device.end is not None)
        assert older.closed is not None
        assert older.closed.reason == pb.Closed.REASON_REPLACED
        assert older.end is not None
        assert older.end[0] is grpc.StatusCode.ABORTED
        await newer.say(ping=pb.Ping(nonce=3))
        await all_see((newer,), lambda device: any(f.pong for f in device.frames))


async def test_a_new_device_starts_at_the_oldest_or_at_the_head(
    people: tuple[str, str, Make],
) -> None:
    alice, bob, make = people
    phone = await make(alice, "phone").open()
    await phone.answered(await phone.send("one", "two", to=bob))
    oldest, newest = make(alice, "oldest"), make(alice, "newest")
    await oldest.open()
    await newest.open(start=pb.Hello.START_HEAD)
    await all_see((oldest, newest), lambda device: any(f.caught_up for f in device.frames))
    assert (oldest.texts(), newest.texts()) == (["one", "two"], [])
    assert newest.welcome is not None
    assert newest.welcome.start_timeline_seq == newest.welcome.head_timeline_seq == 2


@pytest.mark.parametrize("cursor", [(50, 1), (1, 999), (1 << 63, 1)])
async def test_a_cursor_of_another_history_is_told(
    people: tuple[str, str, Make], cursor: tuple[int, int]
) -> None:
    alice, bob, make = people
    phone = await make(alice, "phone").open()
    await phone.answered(await phone.send("one", "two", to=bob))
    laptop = make(alice, "laptop")
    with pytest.raises(ConnectionError):
        await laptop.open(cursor=types_pb2.Cursor(timeline_seq=cursor[0], message_id=cursor[1]))
    assert laptop.closed is not None
    assert laptop.closed.reason == pb.Closed.REASON_CURSOR_INVALID
    assert laptop.end is not None
    assert laptop.end[0] is grpc.StatusCode.FAILED_PRECONDITION


async def test_half_close_is_answered_after_everything_sent(
    people: tuple[str, str, Make],
) -> None:
    alice, bob, make = people
    phone = await make(alice, "phone").open()
    keys = await phone.send(*map(str, range(50)), to=bob)
    await phone.half_close()
    await phone.until(lambda: phone.end is not None)
    assert phone.end == (grpc.StatusCode.OK, "")
    assert phone.closed is not None
    assert phone.closed.reason == pb.Closed.REASON_CLIENT_DONE
    assert all(key in phone.results for key in keys)


async def test_each_send_is_answered_exactly_once(people: tuple[str, str, Make]) -> None:
    alice, bob, make = people
    phone = await make(alice, "phone").open()
    keys: list[bytes] = []
    for _ in range(10):
        keys += await phone.send(*map(str, range(20)), to=bob)
    await phone.answered(keys)
    await phone.say(ping=pb.Ping(nonce=9))
    await phone.until(lambda: any(p.nonce == 9 for f in phone.frames for p in f.pong))
    assert phone.answers == len(keys) == 200


async def test_receipts_come_back_and_typing_goes_over(people: tuple[str, str, Make]) -> None:
    alice, bob, make = people
    phone, other = await make(alice, "phone", 0).open(), await make(bob, "phone", 1).open()
    (result,) = await phone.answered(await phone.send("hello", to=bob))
    conversation = result.conversation_id

    def receipts() -> list[pb.Receipt]:
        return [receipt for frame in phone.frames for receipt in frame.receipts]

    await phone.until(lambda: any(r.delivered_conversation_seq == 1 for r in receipts()))
    await other.say(mark_read=pb.MarkRead(conversation_id=conversation, message_no=1))
    await phone.until(lambda: any(r.read_message_no == 1 for r in receipts()))
    assert {receipt.user_id for receipt in receipts()} == {bob}
    await other.until(lambda: any(p.account_version for f in other.frames for p in f.pong))
    pong = [pong for frame in other.frames for pong in frame.pong][-1]
    assert (pong.unread, pong.mentions) == (0, 0)
    await other.say(typing=pb.SetTyping(conversation_id=conversation, active=True))
    await phone.until(lambda: any(f.typing for f in phone.frames))
    (typing,) = [typing for frame in phone.frames for typing in frame.typing]
    assert (typing.user_id, typing.active, typing.conversation_id) == (bob, True, conversation)
    assert typing.expires_in_ms == 6_000


async def test_friends_are_told_of_each_other(people: tuple[str, str, Make]) -> None:
    alice, bob, make = people
    phone = await make(alice, "phone", 0).open()
    other = await make(bob, "phone", 1).open()

    def seen(device: Device, user: str) -> list[int]:
        return [
            presence.state
            for frame in device.frames
            for presence in frame.presence
            if presence.user_id == user
        ]

    await phone.answered(await phone.send("hello", to=bob))
    online, offline = types_pb2.PRESENCE_STATE_ONLINE, types_pb2.PRESENCE_STATE_OFFLINE
    await other.until(lambda: seen(other, alice)[-1:] == [online])
    await phone.until(lambda: seen(phone, bob)[-1:] == [online])
    await phone.hang_up()
    await other.until(lambda: seen(other, alice)[-1:] == [offline])
    await phone.open()
    await other.until(lambda: seen(other, alice)[-1:] == [online])


async def test_receive_and_submit_give_the_same_as_session(
    people: tuple[str, str, Make], running_mesh: RunningMesh
) -> None:
    alice, bob, make = people
    other = await make(bob, "phone", 1).open()
    metadata = bearer(running_mesh.token(alice))
    async with grpc.aio.insecure_channel(running_mesh.public[0]) as channel:
        stub: Any = session_pb2_grpc.ChatServiceStub(channel)
        call = stub.Receive(pb.ReceiveRequest(hello=pb.Hello(device_id="web")), metadata=metadata)
        welcome = (await call.read()).welcome[0]

        async def submit(**kind: Any) -> None:
            request = pb.SubmitRequest(
                session_token=welcome.session_token, frame=pb.ClientFrame(**kind)
            )
            await stub.Submit(request, metadata=metadata, timeout=30)

        key = new_key()
        message = types_pb2.OutgoingMessage(
            idempotency_key=key,
            to_user_id=bob,
            content=types_pb2.Content(text=types_pb2.TextContent(body="by submit")),
        )
        await submit(send=pb.Send(messages=[message]))
        frames: list[pb.ServerFrame] = []
        while not any(frame.send_results for frame in frames):
            frames.append(await call.read())
        await other.until(lambda: other.texts() == ["by submit"])
        while not any(frame.entries for frame in frames):
            frames.append(await call.read())
        await submit(ack=pb.Ack(up_to_timeline_seq=1))
        await submit(ack=pb.Ack(up_to_timeline_seq=7))  # beyond what was sent
        while not frames[-1].closed:
            frames.append(await call.read())
        assert frames[-1].closed[0].problem.reason == "ACK_BEYOND_SENT"
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await submit(ping=pb.Ping())
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_nobody_submits_to_the_session_of_another(
    people: tuple[str, str, Make], running_mesh: RunningMesh
) -> None:
    alice, bob, make = people
    phone = await make(alice, "phone", 0).open()
    assert phone.welcome is not None
    async with grpc.aio.insecure_channel(running_mesh.public[0]) as channel:
        stub: Any = session_pb2_grpc.ChatServiceStub(channel)
        request = pb.SubmitRequest(
            session_token=phone.welcome.session_token, frame=pb.ClientFrame(ping=pb.Ping())
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Submit(request, metadata=bearer(running_mesh.token(bob)), timeout=30)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_messages_without_a_session_and_entries_by_position(
    people: tuple[str, str, Make], running_mesh: RunningMesh
) -> None:
    alice, bob, make = people
    other = await make(bob, "phone", 1).open()
    metadata = bearer(running_mesh.token(alice))
    texts = ["one", "", "three"]
    messages = [
        types_pb2.OutgoingMessage(
            idempotency_key=new_key(),
            to_user_id=bob,
            content=types_pb2.Content(text=types_pb2.TextContent(body=text)),
        )
        for text in texts
    ]
    async with grpc.aio.insecure_channel(running_mesh.public[0]) as channel:
        stub: Any = session_pb2_grpc.ChatServiceStub(channel)
        answer = await stub.SendMessages(
            pb.SendMessagesRequest(messages=messages), metadata=metadata, timeout=30
        )
        assert [r.problem.reason for r in answer.results] == ["", "CONTENT_EMPTY", ""]
        assert [r.conversation_seq for r in answer.results] == [1, 0, 2]
        await other.until(lambda: other.texts() == ["one", "three"])
        page = await stub.ListEntries(
            pb.ListEntriesRequest(page_size=1), metadata=metadata, timeout=30
        )
        assert [e.event.content.text.body for e in page.entries] == ["one"]
        assert (page.head_timeline_seq, page.min_timeline_seq) == (2, 1)
        after = types_pb2.Cursor(timeline_seq=1, message_id=page.entries[0].event.message_id)
        page = await stub.ListEntries(
            pb.ListEntriesRequest(after=after), metadata=metadata, timeout=30
        )
        assert [e.timeline_seq for e in page.entries] == [2]
        for bad in (
            types_pb2.Cursor(timeline_seq=9),
            types_pb2.Cursor(timeline_seq=1, message_id=5),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListEntries(
                    pb.ListEntriesRequest(after=bad), metadata=metadata, timeout=30
                )
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_slim_echo_is_for_the_sending_session_alone(people: tuple[str, str, Make]) -> None:
    alice, bob, make = people
    phone = make(alice, "phone", 0)
    await phone.open(capabilities=["slim_echo"])
    laptop = await make(alice, "laptop", 0).open()
    (key,) = await phone.send("hello", to=bob)
    await phone.until(lambda: phone.stored)
    await laptop.until(lambda: laptop.stored)
    assert not phone.stored[0].event.HasField("content")
    assert phone.stored[0].event.idempotency_key == key
    assert laptop.texts() == ["hello"]


async def test_a_token_of_somebody_else_ends_the_session(
    people: tuple[str, str, Make], running_mesh: RunningMesh
) -> None:
    alice, bob, make = people
    phone = await make(alice, "phone").open()
    await phone.say(renew_token=pb.RenewToken(token=running_mesh.token(alice)))
    await phone.say(ping=pb.Ping(nonce=1))
    await phone.until(lambda: any(frame.pong for frame in phone.frames))
    await phone.say(renew_token=pb.RenewToken(token=running_mesh.token(bob)))
    await phone.until(lambda: phone.end is not None)
    assert phone.closed is not None
    assert phone.closed.problem.reason == "TOKEN_MISMATCH"
    assert phone.end is not None
    assert phone.end[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_a_device_that_does_not_ack_stops_at_its_window(
    people: tuple[str, str, Make],
) -> None:
    alice, bob, make = people
    phone, slow = await make(alice, "phone", 0).open(), make(bob, "slow", 1)
    slow.acks = False
    await slow.open()
    for start in range(0, 600, 100):
        await phone.answered(await phone.send(*(str(n) for n in range(start, start + 100)), to=bob))
    await slow.until(lambda: len(slow.stored) >= 256)
    await slow.say(ping=pb.Ping(nonce=5))
    await slow.until(lambda: any(p.nonce == 5 for f in slow.frames for p in f.pong))
    assert len(slow.stored) == 256
    slow.acks = True
    await slow.say(ack=pb.Ack(up_to_timeline_seq=256))
    await slow.until(lambda: len(slow.stored) == 600)
    assert slow.texts() == [str(n) for n in range(600)]
