"""Client streams: matching, order, resend after an end, age, bounds; and the server's writer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from chatmesh.runtime import faults, metrics
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.peers import Peer
from chatmesh.runtime.readiness import Readiness
from chatmesh.runtime.reopening import ReopeningStream
from chatmesh.runtime.settings import ServerSettings
from chatmesh.runtime.streams import ItemStream, RequestStream
from tests.runtime.conftest import Serving
from tests.runtime.echo import EchoServicer, EchoStub, Message

SETTINGS = ServerSettings(mesh_listen="127.0.0.1:0")
Script = Callable[[Any, int], Coroutine[Any, Any, None]]


async def echo(context: Any, number: int) -> None:
    """Each request back."""
    while (request := await context.read()) is not grpc.aio.EOF:
        await context.write(Message(request_id=request.request_id, text=request.text))


class Scripted(EchoServicer):
    """Runs `script(context, number of the stream)` and notes what came."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.streams = 0
        self.received: list[list[Any]] = []
        self.metadata: list[dict[str, Any]] = []

    async def read(self, context: Any) -> Any:
        request = await context.read()
        if request is not grpc.aio.EOF:
            self.received[-1].append(request)
        return request

    async def StreamStream(self, requests: Any, context: Any) -> None:
        self.streams += 1
        self.received.append([])
        self.metadata.append(dict(context.invocation_metadata()))
        await self.script(context, self.streams)


@asynccontextmanager
async def opened(
    serving: Serving, servicer: EchoServicer, **options: Any
) -> AsyncIterator[tuple[RequestStream[Any, Any], Readiness]]:
    _, address = await serving.server(servicer)
    peer = Peer(address, SETTINGS, caller="tests")
    stub = EchoStub(peer.channel)
    readiness = Readiness()
    stream: RequestStream[Any, Any] = RequestStream(
        stub.StreamStream,
        name="echo",
        readiness=readiness.require("echo"),
        **{"max_in_flight": 100, **options},
    )
    async with running(stream):
        yield stream, readiness
    await peer.close()


@asynccontextmanager
async def running(stream: ReopeningStream[Any]) -> AsyncIterator[None]:
    task = asyncio.create_task(stream.run())
    try:
        async with asyncio.timeout(30):
            yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()


async def test_answers_find_their_requests_whatever_their_order(serving: Serving) -> None:
    async def script(context: Any, number: int) -> None:
        held = [await context.read() for _ in range(50)]
        for request in reversed(held):
            await context.write(Message(request_id=request.request_id, text=request.text + "!"))
        await context.read()

    async with opened(serving, Scripted(script)) as (stream, readiness):
        requests = [Message(text=str(number)) for number in range(50)]
        calls = [stream.call(request, timeout_seconds=20) for request in requests]
        answers = await asyncio.gather(*calls)
        assert [answer.text for answer in answers] == [f"{number}!" for number in range(50)]
        assert stream.in_flight == 0
        assert readiness.is_ready
    assert not readiness.is_ready


async def test_unanswered_requests_are_sent_again_in_their_first_order(serving: Serving) -> None:
    servicer: Scripted

    async def script(context: Any, number: int) -> None:
        if number == 1:  # takes five, answers the second, and dies
            taken = [await servicer.read(context) for _ in range(5)]
            await context.write(Message(request_id=taken[1].request_id, text="second"))
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        while (request := await servicer.read(context)) is not grpc.aio.EOF:
            await context.write(Message(request_id=request.request_id, text=request.text))

    servicer = Scripted(script)
    async with opened(serving, servicer) as (stream, _):
        names = ["a", "b", "c", "d", "e"]
        calls = [stream.call(Message(text=name), timeout_seconds=20) for name in names]
        answers = [answer.text for answer in await asyncio.gather(*calls)]
    assert answers == ["a", "second", "c", "d", "e"]
    assert [request.text for request in servicer.received[0]] == names
    assert [request.text for request in servicer.received[1]] == ["a", "c", "d", "e"]
    assert [request.request_id for request in servicer.received[1]] == [1, 3, 4, 5]


