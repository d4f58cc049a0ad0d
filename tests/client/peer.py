"""A real grpc.aio server that speaks `ChatService.Session` for the SDK's tests: the rules are
`server_model`'s, the streams, statuses and trailers are real.

Tokens are `USER` or `USER.SOMETHING`. Tests steer it by its attributes; they count nothing by time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import grpc

from chatmesh.runtime import faults
from chatmesh.v1 import conversations_pb2 as conversations
from chatmesh.v1 import session_pb2 as pb
from chatmesh.v1.types_pb2 import Conversation, Cursor, Event, OutgoingMessage, Problem
from tests.client.server_model import Node, Stream


class Account(Node):
    """One user's timeline; what is sent to somebody lands in theirs, too."""

    def __init__(self, peer: Peer, user: str) -> None:
        super().__init__(user=user)
        self.peer = peer

    def commit(self, message: OutgoingMessage) -> pb.SendResult:
        known = message.idempotency_key in self.answers
        result = super().commit(message)
        if not known:
            self.fill(self.timeline[-1], message, self.user)
            if message.to_user_id not in ("", self.user):
                other = self.peer.account(message.to_user_id)
                entry = other.append()
                other.fill(other.timeline[-1], message, self.user)
                assert entry.timeline_seq == len(other.timeline)
            self.peer.changed.set()
        return result

    def fill(self, event: Event, message: OutgoingMessage, sender: str) -> None:
        """The event says what the message says."""
        event.sender_user_id, event.peer_user_id = sender, message.to_user_id
        event.content.CopyFrom(message.content)
        event.trace_context = message.trace_context


