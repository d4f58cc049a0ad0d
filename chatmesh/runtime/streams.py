"""Client streams between services: requests with answers, and items with acknowledgements.

- `RequestStream`: one frame per request; a response names its request by `request_id`.
- `ItemStream`: items gathered into frames while one is being written; responses acknowledge items
  by key, several at once.

When a stream ends it is opened again and everything unanswered is sent again in its first order.
So servers must take a request twice; an answer that comes twice is dropped here.

Rules: everything is bounded by `max_in_flight`; a call costs a future in a dict, no task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

import grpc

from chatmesh.runtime import faults, metrics
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.listener import MESH_STREAM_AGE_SECONDS
from chatmesh.runtime.logs import logger
from chatmesh.runtime.readiness import Component
from chatmesh.runtime.reopening import ReopeningStream, StreamCall
from chatmesh.runtime.tally import TALLY

__all__ = ["ItemStream", "RequestStream"]

POISON_ROUNDS: Final = 3
"""So often may a stream end with INVALID_ARGUMENT before its oldest request is given up."""
MAX_ITEMS_PER_FRAME: Final = 256

_log = logger(__name__)


class HasRequestId(Protocol):
    """A message with the field `uint64 request_id`; 0 belongs to no request."""

    request_id: int


Req = TypeVar("Req", bound=HasRequestId)
Resp = TypeVar("Resp", bound=HasRequestId)
ItemT = TypeVar("ItemT")
FrameT = TypeVar("FrameT")
AnswerT = TypeVar("AnswerT")


class _Pending(Generic[Req, Resp]):
    __slots__ = ("answer", "request")

    def __init__(self, request: Req, answer: asyncio.Future[Resp] | None) -> None:
        self.request = request
        self.answer = answer


class RequestStream(ReopeningStream[Resp], Generic[Req, Resp]):
    """Requests and their responses over one long-lived stream. `run` must be running."""

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
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        """`open` begins one call: a stub's method, called without arguments.

        `on_response(request, response)` hears the answers to `send`; `on_push(response)` hears
        frames whose request_id is 0; `greeting` makes the first frame of each new stream (its
        request_id stays as it is); `on_open`, `on_end`: see ReopeningStream.
        """
        super().__init__(
            open,
            name=name,
            max_age_seconds=max_age_seconds,
            readiness=readiness,
            on_open=on_open,
            on_end=on_end,
        )
        self._max_in_flight = max_in_flight
        self._on_response = on_response
        self._on_push = on_push
        self._greeting = greeting
        self._next_id = 1
        # Unanswered requests by id; ids rise, so a dict's order is the order of the first send.
        self._waiting: dict[int, _Pending[Req, Resp]] = {}
        # Ids still to be written on the current stream; ids no longer waiting are skipped.
        self._unwritten: deque[int] = deque()
        self._poison_rounds = 0
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
        scope = asyncio.timeout(timeout_seconds)
        try:
            async with scope:
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

    def _opened(self) -> None:
        again = len(self._waiting) - len(self._unwritten)
        if again > 0:
            self._resends.inc(again)
        self._unwritten = deque(self._waiting)

    async def _write(self, call: StreamCall) -> None:
        if self._greeting is not None:
            TALLY.frames_written += 1
            await call.write(self._greeting())
        while not self._draining:
            if not self._unwritten:
                await self._sleep()
                continue
            pending = self._waiting.get(self._unwritten.popleft())
            if pending is not None:
                TALLY.frames_written += 1
                await call.write(pending.request)

    def _handle(self, response: Resp) -> None:
        self._poison_rounds = 0
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

    def _failed(self, status: grpc.StatusCode) -> None:
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


class ItemStream(ReopeningStream[AnswerT], Generic[ItemT, FrameT, AnswerT]):
    """Items joined into frames, acknowledged by key. `run` must be running.

    Items with a key are kept and sent again until `settle`d; items without one are sent at most
    once and may be lost with their stream.
    """

    def __init__(
        self,
        open: Callable[[], Any],  # noqa: A002 - it opens the stream
        *,
        name: str,
        pack: Callable[[list[ItemT]], FrameT],
        on_answer: Callable[[AnswerT], None],
        max_in_flight: int,
        max_items_per_frame: int = MAX_ITEMS_PER_FRAME,
        max_age_seconds: float = MESH_STREAM_AGE_SECONDS,
        readiness: Component | None = None,
        on_open: Callable[[], None] | None = None,
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        """`pack` makes one frame of the items that wait (a message, or bytes joined already).

        `on_answer` hears each response and calls `settle` for what it acknowledges.
        """
        super().__init__(
            open,
            name=name,
            max_age_seconds=max_age_seconds,
            readiness=readiness,
            on_open=on_open,
            on_end=on_end,
        )
        self._pack = pack
        self._on_answer = on_answer
        self._max_in_flight = max_in_flight
        self._max_items_per_frame = max_items_per_frame
        self._waiting: dict[int, ItemT] = {}  # unsettled, in their first order
        self._unwritten: deque[tuple[int | None, ItemT]] = deque()
        self._resends = metrics.counter(metrics.STREAM_RESENDS).labels(name)
        self._dropped = metrics.counter(metrics.STREAM_DROPPED).labels(name)

    @property
    def in_flight(self) -> int:
        """Items with a key that are not settled."""
        return len(self._waiting)

    @property
    def unwritten(self) -> int:
        """Items not yet written on the current stream."""
        return len(self._unwritten)

    def offer(self, item: ItemT, key: int | None = None) -> bool:
        """Queue an item. False when `max_in_flight` are waiting: the caller decides what is lost.

        A key that waits already is not queued twice (its item stays the first one).
        """
        if key is not None and key in self._waiting:
            return True
        if max(len(self._waiting), len(self._unwritten)) >= self._max_in_flight:
            self._dropped.inc()
            return False
        if key is not None:
            self._waiting[key] = item
        self._unwritten.append((key, item))
        self._wake.set()
        return True

    def settle(self, key: int) -> ItemT | None:
        """An item is acknowledged: it is not sent again. None when it was settled before."""
        return self._waiting.pop(key, None)

    def take_back(self) -> list[tuple[int, ItemT]]:
        """All unsettled items, which this stream then forgets: they go another way."""
        taken = list(self._waiting.items())
        self._waiting.clear()
        self._unwritten.clear()
        return taken

    def _opened(self) -> None:
        loose = [(key, item) for key, item in self._unwritten if key is None]
        again = len(self._waiting) - (len(self._unwritten) - len(loose))
        if again > 0:
            self._resends.inc(again)
        self._unwritten = deque([*self._waiting.items(), *loose])

    async def _write(self, call: StreamCall) -> None:
        while not self._draining:
            items = self._next_items()
            if items:
                TALLY.frames_written += 1
                await call.write(self._pack(items))
            else:
                await self._sleep()

    def _next_items(self) -> list[ItemT]:
        items: list[ItemT] = []
        while self._unwritten and len(items) < self._max_items_per_frame:
            key, item = self._unwritten.popleft()
            if key is None or key in self._waiting:
                items.append(item)
        return items

    def _handle(self, response: AnswerT) -> None:
        self._on_answer(response)
