"""Raw stubs for hostile tests: bytes in, bytes out, nothing of the SDK in between.

`RawSession` is one `Session` stream; `call` is any RPC of any kind by its path. Both tell how it
ended as (status name, reason of google.rpc.ErrorInfo).
"""

import asyncio
import base64
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc
from google.protobuf import text_format

from chatmesh.cli.bench.h2 import GrpcConnection, Metadata
from chatmesh.runtime import faults
from chatmesh.v1 import session_pb2

SESSION = "/chatmesh.v1.ChatService/Session"
ANSWER_SECONDS = 30
"""Long: nothing is timed here, but a test that waits for ever tells nothing."""


CODES = {code.value[0]: code for code in grpc.StatusCode}


class End(NamedTuple):
    """How a call ended. `reason` is "" where no ErrorInfo came."""

    status: str
    reason: str
    message: str = ""


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Metadata with a token."""
    return (("authorization", f"Bearer {token}"),)


def new_key(at_ms: int | None = None) -> bytes:
    """A UUIDv7."""
    made = bytearray(os.urandom(16))
    made[:6] = (at_ms if at_ms is not None else time.time_ns() // 1_000_000).to_bytes(6, "big")
    made[6] = made[6] & 0x0F | 0x70
    made[8] = made[8] & 0x3F | 0x80
    return bytes(made)


def fill(text: str, names: dict[str, str] | None = None) -> str:
    """Placeholders of the tables: $key, ${x*N} (N times x), and names such as $peer."""
    text = re.sub(r"\$\{(.+?)\*(\d+)\}", lambda m: m[1] * int(m[2]), text)
    text = re.sub(r"\$key\b", lambda _: "".join(f"\\x{byte:02x}" for byte in new_key()), text)
    for name, value in (names or {}).items():
        text = text.replace(f"${name}", value)
    return text


def client_frame(text: str, names: dict[str, str] | None = None) -> bytes:
    """A frame from protobuf text format, or `hex:…` for bytes that are none."""
    if text.startswith("hex:"):
        return bytes.fromhex(fill(text.removeprefix("hex:")))
    return text_format.Parse(fill(text, names), session_pb2.ClientFrame()).SerializeToString()


def end_of(error: grpc.aio.AioRpcError) -> End:
    """Status and reason of a failed call."""
    fault = faults.from_rpc_error(error)
    code = error.code()
    reason = "" if fault.reason == code.name and not _has_details(error) else fault.reason
    return End(code.name, reason, error.details() or "")


def _has_details(error: grpc.aio.AioRpcError) -> bool:
    return any(key == faults.DETAILS_TRAILER for key, _ in error.trailing_metadata() or ())


async def call(
    connection: GrpcConnection,
    path: str,
    metadata: Metadata = (),
    requests: Iterable[bytes] = (b"",),
) -> End:
    """Any RPC by its path, whatever its kind: on the wire they are the same. Answers are dropped.

    The client half-closes after its requests, so that a stream that was let in ends by itself. By
    HTTP/2 directly: grpc.aio's own client sometimes answers INTERNAL for a refusal that overtook
    its request.
    """
    async with asyncio.timeout(ANSWER_SECONDS):
        try:
            _, ended = await connection.call(path, metadata, requests)
        except ConnectionError as error:
            return End("UNAVAILABLE", "", str(error))
    details = ended.trailers.get(faults.DETAILS_TRAILER)
    decoded = b"" if details is None else base64.b64decode(details + b"=" * (-len(details) % 4))
    code = CODES[ended.code]
    fault = faults.from_details(
        code, ended.message, grpc.aio.Metadata((faults.DETAILS_TRAILER, decoded))
    )
    return End(code.name, fault.reason if decoded else "", ended.message)


async def unary(
    channel: grpc.aio.Channel,
    path: str,
    request: Any,
    response: type[Any],
    metadata: Sequence[tuple[str, str | bytes]] = (),
) -> Any:
    """A unary call with messages. Raises AioRpcError."""
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    answer = await method(request.SerializeToString(), metadata=metadata, timeout=ANSWER_SECONDS)
    return response.FromString(answer)


@dataclass(slots=True)
class _Got:
    frame: session_pb2.ServerFrame | None
    end: End | None


class RawSession:
    """One session: `async with RawSession(channel, token) as session`."""

    def __init__(self, channel: grpc.aio.Channel, token: str | None) -> None:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(SESSION)
        self._call = method(metadata=bearer(token) if token is not None else ())
        self._got: asyncio.Queue[_Got] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())
        self.seen: list[session_pb2.ServerFrame] = []
        self.end: End | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._call.cancel()
        await self._reading

    async def send(self, *frames: str | bytes, **names: str) -> None:
        """Frames as bytes or text (see `client_frame`). What comes after the end is not sent."""
        for frame in frames:
            data = frame if isinstance(frame, bytes) else client_frame(frame, names)
            try:
                await self._call.write(data)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # the server has ended the stream; `ended` tells how

    async def half_close(self) -> None:
        """No frame follows."""
        await self._call.done_writing()

    async def hello(self, device_id: str = "device", **names: str) -> session_pb2.Welcome:
        """Say hello and be live."""
        await self.send(f'hello {{ device_id: "{device_id}" }}', **names)
        frame = await self.until(lambda frame: bool(frame.welcome))
        await self.until(lambda frame: bool(frame.caught_up))
        return frame.welcome[0]

    async def until(
        self, wanted: Callable[[session_pb2.ServerFrame], bool]
    ) -> session_pb2.ServerFrame:
        """The first frame seen or to come that is wanted; fails when the session ends before."""
        for frame in self.seen:
            if wanted(frame):
                return frame
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                got = await self._got.get()
                if got.frame is None:
                    raise AssertionError(f"the session ended before what was wanted: {got.end}")
                self.seen.append(got.frame)
                if wanted(got.frame):
                    return got.frame

    async def ended(self) -> End:
        """Read to the end of the session; how it ended."""
        async with asyncio.timeout(ANSWER_SECONDS):
            # what came before the end may still wait to be taken
            while self.end is None or not self._got.empty():
                got = await self._got.get()
                if got.frame is not None:
                    self.seen.append(got.frame)
        return self.end

    def entries(self) -> list[tuple[int, str]]:
        """(timeline_seq, text) of all text messages seen."""
        return [
            (entry.timeline_seq, entry.event.content.text.body)
            for frame in self.seen
            for entry in frame.entries
            if entry.event.content.HasField("text")
        ]

    async def _read(self) -> None:
        try:
            while isinstance(data := await self._call.read(), bytes):
                await self._got.put(_Got(session_pb2.ServerFrame.FromString(data), None))
            self.end = await self._status()
        except grpc.aio.AioRpcError as error:
            self.end = end_of(error)
        except asyncio.CancelledError:
            self.end = End("CANCELLED", "", "by the test")
        await self._got.put(_Got(None, self.end))

    async def _status(self) -> End:
        code = await self._call.code()
        if code is grpc.StatusCode.OK:
            return End("OK", "")
        trailers = await self._call.trailing_metadata()
        details = await self._call.details()
        return end_of(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details))
