"""The load's HTTP/2 client against a real grpc.aio server: messages, windows, statuses, ends."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from chatmesh.cli.bench.grpc_stream import UNAVAILABLE, Ended
from chatmesh.cli.bench.h2 import GrpcConnection, connect

ECHO, REFUSE, WHOAMI = "/test.Echo/Stream", "/test.Echo/Refuse", "/test.Echo/WhoAmI"
LARGE = 3 << 20
"""Far more than the 64 KiB that HTTP/2 allows before the first WINDOW_UPDATE."""


async def _echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def _refuse(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    context.set_trailing_metadata((("details-bin", b"\x00\xff"), ("note", "n" * 300)))
    async for _ in requests:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no: 100 % sure, ü")
    yield b""


async def _who(request: bytes, context: Any) -> bytes:
    return str(dict(context.invocation_metadata())["authorization"]).encode() + request


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[tuple[grpc.aio.Server, str]]:
    made = grpc.aio.server(options=[("grpc.max_receive_message_length", LARGE * 2)])
    handlers: dict[str, Any] = {
        "Stream": grpc.stream_stream_rpc_method_handler(_echo),
        "Refuse": grpc.stream_stream_rpc_method_handler(_refuse),
        "WhoAmI": grpc.unary_unary_rpc_method_handler(_who),
    }
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    port = made.add_insecure_port("127.0.0.1:0")
    await made.start()
    yield made, f"127.0.0.1:{port}"
    await made.stop(None)


class Call:
    """A stream whose messages and end can be awaited."""

    def __init__(self, connection: GrpcConnection, path: str) -> None:
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self.stream = connection.open(path, (), self.messages.put_nowait, self.ended.set_result)


async def test_messages_come_back_whole_and_in_order(
    server: tuple[grpc.aio.Server, str],
) -> None:
    connection = await connect(server[1])
    call = Call(connection, ECHO)
    sent = [bytes([n % 256]) * (n * 37 % 5_000) for n in range(500)]
    for message in sent:
        call.stream.send(message)
    assert [await call.messages.get() for _ in sent] == sent
    call.stream.half_close()
    assert (await call.ended).code == 0
    connection.close()


async def test_messages_larger_than_any_window_pass_both_ways(
    server: tuple[grpc.aio.Server, str],
) -> None:
    connection = await connect(server[1])
    call = Call(connection, ECHO)
    for n in range(20):  # 60 MiB each way: more than our window, too
        call.stream.send(bytes([n]) * LARGE)
        assert await call.messages.get() == bytes([n]) * LARGE
    call.stream.send(b"x" * LARGE)
    call.stream.half_close()  # the end waits its turn behind what waits for window
    assert len(await call.messages.get()) == LARGE
    assert (await call.ended).code == 0
    connection.close()


async def test_streams_of_one_connection_do_not_mix(server: tuple[grpc.aio.Server, str]) -> None:
    connection = await connect(server[1])
    calls = [Call(connection, ECHO) for _ in range(8)]
    for number, call in enumerate(calls):
        call.stream.send(b"%d" % number)
    assert [await call.messages.get() for call in calls] == [b"%d" % n for n in range(8)]
    connection.close()
    assert [(await call.ended).code for call in calls] == [UNAVAILABLE] * 8


async def test_status_message_and_trailers_are_read(server: tuple[grpc.aio.Server, str]) -> None:
    connection = await connect(server[1])
    for _ in range(3):  # the header table that the server builds up is used again
        call = Call(connection, REFUSE)
        call.stream.send(b"")
        ended = await call.ended
        assert (ended.code, ended.message) == (9, "no: 100 % sure, ü")
        assert ended.trailers["note"] == b"n" * 300
    connection.close()


async def test_unknown_method_ends_as_unimplemented(server: tuple[grpc.aio.Server, str]) -> None:
    connection = await connect(server[1])
    answers, ended = await connection.call("/test.Echo/None", (), [b""])
    assert (answers, ended.code) == ([], 12)
    connection.close()


async def test_unary_call_carries_metadata_longer_than_a_byte_can_count(
    server: tuple[grpc.aio.Server, str],
) -> None:
    connection = await connect(server[1])
    token = "Bearer " + "t" * 2_000
    answers, ended = await connection.call(WHOAMI, [("authorization", token)], [b"!"])
    assert (answers, ended.code) == ([token.encode() + b"!"], 0)
    connection.close()


async def test_a_server_that_speaks_no_http2_ends_the_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        connection = await connect(f"127.0.0.1:{port}")
        call = Call(connection, ECHO)
        ended = await call.ended
        assert ended.code == UNAVAILABLE
        assert "HTTP/2" in ended.message
        with pytest.raises(ConnectionError):
            Call(connection, ECHO)
