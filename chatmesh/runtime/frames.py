"""Long-lived bidirectional streams: the server half.

`FrameWriter` takes frames from anywhere in the process, in any order of completion, and writes
them one after the other from a single task. Frames that wait are joined: bytes by concatenation
(protobuf merges repeated fields of joined messages), messages by a function of the caller.

Rules: bounded in frames and bytes; `offer` never waits: a full queue is the caller's to judge.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Generic, Protocol, TypeVar

MAX_JOINED_BYTES: Final = 256 * 1024
"""A joined frame stays far below the receive limit of any peer (public clients: 4 MiB)."""
CLOSE_SECONDS: Final = 5.0
"""How long the end of a stream waits for a slow reader to take the last frames."""

FrameT = TypeVar("FrameT")


class Writable(Protocol):
    """What is used of grpc.aio's ServicerContext."""

    async def write(self, message: Any, /) -> None:
        """Send one message; returns when the transport took it."""
        ...


class FrameWriter(Generic[FrameT]):
    """The outgoing half of one stream."""

    def __init__(
        self,
        context: Writable,
        *,
        max_frames: int,
        max_bytes: int = 4 << 20,
        join: Callable[[Sequence[FrameT]], FrameT] | None = None,
    ) -> None:
        """Frames may be messages or bytes; bytes that wait are joined up to MAX_JOINED_BYTES.

        `join`, when given, merges waiting messages into one. `max_bytes` counts bytes frames only.
        """
        self._context = context
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._join = join
        self._queue: deque[FrameT] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._closed = False
        self._writing = False
        self.failed = False

    @property
    def queued_frames(self) -> int:
        """Frames that wait; the one being written not counted."""
        return len(self._queue)

    @property
    def queued_bytes(self) -> int:
        """Bytes of waiting bytes frames."""
        return self._queued_bytes

    @property
    def is_writing(self) -> bool:
        """Whether a frame is with the transport and not yet taken."""
        return self._writing

    def offer(self, frame: FrameT) -> bool:
        """Queue a frame. False when the queue is full, closed or its stream is gone."""
        if self._closed or self.failed or len(self._queue) >= self._max_frames:
            return False
        if isinstance(frame, bytes):
            if self._queue and self._queued_bytes + len(frame) > self._max_bytes:
                return False
            self._queued_bytes += len(frame)
        self._queue.append(frame)
        self._wake.set()
        return True

    def close(self) -> None:
        """Take no more frames; `run` ends when the last one is written."""
        self._closed = True
        self._wake.set()

    async def run(self) -> None:
        """Write until closed and empty. The stream's error comes out of here."""
        try:
            while True:
                while self._queue:
                    frame = self._take()
                    self._writing = True
                    await self._context.write(frame)
                    self._writing = False
                if self._closed:
                    return
                self._wake.clear()
                await self._wake.wait()
        except BaseException:
            self.failed = True
            raise

    def _take(self) -> FrameT:
        first = self._queue.popleft()
        if isinstance(first, bytes):
            return self._joined_bytes(first)  # type: ignore[return-value] # FrameT is bytes here
        if self._join is None or not self._queue:
            return first
        frames = [first]
        while self._queue and not isinstance(self._queue[0], bytes):
            frames.append(self._queue.popleft())
        return self._join(frames)

    def _joined_bytes(self, first: bytes) -> bytes:
        size = len(first)
        self._queued_bytes -= size
        frames: list[bytes] = [first]
        while self._queue:
            following = self._queue[0]
            if not isinstance(following, bytes) or size + len(following) > MAX_JOINED_BYTES:
                break
            self._queue.popleft()
            size += len(following)
            self._queued_bytes -= len(following)
            frames.append(following)
        return first if len(frames) == 1 else b"".join(frames)


@asynccontextmanager
async def running(writer: FrameWriter[FrameT]) -> AsyncIterator[FrameWriter[FrameT]]:
    """Run the writer while the body reads; at the body's end write what is left, then end.

    A body that fails ends the writer at once. A write that fails ends the body: the error of the
    write comes out of here (grpc.aio cancels the whole call anyway when its client is gone).
    """
    body = asyncio.current_task()
    if body is None:
        raise RuntimeError("a frame writer runs inside a task")
    writing = asyncio.create_task(writer.run(), name="frame writer")
    interrupted = False

    def on_end(ended: asyncio.Task[None]) -> None:
        nonlocal interrupted
        if not ended.cancelled() and ended.exception() is not None and in_body:
            interrupted = True
            body.cancel()

    in_body = True
    writing.add_done_callback(on_end)
    try:
        yield writer
        in_body = False
        writer.close()
        await asyncio.wait((writing,), timeout=CLOSE_SECONDS)
    except asyncio.CancelledError:
        if interrupted and body.uncancel() == 0:
            writing.result()  # raises what the write raised
        raise
    finally:
        in_body = False
        while not writing.done():
            writing.cancel()
            await asyncio.wait((writing,), timeout=1)
    if not writing.cancelled():
        writing.result()
