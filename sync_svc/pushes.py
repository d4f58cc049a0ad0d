"""Push orders to push_svc, and dead letters.

Role: what waits is gathered into one request over the long-lived Push stream; its answer comes
after the commit of the jobs, and only that settles the hints.
Rules: bounded. While push_svc is away orders wait; those whose batches were forgotten meanwhile are
dropped, because the outbox sends their hints again. A target that push_svc refuses as wrong becomes
a dead letter; so does a hint that cannot be handled at all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import grpc

from chatmesh.mesh.v1.push_pb2 import (
    DeadLetter,
    PushRequest,
    PushResponse,
    PushTarget,
    PutDeadLettersRequest,
)
from chatmesh.runtime import metrics
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.readiness import Component
from chatmesh.runtime.streams import RequestStream
from sync_svc import measures
from sync_svc.plan import PushOrder

TARGETS_PER_REQUEST: Final = 1_000
MAX_ORDERS: Final = 20_000
PUSH_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 0.2
MAX_LETTERS: Final = 256
LETTERS_PER_REQUEST: Final = 100
LETTER_BYTES: Final = 64 << 10
LETTER_SECONDS: Final = 5.0
LETTER_RETRY_SECONDS: Final = 1.0
ORIGIN: Final = "sync"

_WRONG: Final = (grpc.StatusCode.INVALID_ARGUMENT.value[0], grpc.StatusCode.NOT_FOUND.value[0])
"""Answers that a repetition would not change."""

_log = logger(__name__)
_budget = LogBudget(per_second=2)


class Pushes:
    """Orders on their way. Its `stream` and `run` must be running."""

    def __init__(
        self,
        open: Callable[[], Any],  # noqa: A002 - it opens the stream
        *,
        readiness: Component,
        on_settled: Callable[[list[PushOrder]], None],
        on_refused: Callable[[list[PushOrder], str], None],
        clock: Clock,
    ) -> None:
        """`on_settled`: the jobs are committed. `on_refused`: push_svc will never take them."""
        self.stream: RequestStream[PushRequest, PushResponse] = RequestStream(
            open, name="push", max_in_flight=4, readiness=readiness
        )
        self._on_settled = on_settled
        self._on_refused = on_refused
        self._clock = clock
        self._waiting: deque[PushOrder] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._sent = metrics.counter(measures.PUSHES)

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, orders: Iterable[PushOrder]) -> list[PushOrder]:
        """Queue orders; those for which there is no room are returned."""
        refused = []
        for order in orders:
            if len(self._waiting) >= MAX_ORDERS:
                self._drop_forgotten()
            if len(self._waiting) >= MAX_ORDERS:
                refused.append(order)
            else:
                self._waiting.append(order)
        if self._waiting:
            self._idle.clear()
            self._wake.set()
        return refused

    async def flush(self) -> None:
        """Return once nothing waits."""
        await self._idle.wait()

    async def run(self) -> None:
        """Send what waits, one request at a time, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while orders := self._next_orders():
                left = await self._send(orders)
                if left:
                    self._waiting.extendleft(reversed(left))
                    await self._clock.sleep(RETRY_SECONDS)
            self._idle.set()

    def _next_orders(self) -> list[PushOrder]:
        orders: list[PushOrder] = []
        while self._waiting and len(orders) < TARGETS_PER_REQUEST:
            order = self._waiting.popleft()
            if _is_wanted(order):
                orders.append(order)
        return orders

    async def _send(self, orders: list[PushOrder]) -> list[PushOrder]:
        """One request; the orders that are to be sent again."""
        try:
            response = await self.stream.call(
                PushRequest(targets=[_target(order) for order in orders]),
                timeout_seconds=PUSH_SECONDS,
            )
        except Fault as fault:
            code, reason = fault.code.value[0], fault.reason
        else:
            code, reason = response.error_code, response.error_reason
        if code == 0:
            self._sent.inc(len(orders))
            self._on_settled(orders)
            return []
        if code not in _WRONG:
            return orders
        if len(orders) == 1:
            self._refused(orders, reason)
            return []
        # one wrong target must not take the others along
        return [left for order in orders for left in await self._send([order])]

    def _refused(self, orders: list[PushOrder], reason: str) -> None:
        if _budget.take():
            _log.error("push targets refused", reason=reason, count=len(orders))
        self._on_refused(orders, reason)

    def _drop_forgotten(self) -> None:
        self._waiting = deque(order for order in self._waiting if _is_wanted(order))


def _is_wanted(order: PushOrder) -> bool:
    return any(not pending.batch.forgotten for pending in order.covers)


def _target(order: PushOrder) -> PushTarget:
    return PushTarget(
        account_id=order.account_id,
        timeline_seq=order.timeline_seq,
        device_ids=order.device_ids,
        except_device_ids=order.except_device_ids,
        delay_ms=order.delay_ms,
        trace_context=order.trace_context,
        message_id=order.message_id,
    )


class DeadLetters:
    """Hints that cannot be handled, kept by push_svc for operators. `run` must be running."""

    def __init__(self, put: Callable[..., Any], clock: Clock) -> None:
        """`put` is the stub's PutDeadLetters."""
        self._put = put
        self._clock = clock
        self._waiting: deque[tuple[DeadLetter, Callable[[], None] | None]] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._counter = metrics.counter(measures.DEAD_LETTERS)

    def offer(
        self,
        reason: str,
        payload: bytes,
        *,
        account_id: int = 0,
        timeline_seq: int = 0,
        batch_id: int = 0,
        node_id: int = 0,
        on_kept: Callable[[], None] | None = None,
    ) -> None:
        """Keep a letter; 0 is what is not known. `on_kept` is called when it is stored; not when
        there was no room."""
        if _budget.take():
            _log.error("dead letter", reason=reason, payload_bytes=len(payload))
        if len(self._waiting) >= MAX_LETTERS:
            self._counter.labels("dropped").inc()
            return
        letter = DeadLetter(
            origin=ORIGIN,
            account_id=_known(account_id),
            timeline_seq=_known(timeline_seq),
            reason=reason,
            created_at_ms=self._clock.wall_ms(),
            payload=payload[:LETTER_BYTES],
            batch_id=_known(batch_id),
            node_id=_known(node_id),
        )
        self._waiting.append((letter, on_kept))
        self._idle.clear()
        self._wake.set()

    async def flush(self) -> None:
        """Return once nothing waits."""
        await self._idle.wait()

    async def run(self) -> None:
        """Store what waits, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            at_once = LETTERS_PER_REQUEST
            while self._waiting:
                at_once = await self._put_some(min(len(self._waiting), at_once))
            self._idle.set()

    async def _put_some(self, count: int) -> int:
        """Store the first letters; how many may go together next."""
        letters = [self._waiting[at][0] for at in range(count)]
        try:
            await self._put(PutDeadLettersRequest(letters=letters), timeout=LETTER_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                if _budget.take():
                    _log.warning("dead letters not kept yet", code=error.code().name)
                await self._clock.sleep(LETTER_RETRY_SECONDS)
            elif count == 1:  # one that is refused must not keep the others from their place
                _log.error("dead letter refused", details=error.details())
                self._counter.labels("dropped").inc()
                self._waiting.popleft()
            return 1 if error.code() is grpc.StatusCode.INVALID_ARGUMENT else count
        self._counter.labels("kept").inc(count)
        for _ in range(count):
            _, on_kept = self._waiting.popleft()
            if on_kept is not None:
                on_kept()
        return LETTERS_PER_REQUEST


def _known(number: int) -> int:
    """An id or position as push_svc takes it: 0 for what cannot be one."""
    return number if number < 1 << 63 else 0
