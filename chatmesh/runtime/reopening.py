"""A long-lived bidirectional stream that opens itself again: what all client streams share.

Opens, tells readiness, writes and reads until the stream ends or has aged, backs off with jitter,
opens again. It is reopened by its own timer before the connection's age ends it.

Rules: one writer and one reader per stream, so never two writes at once; what is written and what
answers mean is the subclass's business.
"""

from __future__ import annotations

import abc
import asyncio
import random
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import grpc

from chatmesh.runtime import faults, metrics
from chatmesh.runtime.listener import MESH_STREAM_AGE_SECONDS
from chatmesh.runtime.logs import logger
from chatmesh.runtime.readiness import Component
from chatmesh.runtime.tally import TALLY

BACKOFF_FIRST_SECONDS: Final = 0.05
BACKOFF_MAX_SECONDS: Final = 1.0
SETTLED_SECONDS: Final = 1.0
"""A stream that lived this long was a good one: the next back-off begins small again."""
AGE_JITTER: Final = 0.1
"""Share of the age by which streams differ, so that they do not all reopen together."""
DRAIN_SECONDS: Final = 2.0
"""An aged stream waits this long for its answers before the rest is sent again on the next."""
DOWN_AFTER_SECONDS: Final = 1.0
"""A stream that is open again within this was never missing: its peer was replaced."""
CONNECT_SECONDS: Final = 10.0
"""A peer that accepts the connection but never answers the call is given up after this."""

_log = logger(__name__)

RespT = TypeVar("RespT")


class StreamCall(Protocol):
    """What is used of grpc.aio's StreamStreamCall."""

    async def read(self) -> Any:
        """The next response, or grpc.aio.EOF."""
        ...

    async def write(self, request: Any, /) -> None:
        """Send one request; returns when the transport took it."""
        ...

    async def done_writing(self) -> None:
        """No more requests."""
        ...

    async def initial_metadata(self) -> Any:
        """Return once the server admitted the call, or ended it."""
        ...

    def done(self) -> bool:
        """Whether the call has ended."""
        ...

    async def code(self) -> grpc.StatusCode:
        """The status, once the call has ended."""
        ...

    def cancel(self) -> bool:
        """End the call."""
        ...


