"""Provider `web_push`: RFC 8030 (delivery), RFC 8291 (encryption), RFC 8292 (VAPID).

The token is the browser's PushSubscription as JSON: `endpoint`, `keys.p256dh`, `keys.auth`. The
endpoint is a URL that a user names, so it is treated like a webhook's.

The body is the notification's JSON, encrypted for the browser: the push service reads none of it.
Browsers must show each message (`userVisibleOnly`), so silent ones are not sent.
"""

import base64
import json
import os
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwt
from joserfc.jwk import ECKey

from push_svc.decide import Binding
from push_svc.providers import BadToken, Gone, Outcome, Refused, Retry, Sent
from push_svc.providers.http import NamedHosts, Unreachable
from push_svc.providers.retry_after import seconds_of
from push_svc.providers.webhook import encode
from push_svc.render import Notification

RECORD_BYTES: Final = 4_096
"""RFC 8291, section 4: one record, and push services take at least 4,096 bytes."""
OVERHEAD_BYTES: Final = 86 + 17
"""Header (salt, record size, key) before, delimiter and tag behind the text."""
JWT_SECONDS: Final = 12 * 3_600
"""RFC 8292, section 2: at most 24 hours."""
_POINT_BYTES: Final = 65
_AUTH_BYTES: Final = 16
_TOPIC_CHARACTERS: Final = 32
"""RFC 8030, section 5.4."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A browser's subscription."""

    endpoint: str
    public_key: ec.EllipticCurvePublicKey
    auth: bytes


class WebPushProvider:
    """Encrypted messages to browsers."""

    name = "web_push"
    shows_silent = False

    def __init__(
        self, vapid_key: ec.EllipticCurvePrivateKey, subject: str, hosts: NamedHosts
    ) -> None:
        """`subject`: a mailto: or https: URL where push services reach the operator."""
        self._key = ECKey.import_key(
            vapid_key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        self._public = b64(point_of(vapid_key.public_key()))
        self._subject = subject
        self._hosts = hosts

    async def check_token(self, token: str, app: str) -> None:
        """Raise BadToken unless `token` is a subscription with a public endpoint."""
        await self._hosts.check(parse(token).endpoint)

    async def send(self, notification: Notification, binding: Binding) -> Outcome:
        """Encrypt and send one message."""
        try:
            subscription = parse(binding.token)
            answer = await self._hosts.post(
                subscription.endpoint,
                self._headers(notification, subscription.endpoint),
                encrypt(encode(notification), subscription),
            )
        except BadToken as error:
            return Refused(str(error))
        except Unreachable as error:
            return Retry(str(error))
        return judge(answer.status, answer.retry_after)

    async def close(self) -> None:
        """Close connections."""
        await self._hosts.close()

    def _headers(self, notification: Notification, endpoint: str) -> dict[str, str]:
        parts = urlsplit(endpoint)
        claims = {
            "aud": f"{parts.scheme}://{parts.netloc}",
            "exp": int(time.time()) + JWT_SECONDS,
            "sub": self._subject,
        }
        token = jwt.encode({"typ": "JWT", "alg": "ES256"}, claims, self._key, algorithms=["ES256"])
        return {
            "authorization": f"vapid t={token}, k={self._public}",
            "content-encoding": "aes128gcm",
            "content-type": "application/octet-stream",
            "ttl": str(notification.ttl_seconds),
            "urgency": "high" if notification.high_priority else "normal",
            "topic": notification.collapse[:_TOPIC_CHARACTERS],
        }


def judge(status: int, retry_after: str | None) -> Outcome:
    """What a push service's answer means (RFC 8030, sections 5 and 7.3; RFC 8292, section 4.2)."""
    if status in (200, 201, 202, 204):
        return Sent()
    if status in (404, 410):
        return Gone(f"HTTP {status}")
    if status == 429:
        return Retry("HTTP 429", seconds_of(retry_after), provider_failed=False)
    if status >= 500 or status == 408:
        return Retry(f"HTTP {status}", seconds_of(retry_after))
    return Refused(f"HTTP {status}")


def parse(token: str) -> Subscription:
    """A subscription from its JSON. Raises BadToken, which holds none of it."""
    try:
        value: Any = json.loads(token)
        endpoint, keys = value["endpoint"], value["keys"]
        point, auth = unb64(keys["p256dh"]), unb64(keys["auth"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadToken("not a PushSubscription as JSON") from None
    if not isinstance(endpoint, str) or len(point) != _POINT_BYTES or len(auth) != _AUTH_BYTES:
        raise BadToken("the subscription's endpoint or keys have a wrong form")
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except (ValueError, UnsupportedAlgorithm):
        raise BadToken("the subscription's key is no point of P-256") from None
    return Subscription(endpoint, public, auth)


def encrypt(
    text: bytes,
    subscription: Subscription,
    *,
    salt: bytes | None = None,
    sender: ec.EllipticCurvePrivateKey | None = None,
) -> bytes:
    """The body of RFC 8291, one record of RFC 8188. Salt and key are new for each message.

    `salt` and `sender` are given by tests only. Raises BadToken for a text that does not fit.
    """
    if len(text) > RECORD_BYTES - OVERHEAD_BYTES:
        raise BadToken("the notification is too long for Web Push")
    salt = salt or os.urandom(16)
    sender = sender or ec.generate_private_key(ec.SECP256R1())
    sender_point = point_of(sender.public_key())
    shared = sender.exchange(ec.ECDH(), subscription.public_key)
    info = b"WebPush: info\x00" + point_of(subscription.public_key) + sender_point
    secret = _hkdf(subscription.auth, shared, info, 32)
    key = _hkdf(salt, secret, b"Content-Encoding: aes128gcm\x00", 16)
    nonce = _hkdf(salt, secret, b"Content-Encoding: nonce\x00", 12)
    sealed = AESGCM(key).encrypt(nonce, text + b"\x02", None)
    header = salt + RECORD_BYTES.to_bytes(4, "big") + bytes((len(sender_point),)) + sender_point
    return header + sealed


def _hkdf(salt: bytes, secret: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(secret)


def point_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """A key as an uncompressed point."""
    return key.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )


def vapid_key(text: str) -> ec.EllipticCurvePrivateKey:
    """A private key of P-256: PEM, or 32 bytes in base64url. ValueError for anything else."""
    if text.lstrip().startswith("-----"):
        key = serialization.load_pem_private_key(text.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise ValueError("not a key of P-256")
        return key
    raw = unb64(text.strip())
    if len(raw) != 32:
        raise ValueError("not 32 bytes in base64url")
    return ec.derive_private_key(int.from_bytes(raw, "big"), ec.SECP256R1())


def b64(raw: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    """base64url with or without padding. ValueError."""
    stripped = text.rstrip("=")
    padded = stripped + "=" * (-len(stripped) % 4)
    return base64.b64decode(padded, altchars=b"-_", validate=True)
