"""A replica of sync_svc in this process, and a chat node's end of its Enqueue stream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any

import grpc
from pydantic import SecretStr

from chatmesh.mesh.v1 import callers_pb2, sync_pb2, sync_pb2_grpc
from chatmesh.mesh.v1.hint_pb2 import Hint, HintBatch, Signal
from chatmesh.runtime.callers import CALLER_METADATA, allowed_callers
from chatmesh.runtime.lifecycle import Lifecycle
from chatmesh.runtime.server import mesh_server
from chatmesh.runtime.trace import Tracer
from sync_svc.app import Parts, build, drain, run_loops
from sync_svc.settings import SyncSettings
from tests.sync.peers import PATIENCE_SECONDS, Node, Peers


class Replica:
    """Running."""

    def __init__(self, lifecycle: Lifecycle, parts: Parts, address: str) -> None:
        self.lifecycle = lifecycle
        self.parts = parts
        self.address = address
        self.serving: asyncio.Task[None]

    async def stop(self) -> None:
        """A graceful stop, to its end."""
        self.lifecycle.stop("test")
        await self.serving


class Source:
    """A chat node's end of Enqueue: what it was answered."""

    def __init__(self, node: Node, channel: grpc.aio.Channel, caller: str = "chat_svc") -> None:
        self.node = node
        stub: Any = sync_pb2_grpc.SyncServiceStub(channel)
        self.stub = stub
        self.metadata = ((CALLER_METADATA, caller),)
        self.call = stub.Enqueue(metadata=self.metadata)
        self.accepted: list[int] = []
        self.lags: list[int] = []
        self._changed = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None

    async def _read(self) -> None:
        try:
            while (answer := await self.call.read()) is not grpc.aio.EOF:
                self.accepted.extend(answer.accepted_batch_ids)
                self.lags.extend(lag.lag_ms for lag in answer.lag)
                await self._note()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass  # the replica ended; tests look at `call.code()`
        await self._note()

    async def _note(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def batch(
        self, batch_id: int, hints: Iterable[Hint] = (), signals: Iterable[Signal] = ()
    ) -> HintBatch:
        """A batch of this node."""
        return HintBatch(
            batch_id=batch_id,
            node_id=self.node.node_id,
            node_target=self.node.address,
            hints=hints,
            signals=signals,
            format=1,
        )

    async def enqueue(self, *batches: HintBatch) -> None:
        """Send one frame. From the first on, answers are read."""
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        await self.call.write(sync_pb2.EnqueueRequest(batches=batches))

    async def until_accepted(self, *batch_ids: int) -> None:
        """Return once all are accepted."""
        wanted = set(batch_ids)
        async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
            await self._changed.wait_for(lambda: wanted.issubset(self.accepted))

    async def until_done(self, *batch_ids: int) -> None:
        """Return once the node was told that all are done."""
        wanted = set(batch_ids)
        await self.node.until(lambda: wanted.issubset(self.node.done))

    async def close(self) -> None:
        """Cancel the stream."""
        self.call.cancel()
        if self._reader is not None:
            await asyncio.wait((self._reader,))


class Replicas:
    """Makes replicas and sources, which end with the test."""

    def __init__(self, stack: AsyncExitStack, peers: Peers) -> None:
        self._stack = stack
        self._peers = peers

    async def start(
        self, redis_url: str, *, ready: bool = True, tracer: Tracer | None = None, **settings: Any
    ) -> Replica:
        """One more replica; with `ready` it is waited for."""
        stack = await self._stack.enter_async_context(AsyncExitStack())
        made = SyncSettings(
            **{
                "mesh_listen": "127.0.0.1:0",
                "redis_url": SecretStr(redis_url),
                "presence_target": self._peers.presence.address,
                "push_target": self._peers.push.address,
                "sync_unknown_retry_seconds": 0.05,
                # long: what a test does not mean to time out must not, on a slow machine
                "sync_answer_seconds": 30,
                "sync_route_cache_ms": 0,
                **settings,
            }
        )
        lifecycle = Lifecycle(10)
        tracer = tracer or Tracer("test")
        parts = build(made, lifecycle.readiness, tracer, stack)
        server = mesh_server(
            made,
            lifecycle.readiness,
            callers=allowed_callers(
                sync_pb2.DESCRIPTOR.services_by_name.values(), callers_pb2.callers
            ),
            ungated=("/chatmesh.mesh.v1.SyncService/GetQueueStatus",),
        )
        server.add(sync_pb2_grpc.add_SyncServiceServicer_to_server, parts.servicer)
        replica = Replica(lifecycle, parts, await server.start())
        run_loops(lifecycle, parts)
        replica.serving = asyncio.create_task(lifecycle.run([server], [lambda: drain(parts)]))
        stack.push_async_callback(self._stop_at_once, replica)
        if ready:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await lifecycle.readiness.wait_ready()
        return replica

    async def source(self, replica: Replica, node: Node) -> Source:
        """The Enqueue stream of a node."""
        channel = grpc.aio.insecure_channel(
            replica.address, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self._stack.push_async_callback(channel.close)
        source = Source(node, channel)
        self._stack.push_async_callback(source.close)
        return source

    @staticmethod
    async def _stop_at_once(replica: Replica) -> None:
        replica.lifecycle._grace_seconds = 0
        replica.lifecycle.stop("end of the test")
        await asyncio.wait((replica.serving,))


def hint(
    account: int, seq: int, *, pushable: bool = False, entry: bytes = b"", **more: Any
) -> Hint:
    """A hint."""
    return Hint(
        account_id=account,
        timeline_seq=seq,
        pushable=pushable,
        entry=entry or f"entry {account}/{seq}".encode(),
        **more,
    )
