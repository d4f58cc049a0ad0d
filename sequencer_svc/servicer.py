"""SequencerService: ids by ranges, once or by a long-lived stream.

Role: checks the count, asks the worker, answers. Knows no database.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from chatmesh import errors
from chatmesh.mesh.v1 import sequencer_pb2, sequencer_pb2_grpc
from chatmesh.runtime import metrics, trace
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.readiness import Readiness
from chatmesh.runtime.trace import Tracer
from sequencer_svc import measures
from sequencer_svc.worker import Worker

MOST_IDS: Final = 10_000
"""Of one request, as the contract says."""
WAIT_SECONDS: Final = 1.0
"""How long a request waits for a window that is used up; then the caller asks another sequencer."""
HOP: Final = "sequencer.next_ids"
NEXT_IDS: Final = "/chatmesh.mesh.v1.SequencerService/NextIds"

_Context = grpc.aio.ServicerContext[Any, Any]


class SequencerServicer(sequencer_pb2_grpc.SequencerServiceServicer):
    """The RPCs of the contract."""

    def __init__(self, worker: Worker, tracer: Tracer, readiness: Readiness) -> None:
        self._worker = worker
        self._readiness = readiness
        self._tracer = tracer
        self._ids = metrics.counter(measures.IDS)
        self._streams: set[asyncio.Task[Any]] = set()
        self._leaving = False

    async def NextIds(
        self, request: sequencer_pb2.NextIdsRequest, context: _Context
    ) -> sequencer_pb2.NextIdsResponse:
        """Ids, once. Fails with COUNT_INVALID, NOT_SERVING, NO_WORKER.

        Not gated by readiness, which would only say that something is missing: that all worker
        numbers are taken is for operators to know.
        """
        if self._worker.is_crowded_out:
            metrics.counter(measures.REFUSED).labels(errors.NO_WORKER.reason).inc()
            raise errors.NO_WORKER(self._worker.why)
        self._readiness.check()
        left = context.time_remaining()
        return await self._answer(request, min(WAIT_SECONDS, left or WAIT_SECONDS))

    async def NextIdsStream(
        self, request_iterator: AsyncIterator[sequencer_pb2.NextIdsRequest], _context: _Context
    ) -> AsyncIterator[sequencer_pb2.NextIdsResponse]:
        """One answer per request, in order. A bad count is answered and the stream goes on.

        It ends with NOT_SERVING when no id can be given: what was not answered is sent again on
        another sequencer.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a handler runs inside a task")
        self._streams.add(task)
        try:
            async for request in request_iterator:
                try:
                    response = await self._answer(request, WAIT_SECONDS)
                except Fault as fault:
                    if fault.reason != errors.COUNT_INVALID.reason:
                        raise
                    response = _refusal(request, fault)
                yield response
        except asyncio.CancelledError:
            if not self._leaving or task.uncancel() > 0:
                raise
        finally:
            self._streams.discard(task)

    async def leave(self) -> None:
        """End all streams: their clients open new ones, on another sequencer."""
        self._leaving = True
        for task in self._streams:
            task.cancel()

    async def _answer(
        self, request: sequencer_pb2.NextIdsRequest, wait_seconds: float
    ) -> sequencer_pb2.NextIdsResponse:
        count = request.count
        if not 1 <= count <= MOST_IDS:
            metrics.counter(measures.REFUSED).labels(errors.COUNT_INVALID.reason).inc()
            raise errors.COUNT_INVALID(limit="count", value=MOST_IDS, size=count)
        sampled = trace.is_sampled(request.trace_context)
        began_ns = time.time_ns() if sampled else 0
        ranges = await self._worker.take_within(count, wait_seconds)
        self._ids.inc(count)
        response = sequencer_pb2.NextIdsResponse(
            request_id=request.request_id,
            ranges=[
                sequencer_pb2.IdRange(first=given.first, count=given.count) for given in ranges
            ],
        )
        if sampled:
            attributes = {"chatmesh.count": count, "chatmesh.worker": self._worker.worker or 0}
            self._tracer.hop(HOP, request.trace_context, began_ns, time.time_ns(), attributes)
        return response


def _refusal(request: sequencer_pb2.NextIdsRequest, fault: Fault) -> sequencer_pb2.NextIdsResponse:
    return sequencer_pb2.NextIdsResponse(
        request_id=request.request_id,
        error_code=fault.code.value[0],
        error_reason=fault.reason,
        error_message=fault.message,
    )
