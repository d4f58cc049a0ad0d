"""Who calls on the public face: bearer tokens (JWT) in, `Identity` out.

Rules (RFC 8725): the algorithm list comes from the settings, never from the token; `iss`, `aud`,
`exp`, `nbf` and `sub` are required; `crit` is refused; `jku`, `x5u` and embedded keys are ignored;
`typ` is checked. A refusal names a reason and never a word of the token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import unicodedata
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import grpc
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning

from chatmesh.runtime import faults
from chatmesh.runtime.clock import Clock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.keys import KeyRing
from chatmesh.runtime.settings_public import IssuerSettings

MAX_TOKEN_BYTES: Final = 7 * 1024
"""Below the 8 KiB of metadata that a listener accepts."""
MAX_USER_ID_CHARACTERS: Final = 128
MAX_TENANT_CHARACTERS: Final = 64
NOT_BEFORE_LEEWAY_SECONDS: Final = 30
"""An issuer's clock may be this far ahead of ours. `exp` has no leeway: a call after it is refused.
(A session that runs is given some time to bring a new token; that is the session's rule.)"""
MAX_EXPIRY_SECONDS: Final = 1 << 38
"""A bound far beyond any date, so that milliseconds fit an int64 whatever a token says."""
CACHED_TOKENS: Final = 4096
CACHE_SECONDS: Final = 60
"""A verified token is believed this long without its signature; so long a removed key may live."""

_ACCEPTED_TYPES: Final = (None, "jwt", "at+jwt", "application/at+jwt")
_FORBIDDEN_CATEGORIES: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Zl", "Zp"))

# RFC 9864 renames EdDSA to Ed25519; issuers still write the old name, and which names are accepted
# is the operator's word.
warnings.filterwarnings("ignore", message="EdDSA is deprecated", category=SecurityWarning)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a verified token speaks for. Times are Unix milliseconds."""

    tenant: str
    user_id: str
    scopes: frozenset[str]
    expires_at_ms: int
    issuer: str
    token_id: str
    issued_at_ms: int = 0
    """The claim `iat`; 0 = the token has none."""


_current: ContextVar[Identity] = ContextVar("identity")


def current_identity() -> Identity:
    """The identity of the call being handled; LookupError outside a call of the public face."""
    return _current.get()


def set_current_identity(identity: Identity) -> None:
    """Bind the identity to the running call; for the interceptor and for tests of servicers."""
    _current.set(identity)


def _nobody(_tenant: str, _reason: str) -> None:
    """Nobody keeps count."""


class TokenVerifier:
    """Verifies bearer tokens of a fixed list of issuers."""

    def __init__(self, issuers: Sequence[IssuerSettings], clock: Clock) -> None:
        self._clock = clock
        self._issuers = {settings.issuer: settings for settings in issuers}
        if len(self._issuers) != len(issuers):
            raise ValueError("two issuers with one name")
        self._keys = {settings.issuer: KeyRing(settings, clock) for settings in issuers}
        self._cache: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()
        self.on_refused: Callable[[str, str], None] = _nobody
        """Told (tenant, reason) of each refused token; no tenant: none was proved."""

    async def verify(self, token: str) -> Identity:
        """The identity that `token` proves.

        Raises Fault UNAUTHENTICATED with TOKEN_MALFORMED, TOKEN_INVALID, TOKEN_EXPIRED or
        TOKEN_NOT_YET_VALID.
        """
        try:
            return await self._believed(token)
        except Fault as fault:
            self.on_refused("", fault.reason)
            raise

    async def _believed(self, token: str) -> Identity:
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise _refused(faults.TOKEN_MALFORMED, "the token is too long or not ASCII")
        digest = hashlib.blake2s(token.encode()).digest()
        cached = self._cache.get(digest)
        if cached is not None:
            identity, until = cached
            if self._clock.monotonic() < until and self._clock.wall_ms() < identity.expires_at_ms:
                return identity
            del self._cache[digest]
        identity = await self._verify(token)
        self._cache[digest] = (identity, self._clock.monotonic() + CACHE_SECONDS)
        if len(self._cache) > CACHED_TOKENS:
            self._cache.popitem(last=False)
        return identity

    async def _verify(self, token: str) -> Identity:
        header, claims = _parse(token)
        issuer = claims.get("iss")
        settings = self._issuers.get(issuer) if isinstance(issuer, str) else None
        if settings is None:
            raise _refused(faults.TOKEN_INVALID, "the issuer is not accepted here")
        _check_header(header, settings)
        key = await self._keys[settings.issuer].find(header.get("kid"), header["alg"])
        if key is None:
            raise _refused(faults.TOKEN_INVALID, "the signing key is not known")
        try:
            jws.deserialize_compact(
                token, key, algorithms=[header["alg"]], registry=_registry(settings)
            )
        except (JoseError, ValueError, TypeError):
            raise _refused(faults.TOKEN_INVALID, "the signature is wrong") from None
        return self._identity(settings, claims)

    def _identity(self, settings: IssuerSettings, claims: Mapping[str, Any]) -> Identity:
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if settings.audience not in audiences:
            raise _refused(faults.TOKEN_INVALID, "the audience is another one")
        now_seconds = self._clock.wall_ms() / 1000
        expires = _time_claim(claims, "exp")
        if expires <= now_seconds:
            raise _refused(faults.TOKEN_EXPIRED, "the token has expired")
        # one of them must say from when on: which one is the issuer's habit
        not_before = _time_claim(claims, "nbf", default=None if settings.nbf_required else 0)
        issued = _time_claim(claims, "iat", default=0 if settings.nbf_required else None)
        begins = max(not_before, issued)
        if begins > now_seconds + NOT_BEFORE_LEEWAY_SECONDS:
            raise _refused(faults.TOKEN_NOT_YET_VALID, "the token is not valid yet")
        _text_claim(claims, "sub", MAX_USER_ID_CHARACTERS)
        tenant = settings.tenant
        if settings.tenant_claim is not None and settings.tenant_claim in claims:
            tenant = _text_claim(claims, settings.tenant_claim, MAX_TENANT_CHARACTERS)
        token_id = claims.get("jti", "")
        user = _text_claim(claims, settings.user_claim, MAX_USER_ID_CHARACTERS)
        return Identity(
            tenant=tenant,
            user_id=user,
            scopes=_scopes(claims) | frozenset(settings.granted_scopes.get(user, ())),
            expires_at_ms=int(expires * 1000),
            issuer=settings.issuer,
            token_id=token_id if isinstance(token_id, str) else "",
            issued_at_ms=int(issued * 1000),
        )


def bearer_token(values: Sequence[str | bytes]) -> str:
    """The token of the `authorization` metadata values of one call; Fault UNAUTHENTICATED."""
    if not values:
        raise _refused(faults.TOKEN_MISSING, "metadata `authorization: Bearer TOKEN` is missing")
    value = values[0]
    if len(values) > 1 or not isinstance(value, str):
        raise _refused(faults.TOKEN_MALFORMED, "metadata `authorization` must be given once")
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise _refused(faults.TOKEN_MALFORMED, "metadata `authorization` must be `Bearer TOKEN`")
    return token.strip()


def is_clean_text(text: str, max_characters: int) -> bool:
    """Whether `text` is 1..max characters without control, format or surrogate characters."""
    return 0 < len(text) <= max_characters and not any(
        unicodedata.category(character) in _FORBIDDEN_CATEGORIES for character in text
    )


def _refused(reason: str, message: str) -> Fault:
    return Fault(grpc.StatusCode.UNAUTHENTICATED, reason, message)


def _parse(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, not yet verified: they choose the key, which then proves them."""
    parts = token.split(".")
    if len(parts) != 3:
        raise _refused(faults.TOKEN_MALFORMED, "the token is not a signed JWT")
    try:
        header, claims = (json.loads(_base64url(part)) for part in parts[:2])
    except (ValueError, RecursionError):
        raise _refused(faults.TOKEN_MALFORMED, "the token is not a signed JWT") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise _refused(faults.TOKEN_MALFORMED, "the token is not a signed JWT")
    return header, claims


def _base64url(part: str) -> bytes:
    if "=" in part or "+" in part or "/" in part:
        raise binascii.Error("not base64url without padding")
    return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)


