"""SyncService: batches in by long-lived streams, acceptance and lag out; the queue's state.

Role: takes frames apart, answers. Knows no Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import grpc

from chatmesh.mesh.v1 import sync_pb2, sync_pb2_grpc
from chatmesh.runtime.frames import FrameWriter, running
from sync_svc.intake import Intake
from sync_svc.lag import LagWatch

MAX_ANSWERS: Final = 4_096
"""Answers that a node does not read; more are dropped: they are no promise."""

_Context = grpc.aio.ServicerContext[Any, Any]
_Writer = FrameWriter[sync_pb2.EnqueueResponse]


class SyncServicer(sync_pb2_grpc.SyncServiceServicer):
    """The RPCs of the contract."""

    def __init__(self, intake: Intake, lag: LagWatch, in_memory: Callable[[], int]) -> None:
        self._intake = intake
        self._lag = lag
        self._in_memory = in_memory
        self._streams: dict[asyncio.Task[Any], _Writer] = {}
        self._leaving = False
        lag.on_change(self._tell_lag)

    # The runtime takes a handler that writes for itself; the generated type knows generators only.
    async def Enqueue(  # type: ignore[override]
        self, request_iterator: AsyncIterator[sync_pb2.EnqueueRequest], context: _Context
    ) -> None:
        """Batches in; acceptance and lag out, joined while an answer is being written."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a handler runs inside a task")
        writer: _Writer = FrameWriter(context, max_frames=MAX_ANSWERS, join=_join)

        def on_accepted(batch_ids: list[int]) -> None:
            writer.offer(
                sync_pb2.EnqueueResponse(accepted_batch_ids=batch_ids, lag=[_lag(self._lag.lag_ms)])
            )

        try:
            async with running(writer):
                self._streams[task] = writer
                writer.offer(sync_pb2.EnqueueResponse(lag=[_lag(self._lag.lag_ms)]))
                try:
                    async for request in request_iterator:
                        await self._intake.put(request.batches, on_accepted)
                except asyncio.CancelledError:
                    if not self._leaving or task.uncancel() > 0:
                        raise
                await self._intake.flush()
        finally:
            self._streams.pop(task, None)

    async def GetQueueStatus(
        self, request: sync_pb2.GetQueueStatusRequest, _context: _Context
    ) -> sync_pb2.GetQueueStatusResponse:
        """The queue as this replica saw it last."""
        return sync_pb2.GetQueueStatusResponse(
            streams=[
                sync_pb2.QueueStreamStatus(
                    stream=state.key,
                    length=state.length,
                    unread=state.unread,
                    lag_ms=state.lag_ms,
                )
                for state in self._lag.streams
            ],
            in_memory=self._in_memory(),
            redis_up=self._lag.redis_is_up,
        )

    async def leave(self) -> None:
        """End all streams: nodes open new ones, on another replica."""
        self._leaving = True
        for task in list(self._streams):
            task.cancel()

    def _tell_lag(self, lag_ms: int) -> None:
        for writer in self._streams.values():
            writer.offer(sync_pb2.EnqueueResponse(lag=[_lag(lag_ms)]))


def _lag(lag_ms: int) -> sync_pb2.QueueLag:
    return sync_pb2.QueueLag(lag_ms=lag_ms)


def _join(answers: Sequence[sync_pb2.EnqueueResponse]) -> sync_pb2.EnqueueResponse:
    joined = sync_pb2.EnqueueResponse(lag=answers[-1].lag)
    for answer in answers:
        joined.accepted_batch_ids.extend(answer.accepted_batch_ids)
    return joined
