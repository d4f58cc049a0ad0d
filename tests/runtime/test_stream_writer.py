"""The server's half of a stream: a bounded writer that joins what waits, and how it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from chatmesh.runtime import frames
from chatmesh.runtime.frames import FrameWriter
from tests.runtime.conftest import Serving
from tests.runtime.echo import EchoServicer, Message
from tests.runtime.test_streams import opened


class Gate:
    """Takes writes one at a time, when told to."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.permits = asyncio.Semaphore(0)
        self.busy = False
        self.fail = False

    async def write(self, message: Any) -> None:
        assert not self.busy, "two writes at once"
        self.busy = True
        await self.permits.acquire()
        self.busy = False
        if self.fail:
            raise ConnectionError("gone")
        self.written.append(message)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_waiting_bytes_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_JOINED_BYTES", 4)
    gate = Gate()
    writer: FrameWriter[bytes] = FrameWriter(gate, max_frames=10)
    async with asyncio.timeout(10), frames.running(writer):
        assert writer.offer(b"a")
        await settle()
        for frame in (b"bb", b"cc", b"dd", b"eeeeeeee", b"f"):
            assert writer.offer(frame)
        assert (writer.queued_frames, writer.queued_bytes, writer.is_writing) == (5, 15, True)
        for _ in range(5):
            gate.permits.release()
    assert gate.written == [b"a", b"bbcc", b"dd", b"eeeeeeee", b"f"]
    assert writer.queued_bytes == 0
    assert not writer.offer(b"late")


async def test_waiting_messages_are_joined_by_the_caller() -> None:
    gate = Gate()
    writer: FrameWriter[list[int]] = FrameWriter(
        gate, max_frames=10, join=lambda lists: [n for one in lists for n in one]
    )
    async with asyncio.timeout(10), frames.running(writer):
        for number in range(4):
            writer.offer([number])
            if number == 0:
                await settle()
        gate.permits.release()
        gate.permits.release()
    assert gate.written == [[0], [1, 2, 3]]


async def test_a_full_writer_says_so() -> None:
    gate = Gate()
    writer: FrameWriter[bytes] = FrameWriter(gate, max_frames=2, max_bytes=10)
    assert writer.offer(b"x" * 20), "a single large frame always fits an empty queue"
    assert not writer.offer(b"y"), "bytes are full"
    assert not FrameWriter[bytes](gate, max_frames=0).offer(b"")


async def test_a_failed_write_ends_the_body_with_its_error() -> None:
    gate = Gate()
    gate.fail = True
    gate.permits.release()
    writer: FrameWriter[bytes] = FrameWriter(gate, max_frames=2)

    async def handler() -> None:
        async with frames.running(writer):
            writer.offer(b"x")
            await asyncio.Event().wait()

    async with asyncio.timeout(10):
        with pytest.raises(ConnectionError):
            await handler()
    assert writer.failed
    assert not writer.offer(b"y")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_failing_body_ends_the_writer() -> None:
    gate = Gate()
    writer: FrameWriter[bytes] = FrameWriter(gate, max_frames=2)

    async def handler() -> None:
        async with frames.running(writer):
            writer.offer(b"x")
            await settle()
            raise KeyError("body")

    async with asyncio.timeout(10):
        with pytest.raises(KeyError):
            await handler()
    assert gate.written == []


async def test_a_writer_that_stalls_does_not_hold_the_end_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames, "CLOSE_SECONDS", 0.01)
    gate = Gate()
    writer: FrameWriter[bytes] = FrameWriter(gate, max_frames=2)
    async with asyncio.timeout(10), frames.running(writer):
        writer.offer(b"x")
    assert gate.written == []


async def test_a_servicer_with_a_writer_answers_out_of_order(serving: Serving) -> None:
    class Shuffling(EchoServicer):
        async def StreamStream(self, requests: Any, context: Any) -> None:
            writer: FrameWriter[Any] = FrameWriter(context, max_frames=100)
            held: list[Any] = []
            async with frames.running(writer):
                while (request := await context.read()) is not grpc.aio.EOF:
                    held.append(request)
                    if len(held) == 3:
                        while held:
                            one = held.pop()
                            writer.offer(Message(request_id=one.request_id, text=one.text))

    async with opened(serving, Shuffling()) as (stream, _):
        calls = [stream.call(Message(text=str(n)), timeout_seconds=20) for n in range(30)]
        assert [a.text for a in await asyncio.gather(*calls)] == [str(n) for n in range(30)]
