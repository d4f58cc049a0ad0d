"""From the nodes' Enqueue streams into the queue.

Role: batches that wait are appended together, one entry each, one pipeline at a time; what Redis
does not take goes straight to the inbox.
Rules: a node never waits for Redis beyond one command's timeout: while Redis is away batches are
handled from memory, and when that is full they are not accepted. Bounded in batches: a stream
whose batches find no room is read no further.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from chatmesh.mesh.v1.hint_pb2 import Hint, HintBatch
from chatmesh.runtime import metrics
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.readiness import Component
from chatmesh.runtime.trace import Tracer
from sync_svc import measures
from sync_svc.inbox import Inbox, sampled_hints, taken
from sync_svc.queue import STORE_ERRORS, Queue

PIPELINE_BATCHES: Final = 128
PIPELINE_BYTES: Final = 4 << 20
MAX_WAITING: Final = 1_024
HOP: Final = "sync.enqueue"

_log = logger(__name__)
_budget = LogBudget(per_second=1)

OnAccepted = Callable[[list[int]], None]


@dataclass(slots=True)
class _Waiting:
    batch: HintBatch
    raw: bytes
    sampled: list[Hint]
    on_accepted: OnAccepted
    came_ns: int


class Intake:
    """See the module's text. `run` must be running."""

    def __init__(
        self, queue: Queue, inbox: Inbox, redis_up: Component, clock: Clock, tracer: Tracer
    ) -> None:
        self._queue = queue
        self._inbox = inbox
        self._redis_up = redis_up
        self._clock = clock
        self._tracer = tracer
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._batches = metrics.counter(measures.BATCHES)

    async def put(self, batches: Sequence[HintBatch], on_accepted: OnAccepted) -> None:
        """Queue batches; `on_accepted` hears the ids of those that were taken, signals excepted.

        Returns when there is room for more.
        """
        now_ms = self._clock.wall_ms()
        for batch in batches:
            # the lag is the queue's: what a node kept while nobody took it was not behind here
            batch.enqueued_at_ms = now_ms
            sampled = sampled_hints(batch)
            came_ns = time.time_ns() if sampled else 0
            raw = batch.SerializeToString()
            self._waiting.append(_Waiting(batch, raw, sampled, on_accepted, came_ns))
        self._idle.clear()
        self._wake.set()
        if len(self._waiting) >= MAX_WAITING:
            self._room.clear()
            await self._room.wait()

    async def flush(self) -> None:
        """Return once nothing waits."""
        await self._idle.wait()

    async def run(self) -> None:
        """Append what waits until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batches := self._next():
                await self._append(batches)
            self._idle.set()

    def _next(self) -> list[_Waiting]:
        batches: list[_Waiting] = []
        size_bytes = 0
        while self._waiting and len(batches) < PIPELINE_BATCHES and size_bytes < PIPELINE_BYTES:
            one = self._waiting.popleft()
            size_bytes += len(one.raw)
            batches.append(one)
        if len(self._waiting) < MAX_WAITING:
            self._room.set()
        return batches

    async def _append(self, batches: list[_Waiting]) -> None:
        answers: Sequence[Exception | None]
        if self._redis_up.is_up:
            try:
                answers = await self._queue.append(
                    [(self._queue.key_of(one.batch.node_id), one.raw) for one in batches]
                )
            except STORE_ERRORS as error:
                # its outcome is unknown: handled twice does no harm, handled never would
                self._redis_up.down(f"Redis: {type(error).__name__}")
                answers = [error] * len(batches)
        else:
            answers = [ConnectionError("Redis is away")] * len(batches)
        accepted: dict[OnAccepted, list[int]] = {}
        for one, refusal in zip(batches, answers, strict=True):
            outcome = "queued" if refusal is None else self._keep(one, refusal)
            self._batches.labels(outcome).inc()
            if outcome != "refused":
                ids = accepted.setdefault(one.on_accepted, [])
                if one.batch.batch_id:
                    ids.append(one.batch.batch_id)
            if one.sampled:
                self._record(one, outcome)
        for on_accepted, ids in accepted.items():
            on_accepted(ids)

    def _keep(self, one: _Waiting, refusal: Exception) -> str:
        """Handle a batch from memory, if there is room; what became of it."""
        if self._redis_up.is_up and _budget.take():
            _log.warning("the queue refuses batches", error=type(refusal).__name__)
        kept = self._inbox.offer(taken(one.batch, len(one.raw), self._clock))
        return "memory" if kept else "refused"

    def _record(self, one: _Waiting, outcome: str) -> None:
        now_ns = time.time_ns()
        attributes: dict[str, str | int] = {
            "chatmesh.batch_id": one.batch.batch_id,
            "chatmesh.outcome": outcome,
        }
        for hint in one.sampled:
            self._tracer.hop(HOP, hint.trace_context, one.came_ns, now_ns, attributes)
