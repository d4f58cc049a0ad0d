"""Recording peers: small real gRPC servers in the place of presence, chat nodes and push.

They answer as a test tells them and remember what they were asked. They stand for the services
whose contract they implement, not for any of sync's own parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc

from chatmesh.mesh.v1 import (
    node_pb2,
    node_pb2_grpc,
    presence_pb2,
    presence_pb2_grpc,
    push_pb2,
    push_pb2_grpc,
)
from chatmesh.mesh.v1.hint_pb2 import Hint, Signal

PATIENCE_SECONDS = 30


class Peer:
    """A server on a port of its own, and a way to wait for what it records."""

    def __init__(self) -> None:
        self.changed = asyncio.Condition()
        self.address = "127.0.0.1:0"
        self._server: grpc.aio.Server | None = None

    def register(self, server: grpc.aio.Server) -> None:
        """Add the service."""
        raise NotImplementedError

    async def start(self) -> str:
        """Listen, again on the same port after a stop; the address."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self.register(server)
        port = server.add_insecure_port(self.address)
        await server.start()
        self.address = f"127.0.0.1:{port}"
        self._server = server
        return self.address

    async def stop(self) -> None:
        """End all calls at once."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(0)

    async def note(self) -> None:
        """Something was recorded or changed."""
        async with self.changed:
            self.changed.notify_all()

    async def until(self, is_true: Callable[[], bool]) -> None:
        """Return once `is_true` of what was recorded."""
        async with asyncio.timeout(PATIENCE_SECONDS), self.changed:
            await self.changed.wait_for(is_true)


class Presence(Peer, presence_pb2_grpc.PresenceServiceServicer):
    """Knows what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.routes: dict[int, list[tuple[int, str]]] = {}
        """Account → (node, device)."""
        self.targets: dict[int, str] = {}
        self.unknown = False
        self.asked: list[list[int]] = []
        self.poison: set[int] = set()
        """Accounts that are answered with INVALID_ARGUMENT."""
        self.answering = asyncio.Event()
        """Cleared: presence hears, but does not answer."""
        self.answering.set()

    def register(self, server: grpc.aio.Server) -> None:
        presence_pb2_grpc.add_PresenceServiceServicer_to_server(self, server)

    def online(self, account: int, node: Node, device: str = "phone") -> None:
        """One more session."""
        self.targets[node.node_id] = node.address
        self.routes.setdefault(account, []).append((node.node_id, device))

    async def LookupSessionsStream(
        self, request_iterator: AsyncIterator[presence_pb2.LookupSessionsRequest], context: Any
    ) -> AsyncIterator[presence_pb2.LookupSessionsResponse]:
        await context.send_initial_metadata(())
        async for request in request_iterator:
            accounts = list(request.account_ids)
            if self.poison.intersection(accounts):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "poison")
            self.asked.append(accounts)
            await self.note()
            await self.answering.wait()
            yield presence_pb2.LookupSessionsResponse(
                request_id=request.request_id,
                accounts=[
                    presence_pb2.AccountRoutes(
                        account_id=account,
                        routes=[
                            presence_pb2.Route(node_id=node, device_id=device, session_no=1)
                            for node, device in self.routes.get(account, ())
                        ],
                    )
                    for account in accounts
                ],
                nodes=[
                    presence_pb2.NodeRef(node_id=node, target=target)
                    for node, target in self.targets.items()
                ],
                unknown=self.unknown,
            )

    def LookupSessions(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def KeepAlive(self, request_iterator: Any, context: Any) -> Any:
        raise NotImplementedError

    def Attach(self, request_iterator: Any, context: Any) -> Any:
        raise NotImplementedError

    def Watch(self, request_iterator: Any, context: Any) -> Any:
        raise NotImplementedError

    def SetState(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def Forget(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def GetFacts(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


class Node(Peer, node_pb2_grpc.ChatNodeServiceServicer):
    """A chat node."""

    def __init__(self, node_id: int) -> None:
        super().__init__()
        self.node_id = node_id
        self.hints: list[Hint] = []
        self.signals: list[Signal] = []
        self.done: list[int] = []
        self.done_digests: dict[int, bytes] = {}
        self.frames = 0
        self.streams = 0
        self.ended_streams = 0
        self.absent: set[int] = set()
        """Accounts without a session here."""
        self.answering = asyncio.Event()
        """Cleared: the node hears, but does not answer."""
        self.answering.set()

    def register(self, server: grpc.aio.Server) -> None:
        node_pb2_grpc.add_ChatNodeServiceServicer_to_server(self, server)

    def places(self) -> list[tuple[int, int]]:
        """(account, position) of all hints that came."""
        return [(hint.account_id, hint.timeline_seq) for hint in self.hints]

    async def Deliver(
        self, request_iterator: AsyncIterator[node_pb2.DeliverRequest], context: Any
    ) -> AsyncIterator[node_pb2.DeliverResponse]:
        self.streams += 1
        await context.send_initial_metadata(())
        try:
            async for request in request_iterator:
                self.frames += 1
                self.hints.extend(delivery.hint for delivery in request.deliveries)
                self.signals.extend(request.signals)
                self.done.extend(request.done_batch_ids)
                said = zip(request.done_batch_ids, request.done_digests, strict=True)
                self.done_digests.update(said)
                await self.note()
                if not request.deliveries:
                    continue
                await self.answering.wait()
                yield node_pb2.DeliverResponse(
                    settled=[
                        node_pb2.Settled(
                            delivery_id=delivery.delivery_id,
                            outcome=(
                                node_pb2.DELIVERY_OUTCOME_NO_SESSION
                                if delivery.hint.account_id in self.absent
                                else node_pb2.DELIVERY_OUTCOME_UNSPECIFIED
                            ),
                        )
                        for delivery in request.deliveries
                    ]
                )
        finally:
            self.ended_streams += 1
            await self.note()

    def PushState(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def EndSessions(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def SetPushDevices(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


class Push(Peer, push_pb2_grpc.PushServiceServicer):
    """push_svc."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[push_pb2.PushTarget] = []
        self.requests = 0
        self.letters: list[push_pb2.DeadLetter] = []
        self.poison: set[int] = set()
        """Accounts whose targets are refused for good."""

    def register(self, server: grpc.aio.Server) -> None:
        push_pb2_grpc.add_PushServiceServicer_to_server(self, server)

    def of(self, account: int) -> list[push_pb2.PushTarget]:
        """All targets of an account."""
        return [target for target in self.targets if target.account_id == account]

    async def Push(
        self, request_iterator: AsyncIterator[push_pb2.PushRequest], context: Any
    ) -> AsyncIterator[push_pb2.PushResponse]:
        await context.send_initial_metadata(())
        async for request in request_iterator:
            self.requests += 1
            if any(target.account_id in self.poison for target in request.targets):
                yield push_pb2.PushResponse(
                    request_id=request.request_id,
                    error_code=grpc.StatusCode.INVALID_ARGUMENT.value[0],
                    error_reason="INVALID_FIELD",
                )
                continue
            self.targets.extend(request.targets)
            yield push_pb2.PushResponse(request_id=request.request_id, jobs=len(request.targets))
            await self.note()

    async def PutDeadLetters(
        self, request: push_pb2.PutDeadLettersRequest, context: Any
    ) -> push_pb2.PutDeadLettersResponse:
        numbers = [max(one.account_id, one.timeline_seq) for one in request.letters]
        if max(numbers) >= 1 << 63:  # as push_svc does
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "above 2^63 - 1")
        self.letters.extend(request.letters)
        await self.note()
        return push_pb2.PutDeadLettersResponse()

    def Cancel(self, request_iterator: Any, context: Any) -> Any:
        raise NotImplementedError

    def PutToken(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def DeleteTokens(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def ListTokens(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def ListDeadLetters(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def RetryDeadLetters(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def ListPushes(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


class Peers:
    """All peers of one test."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.presence = Presence()
        self.push = Push()
        self._next_node = 0

    async def start(self) -> None:
        """Start presence and push."""
        for peer in (self.presence, self.push):
            await peer.start()
            self._stack.push_async_callback(peer.stop)

    async def node(self) -> Node:
        """One more chat node."""
        self._next_node += 1
        node = Node(self._next_node)
        await node.start()
        self._stack.push_async_callback(node.stop)
        return node
