"""Unary calls of a client: token, one renewal, and retries that repeat nothing.

Rules: every public RPC either reads, sets a state, or carries an idempotency key, so a call whose
outcome is unknown is simply made again.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

from chatmesh.client._keys import ServerTime, uuid7
from chatmesh.client._tokens import Tokens
from chatmesh.client._transport import Transport
from chatmesh.client.errors import AuthenticationFailed, ChatmeshError, LimitExceeded, Unavailable

ATTEMPTS: Final = 4
FIRST_WAIT_SECONDS: Final = 0.2


class Caller:
    """What the groups of calls stand on."""

    _transport: Transport
    _tokens: Tokens
    _time: ServerTime

    def _new_key(self) -> bytes:
        return uuid7(self._time.now_ms())

    @property
    def _me(self) -> str:
        raise NotImplementedError

    async def _away(self) -> None:
        """A server did not answer; the next attempt may go elsewhere."""

    async def _call(self, service: str, method: str, request: Any, answer: type[Any]) -> Any:
        """One call, repeated while the server is away; raises exceptions of `errors`."""
        token, renewed = await self._tokens.current(), False
        wait_seconds, error = FIRST_WAIT_SECONDS, ChatmeshError("never tried")
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(wait_seconds * (0.5 + random.random()))
                wait_seconds *= 2
            try:
                return await self._transport.call(service, method, request, answer, token)
            except AuthenticationFailed as refused:
                if renewed or not self._tokens.can_renew:
                    raise
                token, renewed, error = await self._tokens.fetch(), True, refused
            except Unavailable as away:
                error = away
                await self._away()
            except LimitExceeded as limited:
                if limited.retry_after_seconds is None:
                    raise
                error, wait_seconds = limited, limited.retry_after_seconds
        raise error
