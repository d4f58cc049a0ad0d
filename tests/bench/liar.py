"""A chat server that lies in one way, so that it can be seen whether the load client notices.

Not a model of the product: timelines are lists, users are their tokens. What it keeps is the form
of the contract, so that a load client finds nothing wrong but the lie.
"""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from chatmesh.v1 import session_pb2, types_pb2

LIMITS = types_pb2.Limits(
    max_content_bytes=65_536, max_send_batch=100, max_sends_in_flight=256, window_entries=256,
    window_bytes=262_144, frames_per_second=10_000, frames_burst=20_000, idle_timeout_seconds=20,
)  # fmt: skip
LIE_AT = 30
"""The message of each receiver that is lied about."""


class Liar:
    """`lie` is one of: none, lost, doubled, swapped, changed, gap, echo lost, refused, closed."""

    def __init__(self, lie: str) -> None:
        self._lie = lie
        self._queues: dict[str, asyncio.Queue[session_pb2.ServerFrame]] = {}
        self._heads: dict[str, int] = {}
        self._received: dict[str, int] = {}
        self._held: dict[str, types_pb2.Event] = {}

    async def session(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        user = _user_of(str(dict(context.invocation_metadata())["authorization"]))
        await anext(requests)
        queue = self._queues[user] = asyncio.Queue()
        yield session_pb2.ServerFrame(
            welcome=[
                session_pb2.Welcome(
                    user_id=user, limits=LIMITS, server_time_ms=time.time_ns() // 1_000_000
                )
            ]
        )
        yield session_pb2.ServerFrame(caught_up=[session_pb2.CaughtUp()])
        reading = asyncio.create_task(self._read(user, requests))
        try:
            while (frame := await queue.get()) is not None:
                yield frame
                if frame.closed:
                    return
        finally:
            reading.cancel()

    async def _read(self, user: str, requests: AsyncIterator[Any]) -> None:
        async for frame in requests:
            for message in frame.send.messages:
                self._send(user, message)

    def _send(self, user: str, message: types_pb2.OutgoingMessage) -> None:
        peer = message.to_user_id
        count = self._received[peer] = self._received.get(peer, 0) + 1
        lie = self._lie if count == LIE_AT else "none"
        result = session_pb2.SendResult(idempotency_key=message.idempotency_key)
        if lie == "refused":
            result.problem.reason = "NOT_REACHABLE"
        self._queues[user].put_nowait(session_pb2.ServerFrame(send_results=[result]))
        event = types_pb2.Event(sender_user_id=user, idempotency_key=message.idempotency_key)
        if lie != "echo lost":
            self._deliver(user, event)
        event.content.CopyFrom(message.content)
        event.ClearField("idempotency_key")
        self._lie_about(lie, peer, event)

    def _lie_about(self, lie: str, peer: str, event: types_pb2.Event) -> None:
        if lie == "lost":
            return
        if lie == "swapped":
            self._held[peer] = event
            return
        if lie == "changed":
            event.content.text.body = event.content.text.body[:-1] + "!"
        if lie == "gap":
            self._heads[peer] = self._heads.get(peer, 0) + 1
        if lie == "closed":
            closed = session_pb2.Closed(reason=session_pb2.Closed.REASON_DRAINED)
            self._queues[peer].put_nowait(session_pb2.ServerFrame(closed=[closed]))
            return
        self._deliver(peer, event)
        if lie == "doubled":
            self._deliver(peer, event)
        if peer in self._held and lie == "none":
            self._deliver(peer, self._held.pop(peer))

    def _deliver(self, user: str, event: types_pb2.Event) -> None:
        self._heads[user] = self._heads.get(user, 0) + 1
        entry = types_pb2.Entry(timeline_seq=self._heads[user], event=event)
        self._queues[user].put_nowait(session_pb2.ServerFrame(entries=[entry]))


def _user_of(authorization: str) -> str:
    """Tokens are believed: signed ones say who it is, others are the name."""
    token = authorization.removeprefix("Bearer ")
    if token.count(".") != 2:
        return token
    claims = token.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"])


@asynccontextmanager
async def lying_server(lie: str) -> AsyncIterator[str]:
    """Its address."""
    server = grpc.aio.server()
    session = grpc.stream_stream_rpc_method_handler(
        Liar(lie).session,
        session_pb2.ClientFrame.FromString,
        session_pb2.ServerFrame.SerializeToString,
    )
    handlers = {"Session": session}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("chatmesh.v1.ChatService", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