class ReopeningStream(abc.ABC, Generic[RespT]):
    """Base of the client streams. `run` must be running, in the background."""

    def __init__(
        self,
        open: Callable[[], Any],  # noqa: A002 - it opens the stream
        *,
        name: str,
        max_age_seconds: float = MESH_STREAM_AGE_SECONDS,
        readiness: Component | None = None,
        on_open: Callable[[], None] | None = None,
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        """`open` begins one call: a stub's method, called without arguments.

        `on_open` is told after each opening, before anything is written; `on_end` after each end
        with its cause: `age` (planned), `end` (the server's OK), `restart`, or a status name.
        """
        self.name = name
        self._open = open
        self._max_age_seconds = max_age_seconds
        self._readiness = readiness
        self._on_open = on_open
        self._on_end = on_end
        self._call: StreamCall | None = None
        self._restarting = False
        self._draining = False
        self._wake = asyncio.Event()
        self._reopens = metrics.counter(metrics.STREAM_REOPENS)

    @property
    def is_open(self) -> bool:
        """Whether the server has admitted the current stream."""
        return self._call is not None

    def restart(self) -> None:
        """End the current stream now and open a new one; unanswered items are sent again."""
        if self._call is not None:
            self._restarting = True
            self._call.cancel()

    async def run(self) -> None:
        """Keep the stream open until cancelled."""
        backoff = BACKOFF_FIRST_SECONDS
        loop = asyncio.get_running_loop()
        try:
            while True:
                began = loop.time()
                cause = await self._one_stream()
                self._reopens.labels(self.name, cause).inc()
                if self._on_end is not None:
                    self._on_end(cause)
                if cause in ("age", "restart"):
                    continue  # planned: nothing is wrong, the next stream opens at once
                if loop.time() - began >= SETTLED_SECONDS:
                    backoff = BACKOFF_FIRST_SECONDS
                await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
                backoff = min(backoff * 2, BACKOFF_MAX_SECONDS)
        finally:
            if self._readiness is not None:
                self._readiness.down(f"{self.name}: closed")

    async def _one_stream(self) -> str:
        """Run one stream to its end; the cause of the end."""
        call = cast("StreamCall", self._open())
        status, text = grpc.StatusCode.OK, ""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                # only the server's headers say that it admits the call: a connection does not
                await call.initial_metadata()
            if call.done():
                await call.read()  # raises the status that it was refused with
            else:
                self._call = call
                self._begin()
                if await self._converse(call):
                    return "age"
            status = await call.code()
        except grpc.aio.AioRpcError as error:
            status, text = error.code(), str(faults.from_rpc_error(error))
        except (grpc.aio.BaseError, asyncio.InvalidStateError):
            status = await call.code()  # written to while it ended; its status says why
        except TimeoutError:
            status, text = grpc.StatusCode.UNAVAILABLE, "the peer does not answer"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            status = grpc.StatusCode.CANCELLED  # `restart` cancelled the call, not this task
        finally:
            self._call = None
            call.cancel()
        return self._ended(status, text)

    def _begin(self) -> None:
        if self._on_open is not None:
            self._on_open()
        self._draining = False
        self._opened()
        self._wake.set()
        if self._readiness is not None:
            self._readiness.up()

    def _ended(self, status: grpc.StatusCode, text: str) -> str:
        if self._restarting:
            self._restarting = False
            return "restart"
        if self._readiness is not None:
            self._readiness.down(
                f"{self.name}: {text or status.name}", after_seconds=DOWN_AFTER_SECONDS
            )
        else:
            _log.warning("stream ended", stream=self.name, why=text or status.name)
        self._failed(status)
        return "end" if status is grpc.StatusCode.OK else status.name

    async def _converse(self, call: StreamCall) -> bool:
        """Write and read until the stream ends (False) or has aged and drained (True)."""
        reader = asyncio.create_task(self._read(call), name=f"{self.name} reader")
        writer = asyncio.create_task(self._write(call), name=f"{self.name} writer")
        age = self._max_age_seconds * random.uniform(1 - AGE_JITTER, 1)
        try:
            await asyncio.wait((reader, writer), timeout=age, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done() and not writer.done():
                await self._drain(call, reader, writer)
                return True
            if not reader.done():  # a write failed, so the stream is over; its status says why
                await asyncio.wait((reader,), timeout=DRAIN_SECONDS)
            if reader.done():
                reader.result()
            if writer.done():
                writer.result()
            return False
        finally:
            await _cancel(reader)
            await _cancel(writer)

    async def _drain(
        self, call: StreamCall, reader: asyncio.Task[None], writer: asyncio.Task[None]
    ) -> None:
        """Stop writing, hear the answers that are still to come.

        The writer is asked, not cancelled: grpc.aio cancels the whole call with a write.
        """
        self._draining = True
        self._wake.set()
        await asyncio.wait((writer,), timeout=DRAIN_SECONDS)
        if writer.done() and writer.exception() is None:
            await call.done_writing()
            await asyncio.wait((reader,), timeout=DRAIN_SECONDS)

    async def _read(self, call: StreamCall) -> None:
        while (response := await call.read()) is not grpc.aio.EOF:
            TALLY.frames_read += 1
            self._handle(response)

    async def _sleep(self) -> None:
        """For writers: return when there may be something to write, or to drain."""
        self._wake.clear()
        if not self._draining:
            await self._wake.wait()

    @abc.abstractmethod
    def _opened(self) -> None:
        """A new stream is open: line up what is to be written (again)."""

    @abc.abstractmethod
    async def _write(self, call: StreamCall) -> None:
        """Write what is lined up, `_sleep` in between; return once `self._draining`."""

    @abc.abstractmethod
    def _handle(self, response: RespT) -> None:
        """One response came."""

    def _failed(self, status: grpc.StatusCode) -> None:
        """The stream ended unplanned, with `status`."""


async def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel until done: a single cancel can be swallowed below."""
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=1)
    if not task.cancelled():
        task.exception()  # taken note of: the status tells