async def test_requests_made_while_closed_are_sent_once_open(serving: Serving) -> None:
    servicer = Scripted(echo)
    _, address = await serving.server(servicer)
    peer = Peer(address, SETTINGS, caller="tests")
    stream: RequestStream[Any, Any] = RequestStream(
        EchoStub(peer.channel).StreamStream, name="late", max_in_flight=3
    )
    early = asyncio.create_task(stream.call(Message(text="early"), timeout_seconds=20))
    await asyncio.sleep(0)
    assert not stream.is_open
    async with running(stream):
        assert (await early).text == "early"
    await peer.close()


async def test_send_hears_its_answers_and_pushes(serving: Serving) -> None:
    async def script(context: Any, number: int) -> None:
        await context.write(Message(text="news"))
        await echo(context, number)

    answered: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    news: asyncio.Queue[str] = asyncio.Queue()
    async with opened(
        serving,
        Scripted(script),
        on_response=lambda request, response: answered.put_nowait((request.text, response.text)),
        on_push=lambda response: news.put_nowait(response.text),
    ) as (stream, _):
        stream.send(Message(text="one"))
        stream.send(Message(text="two"))
        assert [await answered.get(), await answered.get()] == [("one", "one"), ("two", "two")]
        assert await news.get() == "news"


async def test_the_greeting_comes_first_on_each_stream(serving: Serving) -> None:
    servicer: Scripted

    async def script(context: Any, number: int) -> None:
        while (request := await servicer.read(context)) is not grpc.aio.EOF:
            if request.request_id:
                await context.write(Message(request_id=request.request_id))
                return

    servicer = Scripted(script)
    opens: list[int] = []
    async with opened(
        serving,
        servicer,
        greeting=lambda: Message(text="hello"),
        on_open=lambda: opens.append(1),
    ) as (stream, _):
        await stream.call(Message(text="x"), timeout_seconds=20)
        await stream.call(Message(text="y"), timeout_seconds=20)
    texts = [[request.text for request in stream] for stream in servicer.received[:2]]
    assert texts == [["hello", "x"], ["hello", "y"]]
    assert len(opens) >= 2


async def test_too_many_in_flight(serving: Serving) -> None:
    async def script(context: Any, number: int) -> None:
        while await context.read() is not grpc.aio.EOF:
            pass

    async with opened(serving, Scripted(script), max_in_flight=2) as (stream, _):
        stream.send(Message())
        stream.send(Message())
        with pytest.raises(Fault) as caught:
            stream.send(Message())
        assert caught.value.reason == faults.PEER_BUSY
        with pytest.raises(Fault) as again:
            await stream.call(Message(), timeout_seconds=1)
        assert again.value.reason == faults.PEER_BUSY
        stream.forget(1)
        stream.send(Message())


async def test_no_answer_in_time(serving: Serving) -> None:
    async def script(context: Any, number: int) -> None:
        while await context.read() is not grpc.aio.EOF:
            pass

    async with opened(serving, Scripted(script)) as (stream, _):
        with pytest.raises(Fault) as caught:
            await stream.call(Message(), timeout_seconds=0.01)
        assert caught.value.reason == faults.PEER_TIMEOUT
        assert stream.in_flight == 0


async def test_a_cancelled_call_is_forgotten(serving: Serving) -> None:
    servicer = Scripted(echo)
    async with opened(serving, servicer) as (stream, _):
        call = asyncio.create_task(stream.call(Message(text="x"), timeout_seconds=20))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait((call,))
        assert stream.in_flight == 0
        assert (await stream.call(Message(text="y"), timeout_seconds=20)).text == "y"


async def test_a_stream_reopens_by_its_age_and_loses_nothing(serving: Serving) -> None:
    servicer = Scripted(echo)
    ends: list[str] = []
    async with opened(serving, servicer, max_age_seconds=0.05, on_end=ends.append) as (stream, _):
        count = 0
        while servicer.streams < 4:
            answer = await stream.call(Message(text=str(count)), timeout_seconds=20)
            assert answer.text == str(count)
            count += 1
    assert ends
    assert set(ends) <= {"age"}


