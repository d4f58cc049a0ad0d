"""Provider `fcm`: Firebase Cloud Messaging, HTTP v1, with a service account.

Requests and errors: "REST Resource: projects.messages" and "ErrorCode" of the FCM v1 reference
(firebase.google.com); access tokens: "Using OAuth 2.0 for Server to Server Applications"
(developers.google.com/identity), RFC 7523. Google's own library fetches tokens by blocking calls,
so the assertion is signed and posted here.
"""

import asyncio
import json
import re
import time
from typing import Any, Final
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.jwk import RSAKey

from push_svc.decide import Binding
from push_svc.providers import BadToken, Gone, Outcome, Refused, Retry, Sent
from push_svc.providers.http import Answer, KnownHost, Unreachable
from push_svc.providers.retry_after import seconds_of
from push_svc.render import Notification

DEFAULT_URL: Final = "https://fcm.googleapis.com"
SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_SECONDS: Final = 3_600
EARLY_SECONDS: Final = 120
"""An access token is renewed this long before it ends."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9_:.-]{20,4096}")
_GONE: Final = frozenset(("UNREGISTERED", "SENDER_ID_MISMATCH"))


class FcmProvider:
    """Notifications over Firebase."""

    name = "fcm"
    shows_silent = True

    def __init__(self, account: str, url: str, host: KnownHost) -> None:
        """`account`: the service account's JSON. ValueError when it is none."""
        try:
            value = json.loads(account)
            self._email = str(value["client_email"])
            self._token_url = str(value["token_uri"])
            project = str(value["project_id"])
            self._key = RSAKey.import_key(value["private_key"])
        except (KeyError, TypeError, ValueError):
            raise ValueError("not a service account's JSON with a private key") from None
        self._url = f"{url.rstrip('/')}/v1/projects/{project}/messages:send"
        self._host = host
        self._lock = asyncio.Lock()
        self._access = ""
        self._access_until = 0.0

    async def check_token(self, token: str, app: str) -> None:
        """Raise BadToken unless `token` has the form of a registration token."""
        if not _TOKEN.fullmatch(token):
            raise BadToken("not a registration token of FCM")

    async def send(self, notification: Notification, binding: Binding) -> Outcome:
        """Send one request."""
        try:
            access = await self._access_token()
            answer = await self._host.post(
                self._url,
                {"authorization": f"Bearer {access}", "content-type": "application/json"},
                payload(notification, binding.token),
            )
        except Unreachable as error:
            return Retry(str(error))
        if answer.status == 401:
            self._access_until = 0.0
            return Retry("HTTP 401", provider_failed=True)
        return judge(answer)

    async def close(self) -> None:
        """Close the connection."""
        await self._host.close()

    async def _access_token(self) -> str:
        """The access token, fetched once for all that wait for it. Raises Unreachable."""
        async with self._lock:
            if time.monotonic() < self._access_until:
                return self._access
            now = int(time.time())
            assertion = jwt.encode(
                {"alg": "RS256", "typ": "JWT"},
                {
                    "iss": self._email,
                    "scope": SCOPE,
                    "aud": self._token_url,
                    "iat": now,
                    "exp": now + ASSERTION_SECONDS,
                },
                self._key,
                algorithms=["RS256"],
            )
            answer = await self._host.post(
                self._token_url,
                {"content-type": "application/x-www-form-urlencoded"},
                urlencode({"grant_type": GRANT, "assertion": assertion}).encode(),
            )
            value = answer.json()
            access = value.get("access_token")
            if answer.status != 200 or not isinstance(access, str):
                raise Unreachable(f"no access token: HTTP {answer.status}")
            seconds = value.get("expires_in", ASSERTION_SECONDS)
            self._access = access
            self._access_until = time.monotonic() + max(float(seconds) - EARLY_SECONDS, 1.0)
            return access


def payload(notification: Notification, token: str) -> bytes:
    """The request's body; at most 4,000 bytes of content, which `render` sees to."""
    aps: dict[str, Any] = {"badge": notification.badge}
    message: dict[str, Any] = {"token": token, "data": notification.data}
    android: dict[str, Any] = {
        "ttl": f"{notification.ttl_seconds}s",
        "priority": "HIGH" if notification.visible else "NORMAL",
    }
    if notification.visible:
        message["notification"] = {"title": notification.title, "body": notification.body}
        # a newer notification with the same tag takes the place of the older one
        android["notification"] = {"tag": notification.collapse}
        aps["sound"] = "default"
    else:
        aps["content-available"] = 1
    message["android"] = android
    message["apns"] = {
        "headers": {
            "apns-collapse-id": notification.collapse,
            "apns-priority": "10" if notification.visible else "5",
        },
        "payload": {"aps": aps},
    }
    return json.dumps({"message": message}, ensure_ascii=False, separators=(",", ":")).encode()


def judge(answer: Answer) -> Outcome:
    """What an answer means."""
    if answer.status == 200:
        return Sent()
    error = answer.json().get("error")
    error = error if isinstance(error, dict) else {}
    code, fields = _details(error)
    why = f"HTTP {answer.status} {code or error.get('status', '')}".rstrip()
    if code in _GONE or (answer.status == 400 and "message.token" in fields):
        return Gone(why)
    if answer.status == 404 and not code:
        return Gone(why)
    if answer.status == 429:
        return Retry(why, seconds_of(answer.retry_after), provider_failed=False)
    if answer.status >= 500:
        return Retry(why, seconds_of(answer.retry_after))
    if answer.status in (401, 403):
        return Retry(why)  # our credentials: the circuit opens until they are mended
    return Refused(why)


def _details(error: dict[str, Any]) -> tuple[str, set[str]]:
    """FcmError.errorCode, and the fields that BadRequest names."""
    code, fields = "", set[str]()
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if not isinstance(detail, dict):
            continue
        code = str(detail.get("errorCode", "")) or code
        violations = detail.get("fieldViolations")
        for violation in violations if isinstance(violations, list) else ():
            if isinstance(violation, dict):
                fields.add(str(violation.get("field", "")))
    return code[:60], fields
