"""Provider `webhook`: a signed HTTPS request to a back end. The token is its URL.

Signed as https://www.standardwebhooks.com asks (version 1): `webhook-id`, `webhook-timestamp` and
`webhook-signature: v1,<base64>` over `id.timestamp.body` with HMAC-SHA256; while secrets are
rotated the header holds one signature of each. The id is equal for repetitions of one notification.

What the back end answers: 2xx taken; 410 the URL is given up; 408, 425, 429, 5xx and no answer
tried again (Retry-After is followed); all else refused for good. Redirects are not followed.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from typing import Final

from push_svc.decide import Binding
from push_svc.providers import BadToken, Gone, Outcome, Refused, Retry, Sent
from push_svc.providers.http import NamedHosts, Unreachable
from push_svc.providers.retry_after import seconds_of
from push_svc.render import Notification

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the format's mark, not a secret
_RETRIED: Final = frozenset((408, 425, 429))


class WebhookProvider:
    """Signed requests."""

    name = "webhook"
    shows_silent = True

    def __init__(self, secrets: Sequence[str], hosts: NamedHosts) -> None:
        """`secrets`: one, or two during rotation. `hosts` is closed with the provider."""
        self._secrets = [secret_bytes(secret) for secret in secrets]
        self._hosts = hosts

    async def check_token(self, token: str, app: str) -> None:
        """Raise BadToken unless `token` is an https URL of a public host."""
        await self._hosts.check(token)

    async def send(self, notification: Notification, binding: Binding) -> Outcome:
        """Send one signed request."""
        body = encode(notification)
        key, timestamp = notification.key, int(time.time())
        headers = {
            "content-type": "application/json",
            "webhook-id": key,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(
                signature(secret, key, timestamp, body) for secret in self._secrets
            ),
        }
        try:
            answer = await self._hosts.post(binding.token, headers, body)
        except BadToken as error:
            return Refused(str(error))
        except Unreachable as error:
            return Retry(str(error))
        return judge(answer.status, answer.retry_after)

    async def close(self) -> None:
        """Close connections."""
        await self._hosts.close()


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
