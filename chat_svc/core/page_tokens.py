"""Page tokens: opaque, signed, bound to the caller and the query.

A token says where a page ended. It is worth nothing to anybody else, in any other query, or a day
later: lists go on as of the moment of their first page, and what a page must skip grows with its
age. All chat nodes share the key: the next page may come from another.

Pure.
"""

import base64
import binascii
import hmac
from collections.abc import Callable
from hashlib import blake2s
from typing import Final

from chatmesh import errors

_MAC_BYTES: Final = 16
_MADE_BYTES: Final = 4
_MINUTE_MS: Final = 60_000
_VERSION: Final = b"\x02"
MAX_TOKEN_CHARACTERS: Final = 1_024
MAX_AGE_MINUTES: Final = 24 * 60
SKEW_MINUTES: Final = 5
"""Nodes' clocks may differ: a token from this far ahead is believed."""


class PageTokens:
    """Makes and opens tokens."""

    def __init__(self, key: bytes, wall_ms: Callable[[], int]) -> None:
        """`key`: a secret of 16 to 64 bytes; a key of its own is derived from it. `wall_ms`: now,
        in ms since the Unix epoch."""
        self._key = blake2s(b"page tokens", key=key[:32]).digest()
        self._wall_ms = wall_ms

    def seal(self, account: int, query: bytes, state: bytes) -> str:
        """A token. `query`: the whole query but page size and token, in one form."""
        stamped = self._minute().to_bytes(_MADE_BYTES, "big") + state
        mac = self._mac(account, query, stamped)
        return base64.urlsafe_b64encode(_VERSION + mac + stamped).rstrip(b"=").decode()

    def open(self, account: int, query: bytes, token: str) -> bytes | None:
        """The state; None for an empty token: the first page.

        Raises:
            Fault: PAGE_TOKEN_INVALID: of another caller or query, not of ours, or a day old.
        """
        if not token:
            return None
        if len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
            raise errors.PAGE_TOKEN_INVALID()
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise errors.PAGE_TOKEN_INVALID() from None
        mac, stamped = raw[1 : 1 + _MAC_BYTES], raw[1 + _MAC_BYTES :]
        good = hmac.compare_digest(mac, self._mac(account, query, stamped))
        if raw[:1] != _VERSION or not good:
            raise errors.PAGE_TOKEN_INVALID()
        made = int.from_bytes(stamped[:_MADE_BYTES], "big")
        if not -SKEW_MINUTES <= self._minute() - made <= MAX_AGE_MINUTES:
            raise errors.PAGE_TOKEN_INVALID(
                "the page token is a day old: start from the first page"
            )
        return stamped[_MADE_BYTES:]

    def _minute(self) -> int:
        return self._wall_ms() // _MINUTE_MS

    def _mac(self, account: int, query: bytes, stamped: bytes) -> bytes:
        digest = blake2s(key=self._key, digest_size=_MAC_BYTES)
        digest.update(account.to_bytes(8, "big"))
        digest.update(len(query).to_bytes(4, "big"))
        digest.update(query)
        digest.update(stamped)
        return digest.digest()
