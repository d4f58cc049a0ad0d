"""What `chatmesh queue` asks of sync_svc and push_svc.

Role: finds the replicas (of the embedded mesh on a data folder, or those that the environment
names), speaks as the caller `cli`, turns answers into plain values.
Rules: every call has a deadline; a replica that does not answer is told, the others are shown.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from chatmesh.embedded import running
from chatmesh.mesh.v1 import push_pb2, push_pb2_grpc, sync_pb2, sync_pb2_grpc
from chatmesh.runtime import settings
from chatmesh.runtime.peers import Peer
from chatmesh.runtime.settings import ServerSettings

CALLER: Final = "cli"
CALL_SECONDS: Final = 10.0
RETRIES_PER_CALL: Final = 1_000
SYNC_TARGET: Final = "CHATMESH_SYNC_TARGET"
PUSH_TARGET: Final = "CHATMESH_PUSH_TARGET"


class Away(Exception):
    """A server that is needed did not answer, or refused; the text says which and how."""


class Operator:
    """Stubs of one mesh."""

    def __init__(self, syncs: Sequence[tuple[str, Any]], push: Any) -> None:
        """`syncs`: target and stub of every replica that is to be asked."""
        self._syncs = syncs
        self._push = push

    async def status(self) -> dict[str, Any]:
        """The queue's streams as the first replica that knows them tells, and every replica."""
        replicas: list[dict[str, Any]] = []
        streams: list[dict[str, Any]] = []
        for target, stub in self._syncs:
            try:
                answer = await stub.GetQueueStatus(
                    sync_pb2.GetQueueStatusRequest(), timeout=CALL_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                replicas.append({"target": target, "error": _told(error)})
                continue
            replicas.append(
                {
                    "target": target,
                    "redis_up": answer.redis_up,
                    "in_memory": answer.in_memory,
                }
            )
            if not streams:
                streams = [
                    {
                        "stream": one.stream,
                        "length": one.length,
                        "unread": one.unread,
                        "lag_ms": one.lag_ms,
                    }
                    for one in answer.streams
                ]
        _, dead_letters = await self.letters(0, 1)
        return {"replicas": replicas, "streams": streams, "dead_letters": dead_letters}

    async def letters(self, after: int, limit: int) -> tuple[list[push_pb2.DeadLetter], int]:
        """Up to `limit` letters with a number above `after`, and how many are kept in all."""
        found: list[push_pb2.DeadLetter] = []
        total = 0
        while len(found) < limit:  # a page may be cut short by its bytes
            answer = await _answered(
                self._push.ListDeadLetters(
                    push_pb2.ListDeadLettersRequest(
                        page_size=limit - len(found), after_dead_letter_id=after
                    ),
                    timeout=CALL_SECONDS,
                )
            )
            total = answer.total
            if not answer.letters:
                break
            found.extend(answer.letters)
            after = found[-1].dead_letter_id
        return found, total

    async def retry(self, numbers: Sequence[int]) -> tuple[int, int]:
        """Try letters again (all when none is named): how many became jobs, how many stay."""
        retried = left = 0
        for start in range(0, max(1, len(numbers)), RETRIES_PER_CALL):
            answer = await _answered(
                self._push.RetryDeadLetters(
                    push_pb2.RetryDeadLettersRequest(
                        dead_letter_ids=numbers[start : start + RETRIES_PER_CALL]
                    ),
                    timeout=CALL_SECONDS,
                )
            )
            retried += answer.retried
            left += answer.left
        return retried, left


@asynccontextmanager
async def connected(data: Path | None) -> AsyncIterator[Operator]:
    """An operator of the mesh that the environment names, else of the one on a data folder.

    Raises EmbeddedError when none runs there, SettingsError for a bad environment.
    """
    if SYNC_TARGET in os.environ and PUSH_TARGET in os.environ and data is None:
        syncs, pushes = [os.environ[SYNC_TARGET]], os.environ[PUSH_TARGET]
        listen = {"CHATMESH_MESH_LISTEN": "127.0.0.1:0"}  # asked for, never listened on
        how = settings.load(ServerSettings, {**os.environ, **listen})
    else:
        mesh = running.find(data)
        syncs, pushes = mesh.addresses_of("sync_svc"), ",".join(mesh.addresses_of("push_svc"))
        files = mesh.cli_certificates()
        how = ServerSettings(
            mesh_listen="127.0.0.1:0",
            mesh_tls_ca=files.ca,
            mesh_tls_cert=files.certificate,
            mesh_tls_key=files.key,
        )
    async with AsyncExitStack() as stack:

        async def peer(target: str) -> grpc.aio.Channel:
            try:
                made = Peer(target, how, caller=CALLER)
            except ValueError as error:
                raise Away(f"{target}: {error}") from None
            stack.push_async_callback(made.close)
            return made.channel

        stubs = [(one, sync_pb2_grpc.SyncServiceStub(await peer(one))) for one in syncs]
        yield Operator(stubs, push_pb2_grpc.PushServiceStub(await peer(pushes)))


async def _answered(call: Any) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise Away(f"push_svc: {_told(error)}") from None


def _told(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name} {error.details() or ''}".strip()