async def test_restart_sends_again(serving: Serving) -> None:
    servicer: Scripted
    silent = asyncio.Event()

    async def script(context: Any, number: int) -> None:
        while (request := await servicer.read(context)) is not grpc.aio.EOF:
            if number == 1:
                silent.set()
            else:
                await context.write(Message(request_id=request.request_id, text="late"))

    servicer = Scripted(script)
    async with opened(serving, servicer) as (stream, _):
        call = asyncio.create_task(stream.call(Message(text="x"), timeout_seconds=20))
        await silent.wait()
        stream.restart()
        assert (await call).text == "late"


async def test_a_poisonous_request_is_given_up(serving: Serving) -> None:
    servicer: Scripted

    async def script(context: Any, number: int) -> None:
        while (request := await servicer.read(context)) is not grpc.aio.EOF:
            if request.text == "poison":
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
            await context.write(Message(request_id=request.request_id, text=request.text))

    servicer = Scripted(script)
    async with opened(serving, servicer) as (stream, _):
        with pytest.raises(Fault) as caught:
            await stream.call(Message(text="poison"), timeout_seconds=25)
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert (await stream.call(Message(text="good"), timeout_seconds=25)).text == "good"


async def test_the_server_stops_and_another_takes_over(serving: Serving) -> None:
    server, address = await serving.server(Scripted(echo))
    peer = Peer(address, SETTINGS, caller="tests")
    readiness = Readiness()
    component = readiness.require("echo")
    went_down = asyncio.Event()
    stream: RequestStream[Any, Any] = RequestStream(
        EchoStub(peer.channel).StreamStream, name="echo", max_in_flight=9, readiness=component
    )
    async with running(stream):
        assert (await stream.call(Message(text="1"), timeout_seconds=20)).text == "1"
        readiness.on_change(lambda: went_down.set() if not component.is_up else None)
        await server.stop(0)
        call = asyncio.create_task(stream.call(Message(text="2"), timeout_seconds=20))
        await went_down.wait()
        await serving.server(address=address)
        assert (await call).text == "2"
        assert readiness.is_ready
    await peer.close()


# --- items -----------------------------------------------------------------------------------


def pack(items: list[str]) -> bytes:
    """One message whose text is the items; `bytes`, as frames that are joined already."""
    return Message(text=",".join(items)).SerializeToString()


async def test_items_are_gathered_settled_and_sent_again(serving: Serving) -> None:
    servicer: Scripted
    first_stream = asyncio.Event()

    async def script(context: Any, number: int) -> None:
        while (request := await servicer.read(context)) is not grpc.aio.EOF:
            if number == 1:
                await context.write(Message(text="2"))  # acknowledges item 2 only
                await first_stream.wait()
                return
            await context.write(Message(text=request.text))

    servicer = Scripted(script)
    _, address = await serving.server(servicer)
    peer = Peer(address, SETTINGS, caller="tests")
    settled: list[int] = []
    everything = asyncio.Event()

    def on_answer(answer: Any) -> None:
        keys = [int(key) for key in answer.text.split(",")]
        settled.extend(key for key in keys if stream.settle(key) is not None)
        if settled == [2]:
            first_stream.set()
        if len(settled) == 3:
            everything.set()

    stream: ItemStream[str, bytes, Any] = ItemStream(
        EchoStub(peer.channel).StreamStream,
        name="items",
        pack=pack,
        on_answer=on_answer,
        max_in_flight=3,
    )
    for key in (1, 2, 3):
        assert stream.offer(str(key), key)
    assert stream.offer("again", 3), "a key that waits is not queued twice"
    assert not stream.offer("too many", 4)
    async with running(stream):
        await everything.wait()
    assert settled == [2, 1, 3]
    assert [frame.text for frame in servicer.received[0]] == ["1,2,3"]
    assert [frame.text for frame in servicer.received[1]] == ["1,3"]
    await peer.close()


async def test_items_can_be_taken_back() -> None:
    stream: ItemStream[str, bytes, Any] = ItemStream(
        lambda: None, name="x", pack=pack, on_answer=lambda answer: None, max_in_flight=9
    )
    stream.offer("a", 1)
    stream.offer("loose")
    stream.offer("b", 2)
    assert stream.take_back() == [(1, "a"), (2, "b")]
    assert (stream.in_flight, stream.unwritten) == (0, 0)


def test_reopens_are_counted() -> None:
    assert metrics.counter(metrics.STREAM_REOPENS) is metrics.counter(metrics.STREAM_REOPENS)