class Peer:
    """The server. `async with Peer() as peer: ... peer.address`"""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.changed = asyncio.Event()
        self.sessions: list[LiveStream] = []
        """Every session so far; the newest last."""
        self.refused_tokens: set[str] = set()
        self.tokens: list[str] = []
        """Every token seen: by calls, and in-stream renewals."""
        self.statements: list[pb.ClientFrame] = []
        self.refuse: set[bytes] = set()
        self.later: set[bytes] = set()
        self.answering = asyncio.Event()
        self.answering.set()
        """While clear, nothing is written to any stream."""
        self.fail_next: faults.Fault | None = None
        self.unary_failures: list[faults.Fault] = []
        self.address = ""

    def account(self, user: str) -> Account:
        return self.accounts.setdefault(user, Account(self, user))

    def write(self, user: str, count: int = 1) -> None:
        """Others write into a user's timeline."""
        account = self.account(user)
        for _ in range(count):
            account.append()
            number = len(account.timeline)
            account.timeline[-1].content.text.body = f"text {number}"
            account.timeline[-1].sender_user_id = "world"
        self.changed.set()

    async def session(self, number: int) -> LiveStream:
        """The n-th session (from 0), as soon as it is there and greeted."""
        await self.until(lambda: len(self.sessions) > number and self.sessions[number].greeted)
        return self.sessions[number]

    async def until(self, condition: Any) -> None:
        """Wait until something is so; looked at whenever a frame came or went."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    # -- gRPC --------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        rpc = grpc.method_handlers_generic_handler
        chat: dict[str, Any] = {
            "Session": grpc.stream_stream_rpc_method_handler(
                self._session,
                request_deserializer=pb.ClientFrame.FromString,
                response_serializer=pb.ServerFrame.SerializeToString,
            ),
            "SendMessages": grpc.unary_unary_rpc_method_handler(
                self._send_messages,
                request_deserializer=pb.SendMessagesRequest.FromString,
                response_serializer=pb.SendMessagesResponse.SerializeToString,
            ),
            "GetSnapshot": grpc.unary_unary_rpc_method_handler(
                self._snapshot,
                request_deserializer=pb.GetSnapshotRequest.FromString,
                response_serializer=pb.GetSnapshotResponse.SerializeToString,
            ),
        }
        history: dict[str, Any] = {
            "ListConversations": grpc.unary_unary_rpc_method_handler(
                self._conversations,
                request_deserializer=conversations.ListConversationsRequest.FromString,
                response_serializer=conversations.ListConversationsResponse.SerializeToString,
            )
        }
        self._server.add_generic_rpc_handlers(
            (
                rpc("chatmesh.v1.ChatService", chat),
                rpc("chatmesh.v1.ConversationService", history),
            )
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._server.stop(0)

    async def _user(self, context: Any) -> str:
        token = dict(context.invocation_metadata())["authorization"].removeprefix("Bearer ")
        self.tokens.append(token)
        self.changed.set()
        if token in self.refused_tokens:
            code = grpc.StatusCode.UNAUTHENTICATED
            await _abort(context, faults.Fault(code, "TOKEN_EXPIRED", "the token has expired"))
        return str(token.split(".")[0])

    async def _session(self, frames: AsyncIterator[pb.ClientFrame], context: Any) -> None:
        account = self.account(await self._user(context))
        if self.fail_next is not None:
            fault, self.fail_next = self.fail_next, None
            await _abort(context, fault)
        live = LiveStream(self, account)
        self.sessions.append(live)
        reader = asyncio.create_task(live.read(frames))
        writer = asyncio.create_task(live.write(context))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not live.ended.is_set():
                await asyncio.wait({writer})  # the client half-closed
            if live.fault is not None:
                await _abort(context, live.fault)
        finally:
            live.ended.set()
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
            self.changed.set()

    async def _send_messages(self, request: pb.SendMessagesRequest, context: Any) -> Any:
        metadata = dict(context.invocation_metadata())
        user = metadata.get("chatmesh-on-behalf-of") or await self._user(context)
        response = pb.SendMessagesResponse()
        for message in request.messages:
            if message.idempotency_key in self.refuse:
                problem = Problem(code=5, reason="NOT_REACHABLE")
                key = message.idempotency_key
                response.results.add(idempotency_key=key, problem=problem)
            else:
                response.results.append(self.account(user).commit(message))
        if self.unary_failures:
            await _abort(context, self.unary_failures.pop(0))
        return response

    async def _snapshot(self, request: pb.GetSnapshotRequest, context: Any) -> Any:
        timeline = self.account(await self._user(context)).timeline
        page = int(request.page_token or 0)
        last = timeline[-1].message_id if timeline else 0
        return pb.GetSnapshotResponse(
            conversations=[Conversation(conversation_id=page + 1)],
            next_page_token="1" if page == 0 else "",
            as_of=Cursor(timeline_seq=len(timeline), message_id=last),
        )

    async def _conversations(self, request: Any, context: Any) -> Any:
        await self._user(context)
        if self.unary_failures:
            await _abort(context, self.unary_failures.pop(0))
        return conversations.ListConversationsResponse(
            conversations=[Conversation(conversation_id=1)]
        )


class LiveStream(Stream):
    """One session on the wire."""

    def __init__(self, peer: Peer, account: Account) -> None:
        super().__init__(account)
        self.peer = peer
        self.ended = asyncio.Event()
        self.fault: faults.Fault | None = None
        self.received: list[pb.ClientFrame] = []

    def say(self, **fields: Any) -> None:
        """Queue a frame."""
        self.out.append(pb.ServerFrame(**fields))
        self.peer.changed.set()

    def finish(self, reason: str, reconnect: str = "NOW", after_ms: int = 0) -> None:
        """`closed`, then OK."""
        closed = pb.Closed(
            reason=pb.Closed.Reason.Value(f"REASON_{reason}"),
            reconnect=pb.Closed.Reconnect.Value(f"RECONNECT_{reconnect}"),
            reconnect_after_ms=after_ms,
        )
        self.closed = True
        self.say(closed=[closed])

    def break_(self, fault: faults.Fault) -> None:
        """The stream ends with a status and no `closed`."""
        self.fault = fault
        self.ended.set()
        self.peer.changed.set()

    async def read(self, frames: AsyncIterator[pb.ClientFrame]) -> None:
        async for frame in frames:
            self.received.append(frame)
            kind = frame.WhichOneof("kind")
            if kind == "renew_token":
                self.peer.tokens.append(frame.renew_token.token)
            elif kind not in ("hello", "send", "ack", "ping"):
                self.peer.statements.append(frame)
            self.take(frame, frozenset(self.peer.refuse), frozenset(self.peer.later))
            self.peer.changed.set()
        self.half_closed = True
        if not self.closed:
            self.finish("CLIENT_DONE")

    async def write(self, context: Any) -> None:
        while not self.ended.is_set():
            await self.peer.answering.wait()
            self.write_entries(16)
            if self.out:
                frame = self.out.pop(0)
                await context.write(frame)
                if frame.closed:
                    self.ended.set()
                continue
            self.peer.changed.clear()
            await self.peer.changed.wait()


async def _abort(context: Any, fault: faults.Fault) -> None:
    await context.abort(fault.code, fault.message, faults.to_trailers(fault))
