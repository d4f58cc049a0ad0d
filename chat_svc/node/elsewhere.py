"""What other services know of an account that is erased: asked, and told to forget."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from chatmesh.mesh.v1.presence_pb2 import (
    ForgetRequest,
    ForgetResponse,
    LookupSessionsRequest,
    LookupSessionsResponse,
)
from chatmesh.mesh.v1.push_pb2 import DeleteTokensRequest
from chatmesh.runtime import faults


class Elsewhere:
    """See the module's text. All raise the other service's own Fault."""

    def __init__(
        self,
        push: Any,
        forget: Callable[[ForgetRequest], Awaitable[ForgetResponse]],
        lookup: Callable[[LookupSessionsRequest], Awaitable[LookupSessionsResponse]],
    ) -> None:
        self._push = push
        self._forget = forget
        self._lookup = lookup

    async def has_sessions(self, account: int) -> bool:
        """Whether presence knows live sessions of the account, or cannot tell yet.

        A session that ends after presence was told to forget would leave its end there.
        """
        try:
            answer = await self._lookup(LookupSessionsRequest(account_ids=[account]))
        except grpc.aio.AioRpcError as error:
            raise faults.from_rpc_error(error) from None
        return answer.unknown or any(found.routes for found in answer.accounts)

    async def forget(self, account: int, user: str) -> None:
        """Push tokens, jobs, records and presence: all goes. Safe to repeat."""
        try:
            gone = DeleteTokensRequest(account_id=account, forget=True, user_id=user)
            await self._push.DeleteTokens(gone)
            await self._forget(ForgetRequest(account_ids=[account]))
        except grpc.aio.AioRpcError as error:
            raise faults.from_rpc_error(error) from None
