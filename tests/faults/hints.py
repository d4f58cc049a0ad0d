"""Stands between chat nodes and sync_svc on the Enqueue stream, and mistreats hints.

Each batch of hints is passed on, lost, doubled, late (others overtake it by far) or swapped with
the next one; signals (typing, receipts) alike. Answers go back untouched. All of that a queue is
allowed to do: after the commit everything is a hint.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from random import Random
from types import TracebackType
from typing import Any, Self

import grpc

from chatmesh.embedded import certificates
from chatmesh.embedded.running import RunningMesh
from chatmesh.mesh.v1 import sync_pb2

SERVICE = "chatmesh.mesh.v1.SyncService"
LATE_SECONDS = 0.3
SHARES = {"hints lost": 15, "hints doubled": 15, "hints late": 15, "hints reordered": 15}
"""Of 100 batches; the others pass."""


class HintMangler:
    """Listens where the nodes think that sync is; `mangling` switches it on."""

    def __init__(self, port: int, mesh: RunningMesh, random: Random) -> None:
        self.mangling = False
        self.done: Counter[str] = Counter()
        self._random = random
        folder = mesh.folder.certificates
        ours = certificates.files_of(folder, "sync_svc")
        theirs = certificates.files_of(folder, "chat_svc")
        ca = ours.ca.read_bytes()
        self._channel = grpc.aio.secure_channel(
            ",".join(mesh.addresses_of("sync_svc")),
            grpc.ssl_channel_credentials(
                ca, theirs.key.read_bytes(), theirs.certificate.read_bytes()
            ),
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_reconnect_backoff_ms", 500),
                ("grpc.initial_reconnect_backoff_ms", 100),
            ],
        )
        self._server = grpc.aio.server(maximum_concurrent_rpcs=100)
        enqueue: Any = grpc.stream_stream_rpc_method_handler(self._enqueue)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"Enqueue": enqueue}),)
        )
        self._server.add_secure_port(
            f"127.0.0.1:{port}",
            grpc.ssl_server_credentials(
                [(ours.key.read_bytes(), ours.certificate.read_bytes())], ca, True
            ),
        )

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._server.stop(None)
        await self._channel.close()

    async def _enqueue(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        method: Any = self._channel.stream_stream(f"/{SERVICE}/Enqueue")
        call = method()
        frames: asyncio.Queue[bytes] = asyncio.Queue(10_000)
        tasks = [
            asyncio.create_task(self._mangle(requests, frames)),
            asyncio.create_task(_write(call, frames)),
        ]
        try:
            while isinstance(answer := await call.read(), bytes):
                yield answer
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
        finally:
            call.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _mangle(self, requests: AsyncIterator[bytes], frames: asyncio.Queue[bytes]) -> None:
        loop = asyncio.get_running_loop()
        held: list[bytes] = []
        async for request in requests:
            for batch in sync_pb2.EnqueueRequest.FromString(request).batches:
                frame = sync_pb2.EnqueueRequest(batches=[batch]).SerializeToString()
                fate = self._fate()
                if fate == "hints late":
                    loop.call_later(LATE_SECONDS, frames.put_nowait, frame)
                elif fate == "hints reordered":
                    held.append(frame)
                    continue
                elif fate != "hints lost":
                    frames.put_nowait(frame)
                if fate == "hints doubled":
                    frames.put_nowait(frame)
                while held:
                    frames.put_nowait(held.pop())

    def _fate(self) -> str:
        if not self.mangling:
            return ""
        names = [*SHARES, ""]
        (fate,) = self._random.choices(names, [*SHARES.values(), 100 - sum(SHARES.values())])
        if fate:
            self.done[fate] += 1
        return fate


async def _write(call: Any, frames: asyncio.Queue[bytes]) -> None:
    while True:
        await call.write(await frames.get())
