"""Provider `apns`: Apple Push Notification service, HTTP/2 with a provider token.

The binding's token is the device token in hex, its `app` the topic (bundle id).
Requests: "Sending notification requests to APNs"; answers: "Handling notification responses from
APNs"; token: "Establishing a token-based connection to APNs" (developer.apple.com, User
Notifications). A provider token is valid for an hour and may not be made anew within 20 minutes.
"""

import json
import re
import time
from typing import Any, Final
from uuid import UUID

from joserfc import jwt
from joserfc.jwk import ECKey

from push_svc.decide import Binding
from push_svc.providers import BadToken, Gone, Outcome, Refused, Retry, Sent
from push_svc.providers.http import Answer, KnownHost, Unreachable
from push_svc.providers.retry_after import seconds_of
from push_svc.render import Notification

PRODUCTION_URL: Final = "https://api.push.apple.com"
TOKEN_SECONDS: Final = 40 * 60
"""Above the 20 minutes below which Apple answers TooManyProviderTokenUpdates, below the hour."""
_DEVICE_TOKEN: Final = re.compile(r"[0-9a-fA-F]{64,200}")
_GONE: Final = frozenset(
    ("BadDeviceToken", "DeviceTokenNotForTopic", "Unregistered", "ExpiredToken")
)
_OUR_KEY: Final = frozenset(
    ("InvalidProviderToken", "MissingProviderToken", "TooManyProviderTokenUpdates", "Forbidden")
)


class ApnsProvider:
    """Notifications to Apple's devices."""

    name = "apns"
    shows_silent = True

    def __init__(self, key: str, key_id: str, team_id: str, url: str, host: KnownHost) -> None:
        """`key`: the .p8 file's text. ValueError when it is no private key of P-256."""
        self._key = ECKey.import_key(key)
        self._key_id = key_id
        self._team_id = team_id
        self._url = url.rstrip("/")
        self._host = host
        self._token = ""
        self._token_at = float("-inf")

    async def check_token(self, token: str, app: str) -> None:
        """Raise BadToken unless `token` is hex and `app` names a topic."""
        if not _DEVICE_TOKEN.fullmatch(token):
            raise BadToken("a device token of APNs is 64 to 200 hex digits")
        if not app:
            raise BadToken("app must be the bundle id")

    async def send(self, notification: Notification, binding: Binding) -> Outcome:
        """Send one request."""
        try:
            answer = await self._host.post(
                f"{self._url}/3/device/{binding.token}",
                self._headers(notification, binding),
                payload(notification),
            )
        except Unreachable as error:
            return Retry(str(error))
        reason = answer.json().get("reason", "")
        if reason == "ExpiredProviderToken":
            self._token_at = float("-inf")
        return judge(answer, binding)

    async def close(self) -> None:
        """Close the connection."""
        await self._host.close()

    def _headers(self, notification: Notification, binding: Binding) -> dict[str, str]:
        expires = int(time.time()) + notification.ttl_seconds if notification.ttl_seconds else 0
        return {
            "authorization": f"bearer {self._provider_token()}",
            "apns-topic": binding.app,
            "apns-id": str(UUID(hex=notification.key)),
            # `background` allows no badge, so silent ones are alerts without anything to alert of
            "apns-push-type": "alert",
            "apns-priority": "10" if notification.visible else "5",
            "apns-expiration": str(expires),
            "apns-collapse-id": notification.collapse,
        }

    def _provider_token(self) -> str:
        now = time.monotonic()
        if now - self._token_at > TOKEN_SECONDS:
            self._token = jwt.encode(
                {"alg": "ES256", "kid": self._key_id},
                {"iss": self._team_id, "iat": int(time.time())},
                self._key,
                algorithms=["ES256"],
            )
            self._token_at = now
        return self._token


def payload(notification: Notification) -> bytes:
    """The request's body; at most 4 KiB, which `render` sees to."""
    aps: dict[str, Any] = {"badge": notification.badge}
    if notification.visible:
        aps["alert"] = {"title": notification.title, "body": notification.body}
        aps["sound"] = "default"
        aps["mutable-content"] = 1  # the app may fetch what privacy left out
        if "conversation_id" in notification.data:
            aps["thread-id"] = notification.data["conversation_id"]
    else:
        aps["content-available"] = 1
    return json.dumps(
        {"aps": aps, "chatmesh": notification.data}, ensure_ascii=False, separators=(",", ":")
    ).encode()


def judge(answer: Answer, binding: Binding) -> Outcome:
    """What an answer means."""
    if answer.status == 200:
        return Sent()
    value = answer.json()
    reason = str(value.get("reason", ""))[:60]
    why = f"HTTP {answer.status} {reason}".rstrip()
    if answer.status == 410 or reason in _GONE:
        since = value.get("timestamp")
        if isinstance(since, int) and binding.bound_at_ms > since:
            return Retry(why, provider_failed=False)  # registered again after it had ended
        return Gone(why)
    if reason == "ExpiredProviderToken":
        return Retry(why, 0, provider_failed=False)
    if reason in _OUR_KEY:
        return Retry(why)  # nothing is wrong with the device: the circuit opens until it is mended
    if answer.status == 429:
        return Retry(why, seconds_of(answer.retry_after), provider_failed=False)
    if answer.status >= 500:
        return Retry(why, seconds_of(answer.retry_after))
    return Refused(why)
