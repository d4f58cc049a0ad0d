"""Other chat nodes: asked to end sessions that were replaced, signed out or disabled.

Asked again for as long as a node may stand still and come back with its sessions: a node that was
away for longer has lost its lease and ends them itself. What an older session does meanwhile is
fenced by session_no.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import grpc

from chatmesh.mesh.v1.node_pb2 import EndSessionsRequest
from chatmesh.mesh.v1.node_pb2_grpc import ChatNodeServiceStub
from chatmesh.runtime.logs import LogBudget, logger
from chatmesh.runtime.peers import Peer

DEADLINE_SECONDS: Final = 3.0
AGAIN_SECONDS: Final = 0.5
ASK_FOR_SECONDS: Final = 30.0
"""Longer than a node's lease."""
MAX_PEERS: Final = 64
MAX_WAITING: Final = 10_000

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class Neighbours:
    """Channels to other chat nodes, made at first use."""

    def __init__(self, connect: Callable[[str], Peer]) -> None:
        self._connect = connect
        self._peers: dict[str, Peer] = {}
        self._waiting: asyncio.Queue[tuple[str, EndSessionsRequest, float]] = asyncio.Queue(
            MAX_WAITING
        )

    def end_soon(
        self,
        target: str,
        account: int,
        device_ids: Sequence[str],
        reason: int,
        *,
        before_session_no: int = 0,
    ) -> None:
        """End sessions on another node, in the background; only those with a lower session_no, if
        one is given: by then a newer one of the device may be there."""
        request = EndSessionsRequest(
            account_id=account,
            device_ids=device_ids,
            reason=reason,
            before_session_no=before_session_no,
        )
        self._put(target, request, asyncio.get_running_loop().time() + ASK_FOR_SECONDS)

    def _put(self, target: str, request: EndSessionsRequest, until: float) -> None:
        try:
            self._waiting.put_nowait((target, request, until))
        except asyncio.QueueFull:
            if _budget.take():
                _log.warning("too many sessions to end elsewhere")

    async def end(self, target: str, account: int, device_ids: Sequence[str], reason: int) -> int:
        """End sessions on another node now; how many ended. 0 when it cannot be reached."""
        request = EndSessionsRequest(account_id=account, device_ids=device_ids, reason=reason)
        return await self._ask(target, request) or 0

    async def run(self) -> None:
        """In the background."""
        loop = asyncio.get_running_loop()
        while True:
            target, request, until = await self._waiting.get()
            if await self._ask(target, request) is None and loop.time() < until:
                loop.call_later(AGAIN_SECONDS, self._put, target, request, until)

    async def _ask(self, target: str, request: EndSessionsRequest) -> int | None:
        """How many ended; None when the node did not answer."""
        peer = await self._peer(target)
        try:
            answer = await ChatNodeServiceStub(peer.channel).EndSessions(
                request, timeout=DEADLINE_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            if _budget.take():
                _log.warning("sessions not ended elsewhere", status=error.code().name)
            return None
        return answer.ended

    async def _peer(self, target: str) -> Peer:
        peer = self._peers.get(target)
        if peer is None:
            if len(self._peers) >= MAX_PEERS:
                await self._peers.pop(next(iter(self._peers))).close()
            peer = self._peers[target] = self._connect(target)
        return peer

    async def close(self) -> None:
        """Close all channels."""
        peers, self._peers = list(self._peers.values()), {}
        for peer in peers:
            await peer.close()
