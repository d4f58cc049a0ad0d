"""Where bearer tokens come from and when a fresh one is due.

Rules: never verifies a token (the server does); reads `exp` only to renew in time. A token that
is no JWT works too: it is then fetched anew whenever a session opens or the server refuses it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from chatmesh.client.errors import AuthenticationFailed

TokenProvider: TypeAlias = Callable[[], Awaitable[str]]
"""Called whenever a token is needed; returns one, without the word Bearer."""

RENEW_SHARE: Final = 0.8
"""A token is renewed after this share of the life it had left when it was fetched."""
MIN_MARGIN_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 5.0
"""Wait before asking again after a provider failed or gave a token that lasts no longer."""


def _claim(token: str, name: str) -> object:
    """A claim of a JWT, unverified; None when it cannot be read."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        body = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        claims = json.loads(body)
    except ValueError:
        return None
    return claims.get(name) if isinstance(claims, dict) else None


def expiry_seconds(token: str) -> float | None:
    """`exp` of a JWT in seconds since the Unix epoch; None when it cannot be read."""
    value = _claim(token, "exp")
    return float(value) if isinstance(value, int | float) else None


def subject(token: str) -> str:
    """`sub` of a JWT, to know oneself by; empty when it cannot be read."""
    value = _claim(token, "sub")
    return value if isinstance(value, str) else ""


class Tokens:
    """The token in use."""

    def __init__(self, source: str | TokenProvider) -> None:
        self._source = source
        self._current = source if isinstance(source, str) else ""

    @property
    def can_renew(self) -> bool:
        """Whether a fresh one can be had."""
        return not isinstance(self._source, str)

    async def fetch(self) -> str:
        """A token for a new session or call.

        Raises AuthenticationFailed when the provider gives none.
        """
        if not isinstance(self._source, str):
            self._current = await self._source()
        if not self._current:
            raise AuthenticationFailed(
                "the token is empty", reason="TOKEN_MISSING", code="UNAUTHENTICATED"
            )
        return self._current

    async def current(self) -> str:
        """The token in use; fetched when there is none yet."""
        return self._current or await self.fetch()

    def renew_after_seconds(self, server_now_ms: int) -> float | None:
        """How long the token in use is good without renewal; None: for ever, as far as is known."""
        expires = expiry_seconds(self._current) if self.can_renew else None
        if expires is None:
            return None
        left = expires - server_now_ms / 1000
        return max(0.0, min(left * RENEW_SHARE, left - MIN_MARGIN_SECONDS))
