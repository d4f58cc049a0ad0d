"""A device on raw stubs, as a careful client would be: stores, then acks; resends what was not
answered, under the same keys, in the first order; reconnects to any node and resumes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Self

import grpc

from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1 import session_pb2_grpc, types_pb2
from tests.raw import bearer, new_key

WAIT_SECONDS = 60
"""Long: nothing is timed here, but a test that waits for ever tells nothing."""
RECONNECT_SECONDS = 0.2


class Device:
    """One device of one user. `targets`: public addresses, tried in turn."""

    def __init__(
        self, targets: Sequence[str], user: str, device_id: str, token: str, *, node: int = 0
    ) -> None:
        self.user, self.device_id = user, device_id
        self._targets = targets
        self._node = itertools.count(node)
        self._metadata = bearer(token)
        self._channel: grpc.aio.Channel | None = None
        self._call: Any = None
        self._reading: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self._writing = asyncio.Lock()
        self.stored: list[types_pb2.Entry] = []
        self.results: dict[bytes, pb.SendResult] = {}
        self.answers = 0
        self.unanswered: dict[bytes, types_pb2.OutgoingMessage] = {}
        self.sent: dict[bytes, types_pb2.OutgoingMessage] = {}
        self.frames: list[pb.ServerFrame] = []
        self.end: tuple[grpc.StatusCode, str] | None = None
        self.acks = True
        self.connects = 0

    # -- one connection

    async def open(self, **hello: Any) -> Self:
        """Connect to the next node and be welcome; resumes from what is stored."""
        await self.hang_up()
        target = self._targets[next(self._node) % len(self._targets)]
        self._channel = grpc.aio.insecure_channel(target)
        self._call = session_pb2_grpc.ChatServiceStub(self._channel).Session(
            metadata=self._metadata
        )
        self.end = None
        self.frames = []
        self.connects += 1
        if self.stored:
            hello.setdefault("cursor", self.cursor)
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # a refusal may overtake the request; the reader tells how it ended
            await self.say(hello=pb.Hello(device_id=self.device_id, **hello))
        self._reading = asyncio.create_task(self._read())
        await self.until(lambda: self.welcome is not None or self.end is not None)
        if self.welcome is None:
            raise ConnectionError(f"not welcome: {self.end}")
        if self.unanswered:
            await self.say(send=pb.Send(messages=list(self.unanswered.values())))
        return self

    async def reopen(self) -> None:
        """Connect to whichever node takes us, as long as it takes."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    await self.open()
                except (ConnectionError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await asyncio.sleep(RECONNECT_SECONDS)
                else:
                    return

    async def hang_up(self) -> None:
        """Drop the connection without a word."""
        if self._call is not None:
            self._call.cancel()
        if self._reading is not None:
            await asyncio.wait((self._reading,))
        if self._channel is not None:
            await self._channel.close()
        self._call = self._reading = self._channel = None

    async def hang_up_after_welcome(self) -> None:
        """Connect and go; whether it worked does not matter."""
        try:
            await self.open()
        except (ConnectionError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        await self.hang_up()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.hang_up()

    async def say(self, **kind: Any) -> None:
        """One frame; lost when the stream is."""
        async with self._writing:
            await self._call.write(pb.ClientFrame(**kind))

    async def half_close(self) -> None:
        """No frame follows."""
        async with self._writing:
            await self._call.done_writing()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something to be seen."""
        async with asyncio.timeout(WAIT_SECONDS), self._changed:
            await self._changed.wait_for(condition)

    @property
    def welcome(self) -> pb.Welcome | None:
        """The welcome of this connection."""
        return next((frame.welcome[0] for frame in self.frames if frame.welcome), None)

    @property
    def closed(self) -> pb.Closed | None:
        """The last frame of this connection."""
        return next((frame.closed[0] for frame in self.frames if frame.closed), None)

    @property
    def cursor(self) -> types_pb2.Cursor:
        """What is stored."""
        last = self.stored[-1]
        return types_pb2.Cursor(timeline_seq=last.timeline_seq, message_id=last.event.message_id)

    # -- messages

    async def send(self, *texts: str, to: str, **fields: Any) -> list[bytes]:
        """Messages in one frame; their keys. Kept until they are answered."""
        messages = [
            types_pb2.OutgoingMessage(
                idempotency_key=new_key(),
                to_user_id=to,
                content=types_pb2.Content(text=types_pb2.TextContent(body=text)),
                **fields,
            )
            for text in texts
        ]
        for message in messages:
            self.unanswered[message.idempotency_key] = message
            self.sent[message.idempotency_key] = message
        try:
            await self.say(send=pb.Send(messages=messages))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the next connection sends them again
        return [message.idempotency_key for message in messages]

    async def answered(self, keys: Sequence[bytes]) -> list[pb.SendResult]:
        """Results of these keys, reconnecting as often as it takes."""
        await self.through(lambda: all(key in self.results for key in keys))
        return [self.results[key] for key in keys]

    async def through(self, condition: Callable[[], object]) -> None:
        """Wait for something to be seen, whatever happens to the connection."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                if self._reading is None or self._reading.done():
                    await self.reopen()
                await self.until(lambda: condition() or self.end is not None)

    def texts(self) -> list[str]:
        """Stored texts, in order."""
        return [entry.event.content.text.body for entry in self.stored]

    # -- inside

    async def _read(self) -> None:
        call = self._call
        try:
            while (frame := await call.read()) is not grpc.aio.EOF:
                await self._take(frame)
            self.end = (await call.code(), await call.details() or "")
        except grpc.aio.AioRpcError as error:
            self.end = (error.code(), error.details() or "")
        except asyncio.CancelledError:
            self.end = (grpc.StatusCode.CANCELLED, "hung up")
        async with self._changed:
            self._changed.notify_all()

    async def _take(self, frame: pb.ServerFrame) -> None:
        self.frames.append(frame)
        for entry in frame.entries:
            if self.stored:
                assert entry.timeline_seq == self.stored[-1].timeline_seq + 1, "contiguous, once"
            self.stored.append(entry)
        for result in frame.send_results:
            self.results[result.idempotency_key] = result
            self.answers += 1
            self.unanswered.pop(result.idempotency_key, None)
        if frame.entries and self.acks:
            ack = pb.Ack(up_to_timeline_seq=frame.entries[-1].timeline_seq)
            try:
                await self.say(ack=ack)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass  # the stream has ended: hello's cursor says it again
        async with self._changed:
            self._changed.notify_all()


async def all_see(devices: Iterable[Device], condition: Callable[[Device], object]) -> None:
    """Wait until each has seen something."""
    for device in devices:
        await device.until(partial(condition, device))
