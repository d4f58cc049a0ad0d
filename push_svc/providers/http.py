"""HTTPS for providers: hosts that users name (pinned to a checked address), and hosts of settings.

Both read answers up to a limit, follow no redirect, use no proxy of the environment, and turn every
network trouble into Unreachable.
"""

import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from push_svc.providers import BadToken
from push_svc.providers.egress import Egress, Unresolvable

MAX_ANSWER_BYTES: Final = 65_536
MAX_CONNECTIONS: Final = 100


class Unreachable(Exception):
    """No answer; it may come later. The text names no host."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    retry_after: str | None
    body: bytes
    """At most MAX_ANSWER_BYTES."""

    def json(self) -> dict[str, Any]:
        """The body as an object; {} when it is none."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


def trusting(ca: Path | None) -> ssl.SSLContext:
    """A TLS context that believes the public authorities, and `ca` besides them."""
    context = ssl.create_default_context()
    if ca is not None:
        context.load_verify_locations(cafile=str(ca))
    return context


class NamedHosts:
    """POSTs to URLs that users name."""

    def __init__(self, egress: Egress, *, timeout_seconds: float, ca: Path | None = None) -> None:
        """`ca`: an authority to trust besides the public ones."""
        self._egress = egress
        self._client = httpx.AsyncClient(
            verify=trusting(ca),
            timeout=httpx.Timeout(timeout_seconds),
            # A connection is checked for one host name but pooled by address, so none is reused.
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=False,  # a proxy of the environment would connect to what it likes
        )

    async def check(self, url: str) -> None:
        """Raise BadToken unless `url` is https and leads to a public host."""
        try:
            await self._egress.resolve(self._egress.parse(url))
        except Unresolvable as error:
            raise BadToken(str(error)) from None

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """Send one request. Raises BadToken (never), Unreachable (later)."""
        parsed = self._egress.parse(url)
        try:
            address = await self._egress.resolve(parsed)
        except Unresolvable as error:
            raise Unreachable(str(error)) from None
        host = f"[{address}]" if address.version == 6 else str(address)
        return await _post(
            self._client,
            f"https://{host}:{parsed.port}{parsed.path}",
            {"host": parsed.authority, "user-agent": "chatmesh", **headers},
            body,
            # the certificate must be the named host's, whatever address it has
            {"sni_hostname": parsed.host},
        )

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()


class KnownHost:
    """POSTs to a provider that the settings name: one kept connection, many requests on it."""

    def __init__(self, *, timeout_seconds: float, ca: Path | None = None) -> None:
        """`ca`: an authority to trust besides the public ones."""
        self._client = httpx.AsyncClient(
            http2=True,
            verify=trusting(ca),
            timeout=httpx.Timeout(timeout_seconds),
            limits=httpx.Limits(max_connections=4, max_keepalive_connections=4),
            follow_redirects=False,
            trust_env=False,
        )

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """Send one request. Raises Unreachable."""
        return await _post(self._client, url, {"user-agent": "chatmesh", **headers}, body, {})

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()


async def _post(
    client: httpx.AsyncClient,
    url: str,
    headers: dict[str, str],
    body: bytes,
    extensions: dict[str, Any],
) -> Answer:
    try:
        async with client.stream(
            "POST", url, content=body, headers=headers, extensions=extensions
        ) as response:
            read = b""
            async for chunk in response.aiter_raw():
                read += chunk
                if len(read) > MAX_ANSWER_BYTES:
                    break
            return Answer(
                response.status_code,
                response.headers.get("retry-after"),
                read[:MAX_ANSWER_BYTES],
            )
    except httpx.TimeoutException:
        raise Unreachable("no answer in time") from None
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
        raise Unreachable(type(error).__name__) from None
