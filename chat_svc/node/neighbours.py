"""Other chat nodes: asked to end sessions that were replaced, signed out or disabled.

Best effort with a deadline: what does not arrive is healed by session_no, which fences everything
an older session does, and by presence, which tells a node of superseded routes.
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
MAX_PEERS: Final = 64
MAX_WAITING: Final = 10_000

_log = logger(__name__)
_budget = LogBudget(per_second=1)


class Neighbours:
    """Channels to other chat nodes, made at first use."""

    def __init__(self, connect: Callable[[str], Peer]) -> None:
        self._connect = connect
        self._peers: dict[str, Peer] = {}
        self._waiting: asyncio.Queue[tuple[str, EndSessionsRequest]] = asyncio.Queue(MAX_WAITING)

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
        try:
            self._waiting.put_nowait((target, request))
        except asyncio.QueueFull:
            if _budget.take():
                _log.warning("too many sessions to end elsewhere")

    async def end(self, target: str, account: int, device_ids: Sequence[str], reason: int) -> int:
        """End sessions on another node now; how many ended. 0 when it cannot be reached."""
        return await self._ask(
            target, EndSessionsRequest(account_id=account, device_ids=device_ids, reason=reason)
        )

    async def run(self) -> None:
        """In the background."""
        while True:
            await self._ask(*await self._waiting.get())

    async def _ask(self, target: str, request: EndSessionsRequest) -> int:
        peer = await self._peer(target)
        try:
            answer = await ChatNodeServiceStub(peer.channel).EndSessions(
                request, timeout=DEADLINE_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            if _budget.take():
                _log.warning("sessions not ended elsewhere", status=error.code().name)
            return 0
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
