"""One gRPC call on an HTTP/2 connection: messages in DATA frames, flow control of the stream.

Rules: knows its connection only as `Wire`. See `h2` for what is spoken and what is not.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol
from urllib.parse import unquote

OnMessage = Callable[[bytes], None]
OnEnd = Callable[["Ended"], None]

_MESSAGE: Final = struct.Struct(">BI")  # compressed, length
_DATA, _RST, _WINDOW = 0, 3, 8
_END_STREAM: Final = 0x1
_CANCEL: Final = b"\0\0\0\x08"

WINDOW_BYTES: Final = 16 << 20
"""What a peer may have under way to us, per connection and per stream."""
REFILL_BYTES: Final = WINDOW_BYTES // 4
UNKNOWN: Final = 2
UNAVAILABLE: Final = 14
"""google.rpc.Code numbers."""


class Wire(Protocol):
    """What a stream needs of its connection."""

    window: int
    """Bytes that may be sent on the connection."""
    max_frame: int

    def write_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Write one frame; nothing when the connection is gone."""

    def forget(self, stream: GrpcStream) -> None:
        """The call is over."""


class Ended:
    """How a stream ended: status code and message, and the trailers."""

    __slots__ = ("code", "message", "trailers")

    def __init__(self, code: int, message: str, trailers: Mapping[str, bytes]) -> None:
        self.code = code
        self.message = message
        self.trailers = trailers


class GrpcStream:
    """One call. `send` writes a gRPC message; what comes is handed to the two callbacks."""

    __slots__ = (
        "_connection", "_end_queued", "_partial", "_queue", "_unread_bytes", "_window", "headers",
        "number", "on_end", "on_message",
    )  # fmt: skip

    def __init__(
        self, connection: Wire, number: int, window: int, on_message: OnMessage, on_end: OnEnd
    ) -> None:
        self._connection = connection
        self.number = number
        self.on_message = on_message
        self.on_end = on_end
        self.headers: dict[str, bytes] = {}
        self._partial = b""
        self._unread_bytes = 0
        self._window = window
        self._queue: deque[bytes] = deque()
        self._end_queued = False

    def send(self, message: bytes) -> None:
        """Send one gRPC message, at once while the windows allow it."""
        self._write(_MESSAGE.pack(0, len(message)) + message)

    def half_close(self) -> None:
        """Say that no message follows."""
        self._end_queued = True
        if not self._queue:
            self._connection.write_frame(_DATA, _END_STREAM, self.number, b"")

    def cancel(self) -> None:
        """Give the call up."""
        self._connection.write_frame(_RST, 0, self.number, _CANCEL)
        self._connection.forget(self)

    def _write(self, data: bytes) -> None:
        connection = self._connection
        size = len(data)
        if self._queue or size > min(self._window, connection.window, connection.max_frame):
            self._queue.append(data)
            self.drain()
            return
        self._window -= size
        connection.window -= size
        connection.write_frame(_DATA, 0, self.number, data)

    def drain(self) -> None:
        """Write what waits for window."""
        connection = self._connection
        while self._queue:
            room = min(self._window, connection.window, connection.max_frame)
            if room <= 0:
                return
            data = self._queue.popleft()
            if len(data) > room:
                self._queue.appendleft(data[room:])
                data = data[:room]
            self._window -= len(data)
            connection.window -= len(data)
            connection.write_frame(_DATA, 0, self.number, data)
        if self._end_queued:
            connection.write_frame(_DATA, _END_STREAM, self.number, b"")

    def widen(self, by: int) -> None:
        """The peer allows more on this stream."""
        self._window += by
        if self._queue:
            self.drain()

    def take(self, data: bytes) -> None:
        """Bytes of DATA frames: hand over the messages that are complete."""
        self._unread_bytes += len(data)
        if self._unread_bytes >= REFILL_BYTES:
            self._connection.write_frame(
                _WINDOW, 0, self.number, self._unread_bytes.to_bytes(4, "big")
            )
            self._unread_bytes = 0
        if self._partial:
            data = self._partial + data
        start, size = 0, len(data)
        while size - start >= 5:
            compressed, length = _MESSAGE.unpack_from(data, start)
            if compressed:
                raise ConnectionError("a compressed message, though none was offered")
            end = start + 5 + length
            if end > size:
                break
            self.on_message(data[start + 5 : end])
            start = end
        self._partial = data[start:]

    def end(self, trailers: Mapping[str, bytes]) -> None:
        """The peer's trailers: the call is over."""
        status = trailers.get("grpc-status")
        code = int(status) if status is not None and status.isdigit() else UNKNOWN
        message = unquote(trailers.get("grpc-message", b"").decode("utf-8", "replace"))
        self._connection.forget(self)
        self.on_end(Ended(code, message, trailers))


def header_block(headers: Iterable[tuple[str, str | bytes]]) -> bytes:
    """HPACK (RFC 7541), literals without indexing only: nothing to remember, nothing to leak."""
    block = bytearray()
    for name, value in headers:
        block.append(0)
        for part in (name.encode(), value.encode() if isinstance(value, str) else value):
            block += _integer7(len(part))
            block += part
    return bytes(block)


def _integer7(value: int) -> bytes:
    """An HPACK integer with a 7-bit prefix, Huffman bit off (RFC 7541 section 5.1)."""
    if value < 0x7F:
        return bytes((value,))
    out = bytearray((0x7F,))
    value -= 0x7F
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
