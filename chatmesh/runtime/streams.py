"""Long-lived bidirectional streams between services: the client half.

`RequestStream` sends requests over one stream and matches responses by `request_id`. When the
stream ends it is opened again and every unanswered request is sent again in its first order, so
servers must take a request twice; an answer that comes twice is dropped here.

Rules: one writer, so never two writes at once; everything is bounded by `max_in_flight`; a call
costs a future in a dict, no task. The stream is reopened by its own timer before the connection's
age ends it. What a request means is not known here.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import grpc

from chatmesh.runtime import faults, metrics
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.listener import MESH_STREAM_AGE_SECONDS
from chatmesh.runtime.logs import logger
from chatmesh.runtime.readiness import Component

BACKOFF_FIRST_SECONDS: Final = 0.05
BACKOFF_MAX_SECONDS: Final = 2.0
SETTLED_SECONDS: Final = 1.0
"""A stream that lived this long was a good one: the next back-off begins small again."""
AGE_JITTER: Final = 0.1
"""Share of the age by which streams differ, so that they do not all reopen together."""
DRAIN_SECONDS: Final = 2.0
"""An aged stream waits this long for its answers before the rest is sent again on the next."""
POISON_ROUNDS: Final = 3
"""So often may a stream end with INVALID_ARGUMENT before its oldest request is given up."""

_log = logger(__name__)


class HasRequestId(Protocol):
    """A message with the field `uint64 request_id`; 0 is no request's."""

    request_id: int


Req = TypeVar("Req", bound=HasRequestId)
Resp = TypeVar("Resp", bound=HasRequestId)


class StreamCall(Protocol):
    """What is used of grpc.aio's StreamStreamCall."""

    async def read(self) -> Any: ...
    async def write(self, request: Any, /) -> None: ...
    async def done_writing(self) -> None: ...
    async def wait_for_connection(self) -> None: ...
    async def code(self) -> grpc.StatusCode: ...
    def cancel(self) -> bool: ...


class _Pending(Generic[Req, Resp]):
    __slots__ = ("answer", "request")

    def __init__(self, request: Req, answer: asyncio.Future[Resp] | None) -> None:
        self.request = request
        self.answer = answer


