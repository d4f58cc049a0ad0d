"""Every row of tests/bad_input.toml against a real mesh; after each, the friends still talk."""

from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf import message_factory, text_format

from chatmesh.embedded import keys
from chatmesh.embedded.running import RunningMesh
from chatmesh.v1 import session_pb2, types_pb2
from tests.bad_input.people import Friends, Stranger
from tests.bad_input.table import Row, rows
from tests.contract.descriptors import public_methods
from tests.raw import SESSION, End, bearer, call, client_frame, fill, new_key, unary
from tests.security.bad_tokens import bad_tokens

pytestmark = pytest.mark.mesh
SEND_MESSAGES = "/chatmesh.v1.ChatService/SendMessages"
STATUS = {code.value[0]: code.name for code in grpc.StatusCode}


@pytest.fixture(autouse=True)
async def others_are_untouched(friends: Friends) -> AsyncIterator[None]:
    yield
    await friends.talk()


def of_kind(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", rows(kind), ids=lambda row: row.input)


@of_kind("login")
async def test_login(row: Row, stranger: Stranger, running_mesh: RunningMesh) -> None:
    secret = keys.development_secret(running_mesh.folder).read_text()
    bad = next(one for one in bad_tokens(secret) if one.name == row.token)
    hello = client_frame('hello { device_id: "d" }')
    end = await call(stranger.connection, SESSION, bad.metadata, [hello])
    assert (end.status, end.reason) == (row.status, row.reason)


@of_kind("session")
async def test_session(row: Row, stranger: Stranger) -> None:
    async with stranger.session() as session:
        for number, frame in enumerate(row.frames):
            last = number == len(row.frames) - 1
            data = client_frame(frame, {"peer": stranger.peer})
            await session.send(*[data] * (row.repeat if last else 1))
            if not last and frame.startswith("hello"):
                await session.until(lambda frame: bool(frame.caught_up))
        if row.half_close:
            await session.half_close()
        if row.again:
            await session.until(lambda frame: bool(frame.caught_up))
            async with stranger.session() as newer:
                await newer.hello("d")
                end = await session.ended()
                await newer.send("ping { nonce: 5 }")
                await newer.until(lambda frame: any(pong.nonce == 5 for pong in frame.pong))
        else:
            end = await session.ended()
    assert (end.status, end.reason) == (row.status, row.reason), end.message
    if not row.no_closed:
        assert_closed(row, session.seen[-1], end)


def assert_closed(row: Row, last: session_pb2.ServerFrame, end: End) -> None:
    """The last frame is `closed`, alone, and says what the status says."""
    assert [field.name for field, _ in last.ListFields()] == ["closed"]
    closed = last.closed[0]
    assert session_pb2.Closed.Reason.Name(closed.reason) == row.closed
    assert (STATUS[closed.problem.code], closed.problem.reason) == (end.status, end.reason)
    assert closed.problem.message == end.message


@of_kind("harmless")
async def test_harmless(row: Row, stranger: Stranger) -> None:
    async with stranger.session() as session:
        await session.hello()
        await session.send(*row.frames, peer=stranger.peer)
        if row.then_ack_backwards:
            frame = await session.until(lambda frame: bool(frame.entries))
            newest = max(entry.timeline_seq for entry in frame.entries)
            await session.send(
                f"ack {{ up_to_timeline_seq: {newest} }}",
                f"ack {{ up_to_timeline_seq: {newest - 1} }}",
                f"ack {{ up_to_timeline_seq: {newest} }}",
            )
        await session.send("ping { nonce: 9 }")
        await session.until(lambda frame: any(pong.nonce == 9 for pong in frame.pong))


@of_kind("message")
async def test_message_in_a_session(row: Row, stranger: Stranger) -> None:
    message = text_format.Parse(
        fill(row.message, {"peer": stranger.peer}), types_pb2.OutgoingMessage()
    )
    good = types_pb2.OutgoingMessage()
    text_format.Parse(fill('idempotency_key: "$key" content { text { body: "good" } }'), good)
    good.to_user_id = stranger.peer
    frame = session_pb2.ClientFrame(send=session_pb2.Send(messages=[message, good]))
    async with stranger.session() as session:
        await session.hello()
        await session.send(frame.SerializeToString())
        await session.until(lambda frame: _has_result(frame, good.idempotency_key))
        await session.until(lambda frame: _has_result(frame, message.idempotency_key))
        results = {r.idempotency_key: r for frame in session.seen for r in frame.send_results}
    refused, accepted = results[message.idempotency_key], results[good.idempotency_key]
    assert_refused(row, refused)
    assert not accepted.HasField("problem"), "a neighbour of the bad one is accepted"
    assert accepted.message_id


@of_kind("batch")
async def test_batch_in_a_session(row: Row, stranger: Stranger) -> None:
    send = session_pb2.Send()
    for _ in range(row.repeat):
        message = send.messages.add(idempotency_key=new_key())
        text_format.Parse(fill(row.message, {"peer": stranger.peer}), message)
    async with stranger.session() as session:
        await session.hello()
        await session.send(
            session_pb2.ClientFrame(send=send).SerializeToString(), "ping { nonce: 9 }"
        )
        await session.until(lambda frame: any(pong.nonce == 9 for pong in frame.pong))
        last = send.messages[-1].idempotency_key
        await session.until(lambda frame: _has_result(frame, last))
    results = [result for frame in session.seen for result in frame.send_results]
    assert [one.idempotency_key for one in results] == [
        message.idempotency_key for message in send.messages
    ]
    for result in results:
        assert_refused(row, result)
        assert result.problem.metadata["limit"] == "max_send_batch"
        assert result.problem.metadata["value"] == str(row.repeat - 1)
        assert result.problem.metadata["size"] == str(row.repeat)


def _has_result(frame: session_pb2.ServerFrame, key: bytes) -> bool:
    return any(result.idempotency_key == key for result in frame.send_results)


def assert_refused(row: Row, result: session_pb2.SendResult) -> None:
    """Refused for the row's reason, and nothing else is said of it."""
    assert (STATUS[result.problem.code], result.problem.reason) == (row.status, row.reason)
    assert {field.name for field, _ in result.ListFields()} <= {"idempotency_key", "problem"}


@of_kind("message")
async def test_message_without_a_session(row: Row, stranger: Stranger) -> None:
    request = session_pb2.SendMessagesRequest()
    text_format.Parse(fill(row.message, {"peer": stranger.peer}), request.messages.add())
    answer = await unary(
        stranger.channel,
        SEND_MESSAGES,
        request,
        session_pb2.SendMessagesResponse,
        bearer(stranger.token),
    )
    assert_refused(row, answer.results[0])


@of_kind("call")
async def test_call(row: Row, stranger: Stranger, running_mesh: RunningMesh) -> None:
    if row.request.startswith("hex:"):
        request = bytes.fromhex(row.request.removeprefix("hex:"))
    else:
        kind = message_factory.GetMessageClass(public_methods()[row.method].input_type)
        request = text_format.Parse(fill(row.request), kind()).SerializeToString()
    login = bearer(stranger.token)
    if row.scope or row.tenant:
        tenant = row.tenant or "default"
        login = bearer(running_mesh.token("back-end", scopes=row.scope.split(), tenant=tenant))
    if row.on_behalf_of:
        login = (*login, ("chatmesh-on-behalf-of", row.on_behalf_of))
    end = await call(stranger.connection, row.method, login, [request])
    assert (end.status, end.reason) == (row.status, row.reason), end.message


@pytest.mark.parametrize("path", public_methods())
async def test_random_bytes_on_every_method(path: str, stranger: Stranger) -> None:
    """Undecodable everywhere, with a text that says nothing of the bytes."""
    for hostile in (b"\xff" * 64, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xc3", b"\x07" * 1_000):
        end = await call(stranger.connection, path, bearer(stranger.token), [hostile])
        assert (end.status, end.reason) == ("INVALID_ARGUMENT", "UNDECODABLE"), end
        assert end.message == "the request could not be decoded"
