"""A lean HTTP/2 client for gRPC streams: one connection a device, no threads, no objects a frame.

Role: the load client's transport. It speaks what a correct gRPC client must (preface, settings,
flow control both ways, pings, GOAWAY, trailers with status) and nothing else: no retries, no
compression, no priorities. Each gRPC message that comes in is one call of `on_message(bytes)`.

Why not grpcio: its client costs three to six times as much CPU a frame, on the two cores that
the measured mesh runs on. Message bytes are handed over as they are.

Rules: knows no chat. A peer that breaks HTTP/2 ends the connection with ConnectionError.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Iterable, Sequence
from typing import Final, cast

from hpack import Decoder, HPACKError

from chatmesh.cli.bench.grpc_stream import (
    REFILL_BYTES,
    UNAVAILABLE,
    WINDOW_BYTES,
    Ended,
    GrpcStream,
    OnEnd,
    OnMessage,
    header_block,
)

Metadata = Sequence[tuple[str, str | bytes]]

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD: Final = struct.Struct(">HBBBI")  # length (high 16, low 8), type, flags, stream
_SETTING: Final = struct.Struct(">HI")

_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_ENABLE_PUSH, _INITIAL_WINDOW, _MAX_FRAME = 0x2, 0x4, 0x5

MAX_FRAME_BYTES: Final = 1 << 20
"""Largest frame we accept; larger messages come in several."""
_DEFAULT_WINDOW: Final = 65_535
_MAX_WINDOW: Final = (1 << 31) - 1


class GrpcConnection(asyncio.Protocol):
    """One HTTP/2 connection. Made by `connect`."""

    def __init__(self, authority: str, scheme: str, window_bytes: int = WINDOW_BYTES) -> None:
        self._authority = authority
        self._scheme = scheme
        self._window_bytes = window_bytes
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._streams: dict[int, GrpcStream] = {}
        self._next_stream = 1
        self._decoder = Decoder(max_header_list_size=65_536)
        self._headers: tuple[int, int, bytearray] | None = None  # stream, flags, block so far
        self._unread_bytes = 0
        self.window = _DEFAULT_WINDOW
        self.initial_window = _DEFAULT_WINDOW
        self.max_frame = 16_384
        self.closed_because: str | None = None

    # -- for users ---------------------------------------------------------------------------

    def open(
        self, path: str, metadata: Metadata, on_message: OnMessage, on_end: OnEnd
    ) -> GrpcStream:
        """Begin a call of `/package.Service/Method`. Raises ConnectionError when it is closed."""
        if self.closed_because is not None:
            raise ConnectionError(self.closed_because)
        stream = GrpcStream(self, self._next_stream, self.initial_window, on_message, on_end)
        self._next_stream += 2
        self._streams[stream.number] = stream
        block = header_block(
            (
                (":method", "POST"), (":scheme", self._scheme), (":path", path),
                (":authority", self._authority), ("te", "trailers"),
                ("content-type", "application/grpc"), ("user-agent", "chatmesh-bench"),
                *metadata,
            )
        )  # fmt: skip
        if len(block) > self.max_frame:
            raise ConnectionError("the metadata is larger than one HTTP/2 frame")
        self.write_frame(_HEADERS, _END_HEADERS, stream.number, block)
        return stream

    async def call(
        self, path: str, metadata: Metadata, requests: Iterable[bytes]
    ) -> tuple[list[bytes], Ended]:
        """A call of any kind that half-closes after its requests: all answers, and how it ended."""
        done: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        answers: list[bytes] = []
        stream = self.open(path, metadata, answers.append, done.set_result)
        for request in requests:
            stream.send(request)
        stream.half_close()
        try:
            return answers, await done
        finally:
            if not done.done():
                stream.cancel()

    def close(self) -> None:
        """Close at once; calls under way end as UNAVAILABLE."""
        if self._transport is None:
            return
        if self._scheme == "https":
            # an orderly end would wait for the peer's close_notify, and gRPC servers send none
            self._transport.abort()
        else:
            self._transport.close()

    # -- for streams ---------------------------------------------------------------------------

    def write_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Write one frame; nothing when the connection is gone."""
        if self._transport is not None and self.closed_because is None:
            size = len(payload)
            self._transport.write(_HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload)

    def forget(self, stream: GrpcStream) -> None:
        """The call is over."""
        self._streams.pop(stream.number, None)

    # -- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Preface, settings, and a window as large as we want."""
        self._transport = cast(asyncio.Transport, transport)
        settings = b"".join(
            _SETTING.pack(name, value)
            for name, value in (
                (_ENABLE_PUSH, 0), (_INITIAL_WINDOW, self._window_bytes),
                (_MAX_FRAME, MAX_FRAME_BYTES),
            )
        )  # fmt: skip
        self._transport.write(_PREFACE)
        self.write_frame(_SETTINGS, 0, 0, settings)
        if self._window_bytes > _DEFAULT_WINDOW:
            more = self._window_bytes - _DEFAULT_WINDOW
            self.write_frame(_WINDOW, 0, 0, more.to_bytes(4, "big"))

    def data_received(self, data: bytes) -> None:
        """Cut the bytes into frames."""
        if self._rest:
            data = self._rest + data
        start, size = 0, len(data)
        try:
            while size - start >= 9:
                high, low, kind, flags, stream = _HEAD.unpack_from(data, start)
                length = high << 8 | low
                if length > MAX_FRAME_BYTES:
                    raise ConnectionError("a frame larger than our settings allow")
                end = start + 9 + length
                if end > size:
                    break
                self._on_frame(kind, flags, stream & 0x7FFF_FFFF, data[start + 9 : end])
                start = end
        except (ConnectionError, HPACKError, struct.error, IndexError) as error:
            self._fail(f"the server broke HTTP/2: {error}")
            return
        self._rest = data[start:]

    def eof_received(self) -> None:
        """Nothing is sent after the peer's end."""

    def connection_lost(self, exc: Exception | None) -> None:
        """All calls under way end as UNAVAILABLE."""
        self._fail(f"connection lost: {exc}" if exc else "the server closed the connection")

    # -- frames ------------------------------------------------------------------------------

    def _on_frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == _DATA:
            self._on_data(flags, number, payload)
        elif kind in (_HEADERS, _CONTINUATION):
            self._on_headers(kind, flags, number, payload)
        elif kind == _WINDOW:
            self._on_window(number, int.from_bytes(payload, "big") & 0x7FFF_FFFF)
        elif kind == _PING:
            if not flags & _ACK:
                self.write_frame(_PING, _ACK, 0, payload)
        elif kind == _SETTINGS:
            if not flags & _ACK:
                self._on_settings(payload)
        elif kind == _RST:
            stream = self._streams.get(number)
            if stream is not None:
                self.forget(stream)
                code = int.from_bytes(payload, "big")
                stream.on_end(Ended(UNAVAILABLE, f"reset by the server, HTTP/2 code {code}", {}))
        # GOAWAY: calls under way go on; the connection's end tells the rest. Others: ignored.

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        self._unread_bytes += len(payload)
        if self._unread_bytes >= REFILL_BYTES:
            self.write_frame(_WINDOW, 0, 0, self._unread_bytes.to_bytes(4, "big"))
            self._unread_bytes = 0
        if flags & _PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        stream = self._streams.get(number)
        if stream is not None:
            stream.take(payload)
            if flags & _END_STREAM:
                stream.end({})

    def _on_headers(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == _HEADERS:
            if flags & _PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            if flags & _PRIORITY:
                payload = payload[5:]
            self._headers = (number, flags, bytearray())
        if self._headers is None or self._headers[0] != number:
            raise ConnectionError("a continuation of nothing")
        _, first_flags, block = self._headers
        block += payload
        if not flags & _END_HEADERS:
            return
        self._headers = None
        headers = {
            _text(name): bytes(value)
            for name, value in cast(
                Iterable[tuple[bytes, bytes]], self._decoder.decode(bytes(block), raw=True)
            )
        }
        stream = self._streams.get(number)
        if stream is None:
            return
        if first_flags & _END_STREAM:
            stream.end(headers)
        else:
            stream.headers = headers

    def _on_window(self, number: int, by: int) -> None:
        if number:
            stream = self._streams.get(number)
            if stream is not None:
                stream.widen(by)
            return
        self.window = min(self.window + by, _MAX_WINDOW)
        for stream in list(self._streams.values()):
            stream.drain()

    def _on_settings(self, payload: bytes) -> None:
        for name, value in _SETTING.iter_unpack(payload):
            if name == _INITIAL_WINDOW:
                by, self.initial_window = value - self.initial_window, value
                for stream in list(self._streams.values()):
                    stream.widen(by)
            elif name == _MAX_FRAME:
                self.max_frame = value
        self.write_frame(_SETTINGS, _ACK, 0, b"")

    def _fail(self, because: str) -> None:
        if self.closed_because is None:
            self.closed_because = because
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            stream.on_end(Ended(UNAVAILABLE, because, {}))


async def connect(
    target: str, tls: ssl.SSLContext | None = None, *, window_bytes: int = WINDOW_BYTES
) -> GrpcConnection:
    """Connect to `HOST:PORT` or `unix:/path`.

    Raises OSError when nobody listens there, ssl.SSLError when the peer is not trusted.
    """
    loop = asyncio.get_running_loop()
    scheme = "https" if tls else "http"
    if tls is not None:
        tls.set_alpn_protocols(["h2"])
    if target.startswith("unix:"):
        _, made = await loop.create_unix_connection(
            lambda: GrpcConnection("localhost", scheme, window_bytes),
            target.removeprefix("unix:"),
            ssl=tls,
        )
        return made
    host, _, port = target.rpartition(":")
    _, made = await loop.create_connection(
        lambda: GrpcConnection(target, scheme, window_bytes), host.strip("[]"), int(port), ssl=tls
    )
    return made


def _text(name: bytes | str) -> str:
    return name.decode("ascii", "replace") if isinstance(name, bytes | memoryview) else name