class RequestStream(Generic[Req, Resp]):
    """Client of one long-lived stream. `run` must be running (in the background)."""

    def __init__(
        self,
        open: Callable[[], Any],  # noqa: A002 - it opens the stream
        *,
        name: str,
        max_in_flight: int,
        max_age_seconds: float = MESH_STREAM_AGE_SECONDS,
        readiness: Component | None = None,
        on_response: Callable[[Req, Resp], None] | None = None,
        on_push: Callable[[Resp], None] | None = None,
        greeting: Callable[[], Req] | None = None,
        on_open: Callable[[], None] | None = None,
    ) -> None:
        """`open` begins one call (a stub's method without arguments).

        `on_response(request, response)` hears the answers to `send`; `on_push(response)` hears
        frames whose request_id is 0; `greeting` makes the first frame of each new stream (its
        request_id stays 0); `on_open` is told after each opening, before anything is resent.
        """
        self._open = open
        self.name = name
        self._max_in_flight = max_in_flight
        self._max_age_seconds = max_age_seconds
        self._readiness = readiness
        self._on_response = on_response
        self._on_push = on_push
        self._greeting = greeting
        self._on_open = on_open
        self._next_id = 1
        # Unanswered requests by id; ids rise, so a dict's order is the order of the first send.
        self._waiting: dict[int, _Pending[Req, Resp]] = {}
        # Ids still to be written on the current stream; ids no longer waiting are skipped.
        self._unwritten: deque[int] = deque()
        self._wake = asyncio.Event()
        self._poison_rounds = 0
        self._reopens = metrics.counter(metrics.STREAM_REOPENS)
        self._resends = metrics.counter(metrics.STREAM_RESENDS).labels(name)

    @property
    def in_flight(self) -> int:
        """Requests without an answer."""
        return len(self._waiting)

    async def call(self, request: Req, *, timeout_seconds: float) -> Resp:
        """Send a request and return its response. Sets `request_id`.

        Raises Fault RESOURCE_EXHAUSTED PEER_BUSY when too many are in flight, and
        Fault UNAVAILABLE PEER_TIMEOUT when no answer came in time (its effect is then unknown).
        """
        answer: asyncio.Future[Resp] = asyncio.get_running_loop().create_future()
        request_id = self._enqueue(request, answer)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await answer
        except TimeoutError:
            raise Fault(
                grpc.StatusCode.UNAVAILABLE,
                faults.PEER_TIMEOUT,
                f"{self.name} did not answer in {timeout_seconds:g} s",
            ) from None
        finally:
            self._waiting.pop(request_id, None)

    def send(self, request: Req) -> None:
        """Send a request whose answer goes to `on_response`. Sets `request_id`.

        Raises Fault RESOURCE_EXHAUSTED PEER_BUSY when too many are in flight.
        """
        self._enqueue(request, None)

    def forget(self, request_id: int) -> None:
        """Stop waiting for a sent request: it is not resent and its answer is dropped."""
        self._waiting.pop(request_id, None)

    def _enqueue(self, request: Req, answer: asyncio.Future[Resp] | None) -> int:
        if len(self._waiting) >= self._max_in_flight:
            raise Fault(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                faults.PEER_BUSY,
                f"{self.name} has {self._max_in_flight} requests in flight",
            )
        request_id = self._next_id
        self._next_id += 1
        request.request_id = request_id
        self._waiting[request_id] = _Pending(request, answer)
        self._unwritten.append(request_id)
        self._wake.set()
        return request_id

    async def run(self) -> None:
        """Keep the stream open until cancelled: open, resend, write and read."""
        backoff = BACKOFF_FIRST_SECONDS
        loop = asyncio.get_running_loop()
        try:
            while True:
                began = loop.time()
                cause = await self._one_stream()
                self._reopens.labels(self.name, cause).inc()
                if loop.time() - began >= SETTLED_SECONDS:
                    backoff = BACKOFF_FIRST_SECONDS
                if cause == "age":
                    continue  # planned: nothing is wrong, the next stream opens at once
                await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
                backoff = min(backoff * 2, BACKOFF_MAX_SECONDS)
        finally:
            if self._readiness is not None:
                self._readiness.down("the stream is closed")

    async def _one_stream(self) -> str:
        """Run one stream to its end; the cause of the end as a short word."""
        call = cast("StreamCall", self._open())
        cause, status = "end", grpc.StatusCode.OK
        try:
            await call.wait_for_connection()
            self._opened()
            aged = await self._converse(call)
            if aged:
                return "age"
            status = await call.code()
        except grpc.aio.AioRpcError as error:
            status = error.code()
            _log.warning("stream ended", stream=self.name, fault=str(faults.from_rpc_error(error)))
        except grpc.aio.UsageError:  # written to while it ended; its status says why
            status = await call.code()
        finally:
            call.cancel()
        if status is not grpc.StatusCode.OK:
            cause = status.name.lower()
        if self._readiness is not None:
            self._readiness.down(f"{self.name}: the stream ended with {status.name}")
        self._give_up_poison(status)
        return cause

    def _opened(self) -> None:
        if self._on_open is not None:
            self._on_open()
        # Everything unanswered goes (again) in its first order.
        written_before = len(self._waiting) - len(self._unwritten)
        if written_before > 0:
            self._resends.inc(written_before)
        self._unwritten = deque(self._waiting)
        self._wake.set()
        if self._readiness is not None:
            self._readiness.up()

    async def _converse(self, call: StreamCall) -> bool:
        """Write and read until the stream ends (False) or has aged and drained (True)."""
        reader = asyncio.create_task(self._read(call), name=f"{self.name} reader")
        writer = asyncio.create_task(self._write(call), name=f"{self.name} writer")
        age = self._max_age_seconds * random.uniform(1 - AGE_JITTER, 1)
        try:
            await asyncio.wait((reader, writer), timeout=age, return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                reader.result()
                return False
            if writer.done():
                # The write failed, so the stream is over; the reader learns its status.
                await asyncio.wait((reader,), timeout=DRAIN_SECONDS)
                if reader.done():
                    reader.result()
                writer.result()
                return False
            await _cancel(writer)
            await call.done_writing()
            await asyncio.wait((reader,), timeout=DRAIN_SECONDS)
            if reader.done():
                reader.result()
            return True
        finally:
            await _cancel(reader)
            await _cancel(writer)

    async def _write(self, call: StreamCall) -> None:
        if self._greeting is not None:
            await call.write(self._greeting())
        while True:
            while self._unwritten:
                pending = self._waiting.get(self._unwritten.popleft())
                if pending is not None:
                    await call.write(pending.request)
            self._wake.clear()
            await self._wake.wait()

    async def _read(self, call: StreamCall) -> None:
        while (response := await call.read()) is not grpc.aio.EOF:
            self._poison_rounds = 0
            self._handle(response)

    def _handle(self, response: Resp) -> None:
        request_id = response.request_id
        if request_id == 0:
            if self._on_push is not None:
                self._on_push(response)
            return
        pending = self._waiting.pop(request_id, None)
        if pending is None:
            return  # answered before, timed out or forgotten
        if pending.answer is None:
            if self._on_response is not None:
                self._on_response(pending.request, response)
        elif not pending.answer.done():
            pending.answer.set_result(response)

    def _give_up_poison(self, status: grpc.StatusCode) -> None:
        """A request that the server refuses as malformed would end every stream for ever."""
        if status is not grpc.StatusCode.INVALID_ARGUMENT or not self._waiting:
            return
        self._poison_rounds += 1
        if self._poison_rounds < POISON_ROUNDS:
            return
        self._poison_rounds = 0
        request_id = next(iter(self._waiting))
        pending = self._waiting.pop(request_id)
        _log.error("request given up: the peer refuses it", stream=self.name, request=request_id)
        if pending.answer is not None and not pending.answer.done():
            pending.answer.set_exception(
                Fault(status, faults.UNDECODABLE, f"{self.name} refuses this request")
            )


async def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel until done: a single cancel can be swallowed below."""
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=1)
    if not task.cancelled():
        task.exception()  # seen; the reader's or the status tells
