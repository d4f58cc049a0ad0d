"""Provider `webhook`: a signed HTTPS request to a back end. The token is its URL.

Signed as https://www.standardwebhooks.com asks (version 1): `webhook-id`, `webhook-timestamp` and
`webhook-signature: v1,<base64>` over `id.timestamp.body` with HMAC-SHA256; while secrets are
rotated the header holds one signature of each. The id is equal for repetitions of one notification.

What the back end answers: 2xx taken; 410 the URL is given up; 408, 425, 429, 5xx and no answer
tried again (Retry-After is followed); all else refused for good. Redirects are not followed.
"""

import base64
import email.utils
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx

from push_svc.decide import Binding
from push_svc.providers import BadToken, Gone, Outcome, Refused, Retry, Sent
from push_svc.providers.egress import Address, Egress, Unresolvable, Url
from push_svc.render import Notification

MAX_ANSWER_BYTES: Final = 65_536
MAX_CONNECTIONS: Final = 100
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the format's mark, not a secret
_RETRIED: Final = frozenset((408, 425, 429))


class WebhookProvider:
    """Signed requests."""

    name = "webhook"
    shows_silent = True

    def __init__(
        self,
        secrets: Sequence[str],
        egress: Egress,
        *,
        timeout_seconds: float,
        ca: Path | None = None,
    ) -> None:
        """`secrets`: one, or two in rotation; `ca`: an authority to trust besides public ones."""
        self._secrets = [secret_bytes(secret) for secret in secrets]
        self._egress = egress
        context = ssl.create_default_context()
        if ca is not None:
            context.load_verify_locations(cafile=str(ca))
        self._client = httpx.AsyncClient(
            verify=context,
            timeout=httpx.Timeout(timeout_seconds),
            # A connection is checked for one host name but pooled by address, so none is reused.
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=False,  # a proxy of the environment would connect to what it likes
        )

    async def check_token(self, token: str, app: str) -> None:
        """Raise BadToken unless `token` is an https URL of a public host."""
        try:
            await self._egress.resolve(self._egress.parse(token))
        except Unresolvable as error:
            raise BadToken(str(error)) from None

    async def send(self, notification: Notification, binding: Binding) -> Outcome:
        """Send one signed request."""
        try:
            url = self._egress.parse(binding.token)
            address = await self._egress.resolve(url)
        except BadToken as error:
            return Refused(str(error))
        except Unresolvable as error:
            return Retry(str(error))
        body = encode(notification)
        try:
            return await self._post(url, address, notification.key, body)
        except httpx.TimeoutException:
            return Retry("no answer in time")
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            return Retry(type(error).__name__)

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def _post(self, url: Url, address: Address, key: str, body: bytes) -> Outcome:
        host = f"[{address}]" if address.version == 6 else str(address)
        timestamp = int(time.time())
        headers = {
            "host": url.authority,
            "content-type": "application/json",
            "user-agent": "chatmesh",
            "webhook-id": key,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(
                signature(secret, key, timestamp, body) for secret in self._secrets
            ),
        }
        async with self._client.stream(
            "POST",
            f"https://{host}:{url.port}{url.path}",
            content=body,
            headers=headers,
            # the certificate must be the named host's, whatever address it has
            extensions={"sni_hostname": url.host},
        ) as response:
            read = 0
            async for chunk in response.aiter_raw():
                read += len(chunk)
                if read > MAX_ANSWER_BYTES:
                    break  # its status is all that matters
            return judge(response.status_code, response.headers.get("retry-after"))


def encode(notification: Notification) -> bytes:
    """The request's body."""
    return json.dumps(
        {
            "id": notification.key,
            "visible": notification.visible,
            "title": notification.title,
            "body": notification.body,
            "badge": notification.badge,
            "collapse_key": notification.collapse,
            "high_priority": notification.high_priority,
            "ttl_seconds": notification.ttl_seconds,
            "data": notification.data,
        },
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()


def secret_bytes(secret: str) -> bytes:
    """The key of a secret: `whsec_` and base64, or the text itself."""
    if secret.startswith(SECRET_PREFIX):
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    return secret.encode()


def signature(secret: bytes, key: str, timestamp: int, body: bytes) -> str:
    """One signature of the header."""
    signed = f"{key}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()


def judge(status: int, retry_after: str | None) -> Outcome:
    """What an answer means."""
    if 200 <= status < 300:
        return Sent()
    if status == 410:
        return Gone("410 Gone")
    if status in _RETRIED:
        return Retry(f"HTTP {status}", seconds_of(retry_after), provider_failed=False)
    if status >= 500:
        return Retry(f"HTTP {status}", seconds_of(retry_after))
    return Refused(f"HTTP {status}")


def seconds_of(retry_after: str | None) -> float | None:
    """A Retry-After header (RFC 9110, section 10.2.3): seconds or a date; None when unusable."""
    if not retry_after:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, at.timestamp() - time.time())
