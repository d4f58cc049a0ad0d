"""The verification keys of one issuer: a shared secret, a JWK set in a file, or one by URL.

Rules: never blocks the event loop; a JWK set is read again at most once per 30 s, whoever asks
(a flood of random key ids costs nothing); while the source is away, known keys go on working; a
key that left the set is believed for one more hour, so that a rotation cuts nobody off.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import IO, Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OctKey, OKPKey, RSAKey

from chatmesh.runtime.clock import Clock
from chatmesh.runtime.logs import logger
from chatmesh.runtime.settings_public import SECRET_ALGORITHM, IssuerSettings

UNKNOWN_KEY_REFRESH_SECONDS: Final = 30
PERIODIC_REFRESH_SECONDS: Final = 300
"""So soon is a key that the issuer removed noticed, without any unknown key id."""
RETIRED_KEY_SECONDS: Final = 3600
FETCH_TIMEOUT_SECONDS: Final = 5
MAX_KEY_SET_BYTES: Final = 256 * 1024

_log = logger(__name__)

PublicKey = RSAKey | ECKey | OKPKey
AnyKey = PublicKey | OctKey


@dataclass(slots=True)
class _Known:
    key: PublicKey
    algorithm: str | None
    retire_at: float | None  # monotonic seconds; None while the set names it


class KeyRing:
    """Keys by key id, refreshed as the rules above say."""

    def __init__(self, settings: IssuerSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._secret: OctKey | None = None
        if settings.secret is not None:
            self._secret = OctKey.import_key(settings.secret.get_secret_value())
        self._known: dict[str, _Known] = {}
        self._read_at: float | None = None
        self._lock = asyncio.Lock()

    async def find(self, kid: str | None, algorithm: str) -> AnyKey | None:
        """The key for a token's `kid` (None: the only one there is), or None."""
        if self._secret is not None:
            return self._secret if algorithm == SECRET_ALGORITHM else None
        found = self._lookup(kid, algorithm)
        wait = PERIODIC_REFRESH_SECONDS if found is not None else UNKNOWN_KEY_REFRESH_SECONDS
        if self._is_due(wait):
            await self._refresh(wait)
            found = self._lookup(kid, algorithm)
        return found

    def _lookup(self, kid: str | None, algorithm: str) -> PublicKey | None:
        if kid is None:
            usable = [known for known in self._known.values() if known.retire_at is None]
            known = usable[0] if len(usable) == 1 else None
        else:
            known = self._known.get(kid)
        if known is None or known.algorithm not in (None, algorithm):
            return None
        if known.retire_at is not None and self._clock.monotonic() >= known.retire_at:
            return None
        return known.key

    def _is_due(self, wait_seconds: float) -> bool:
        return self._read_at is None or self._clock.monotonic() - self._read_at >= wait_seconds

    async def _refresh(self, wait_seconds: float) -> None:
        async with self._lock:
            if not self._is_due(wait_seconds):
                return  # another call did it meanwhile
            self._read_at = self._clock.monotonic()
            try:
                raw = await asyncio.to_thread(self._read)
                fresh = _parse_key_set(raw)
            except (OSError, ValueError, urllib.error.URLError, JoseError) as error:
                _log.warning(
                    "key set not refreshed",
                    issuer=self._settings.issuer,
                    error=type(error).__name__,
                )
                return
            self._adopt(fresh)

    def _adopt(self, fresh: dict[str, _Known]) -> None:
        now = self._clock.monotonic()
        for kid, known in self._known.items():
            if kid in fresh:
                continue
            if known.retire_at is None:
                known.retire_at = now + RETIRED_KEY_SECONDS
            if now < known.retire_at:
                fresh[kid] = known
        self._known = fresh

    def _read(self) -> bytes:
        """Blocking; runs in a thread."""
        if self._settings.jwks_file is not None:
            with self._settings.jwks_file.open("rb") as file:
                return file.read(MAX_KEY_SET_BYTES + 1)
        url = self._settings.jwks_url
        if url is None:
            raise ValueError("an issuer without a key source")
        headers = {"Accept": "application/json"}
        if self._settings.jwks_bearer_file is not None:
            shown = self._settings.jwks_bearer_file.read_text().strip()
            headers["Authorization"] = f"Bearer {shown}"
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - https only, checked in the settings
        with _opener_for(self._settings).open(request, timeout=FETCH_TIMEOUT_SECONDS) as response:
            raw: bytes = response.read(MAX_KEY_SET_BYTES + 1)
        return raw


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead to another host; the settings name the host that is trusted."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        """Follow nothing: urllib then raises HTTPError."""
        return


def _opener_for(settings: IssuerSettings) -> urllib.request.OpenerDirector:
    """Made for each fetch, at most one in 30 s: the authority's file may change."""
    if settings.jwks_ca is None:
        return urllib.request.build_opener(_NoRedirect)
    trusted = ssl.create_default_context(cafile=str(settings.jwks_ca))
    return urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=trusted))


def _parse_key_set(raw: bytes) -> dict[str, _Known]:
    """Signing keys by key id. Symmetric keys in a public set are ignored, whatever they claim."""
    if len(raw) > MAX_KEY_SET_BYTES:
        raise ValueError("the key set is too large")
    document = json.loads(raw)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JWK set")
    keys: dict[str, _Known] = {}
    for entry in entries:
        key = _public_key(entry)
        if key is None:
            continue
        kid = entry.get("kid") or key.thumbprint()
        keys[str(kid)] = _Known(key, entry.get("alg"), None)
    return keys


def _public_key(entry: Any) -> PublicKey | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    try:
        key = JWKRegistry.import_key(entry)
    except (JoseError, ValueError, TypeError, KeyError):
        return None  # RFC 7517 section 5: a key that is not understood is skipped
    return key if isinstance(key, RSAKey | ECKey | OKPKey) else None