def _check_header(header: Mapping[str, Any], settings: IssuerSettings) -> None:
    if header.get("alg") not in settings.algorithms:
        raise _refused(faults.TOKEN_INVALID, "the signature algorithm is not accepted")
    if "crit" in header or "b64" in header:
        raise _refused(faults.TOKEN_INVALID, "critical header parameters are not accepted")
    kind = header.get("typ")
    if (kind.lower() if isinstance(kind, str) else kind) not in _ACCEPTED_TYPES:
        raise _refused(faults.TOKEN_INVALID, "the token type is not accepted")
    if not isinstance(header.get("kid", ""), str):
        raise _refused(faults.TOKEN_MALFORMED, "the key id is not text")


def _registry(settings: IssuerSettings) -> jws.JWSRegistry:
    """Unknown header parameters (jku, x5u, jwk …) are ignored, as RFC 7515 section 4 says."""
    return jws.JWSRegistry(algorithms=list(settings.algorithms), strict_check_header=False)


def _time_claim(claims: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = claims.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _refused(faults.TOKEN_INVALID, f"the claim `{name}` is missing or not a number")
    return min(max(value, -MAX_EXPIRY_SECONDS), MAX_EXPIRY_SECONDS)


def _text_claim(claims: Mapping[str, Any], name: str, max_characters: int) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not is_clean_text(value, max_characters):
        raise _refused(
            faults.TOKEN_INVALID,
            f"the claim `{name}` must be 1 to {max_characters} characters without controls",
        )
    return value


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """OAuth writes `scope` as one string (RFC 8693), others `scp` as a list."""
    value = claims.get("scope", claims.get("scp", ""))
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list):
        return frozenset()
    return frozenset(word for word in words if isinstance(word, str))
