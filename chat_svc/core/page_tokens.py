"""Page tokens: opaque, signed, bound to the caller and the query.

A token says where a page ended. It is worth nothing to anybody else and in any other query, so it
tells nothing and opens nothing. All chat nodes share the key: the next page may come from another.

Pure.
"""

import base64
import binascii
import hmac
from hashlib import blake2s
from typing import Final

from chatmesh import errors

_MAC_BYTES: Final = 16
_VERSION: Final = b"\x01"
MAX_TOKEN_CHARACTERS: Final = 1_024


class PageTokens:
    """Makes and opens tokens."""

    def __init__(self, key: bytes) -> None:
        """`key`: a secret of 16 to 64 bytes; a key of its own is derived from it."""
        self._key = blake2s(b"page tokens", key=key[:32]).digest()

    def seal(self, account: int, query: bytes, state: bytes) -> str:
        """A token. `query`: the whole query but page size and token, in one form."""
        mac = self._mac(account, query, state)
        return base64.urlsafe_b64encode(_VERSION + mac + state).rstrip(b"=").decode()

    def open(self, account: int, query: bytes, token: str) -> bytes | None:
        """The state; None for an empty token: the first page.

        Raises:
            Fault: PAGE_TOKEN_INVALID: of another caller or query, or not of ours.
        """
        if not token:
            return None
        if len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
            raise errors.PAGE_TOKEN_INVALID()
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise errors.PAGE_TOKEN_INVALID() from None
        mac, state = raw[1 : 1 + _MAC_BYTES], raw[1 + _MAC_BYTES :]
        good = hmac.compare_digest(mac, self._mac(account, query, state))
        if raw[:1] != _VERSION or not good:
            raise errors.PAGE_TOKEN_INVALID()
        return state

    def _mac(self, account: int, query: bytes, state: bytes) -> bytes:
        digest = blake2s(key=self._key, digest_size=_MAC_BYTES)
        digest.update(account.to_bytes(8, "big"))
        digest.update(len(query).to_bytes(4, "big"))
        digest.update(query)
        digest.update(state)
        return digest.digest()
