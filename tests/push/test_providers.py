"""APNs, FCM and Web Push against local HTTPS servers that check what the real ones check.

Each server verifies the signatures, refuses headers and fields it does not know, and answers with
the statuses of the provider's reference, whose page is named beside them.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from push_svc.decide import Provider
from push_svc.providers import BadToken, Gone, Outcome, Refused, Retry, Sent
from push_svc.providers.apns import ApnsProvider
from push_svc.providers.egress import Egress
from push_svc.providers.fcm import FcmProvider
from push_svc.providers.http import KnownHost, NamedHosts
from push_svc.providers.web_push import (
    WebPushProvider,
    b64,
    encrypt,
    parse,
    point_of,
    unb64,
    vapid_key,
)
from push_svc.render import Notification
from tests.push import hooks
from tests.push.hooks import BackEnd, Request
from tests.push.parts import binding

KEY = "00112233445566778899aabbccddeeff"
NOTE = Notification(
    KEY, KEY[::-1], True, "bob", "see you at 8 🙂", 3, True, 60, {"kind": "message", "count": "1"}
)
SILENT = Notification(KEY, KEY, False, "", "", 0, False, 60, {"kind": "sync"})
DEVICE = "ab" * 32


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[BackEnd]:
    async with hooks.back_end(tmp_path) as made:
        yield made


def pem(key: Any) -> str:
    text: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return text.decode()


def answer(status: int, value: Any) -> tuple[int, bytes]:
    return status, json.dumps(value).encode()


# -- APNs --------------------------------------------------------------------------------------


class Apns:
    """developer.apple.com: "Sending notification requests to APNs", tables of headers and keys."""

    HEADERS = frozenset(
        ("authorization", "apns-topic", "apns-id", "apns-push-type", "apns-priority",
         "apns-expiration", "apns-collapse-id")
    )  # fmt: skip
    TRANSPORT = frozenset(("host", "accept", "accept-encoding", "user-agent", "content-length"))
    APS = frozenset(
        ("alert", "badge", "sound", "mutable-content", "content-available", "thread-id")
    )

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = ECKey.import_key(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        self.tokens: list[str] = []

    def judge(self, request: Request) -> tuple[int, bytes]:
        """One request."""
        if request.http_version != "2":
            return answer(400, {"reason": "HTTP/2 is required"})
        if unknown := set(request.headers) - self.HEADERS - self.TRANSPORT:
            return answer(400, {"reason": f"unknown headers {unknown}"})
        scheme, _, token = request.headers["authorization"].partition(" ")
        decoded = jwt.decode(token, self._key, algorithms=["ES256"])
        good = (
            scheme == "bearer"
            and decoded.header["alg"] == "ES256"
            and decoded.header["kid"] == "KEYID12345"
            and decoded.claims["iss"] == "TEAMID1234"
            and abs(decoded.claims["iat"] - time.time()) < 3_600
        )
        if not good:
            return answer(403, {"reason": "InvalidProviderToken"})
        self.tokens.append(token)
        if request.path != f"/3/device/{DEVICE}":
            return answer(400, {"reason": "BadDeviceToken"})
        aps = json.loads(request.body)["aps"]
        if set(aps) - self.APS or len(request.body) > 4_096:
            return answer(413, {"reason": "PayloadTooLarge"})
        if len(request.headers["apns-collapse-id"].encode()) > 64:
            return answer(400, {"reason": "BadCollapseId"})
        UUID(request.headers["apns-id"])
        return 200, b""


@pytest.fixture
async def apns(server: BackEnd) -> AsyncIterator[ApnsProvider]:
    key = ec.generate_private_key(ec.SECP256R1())
    server.judge = Apns(key).judge
    made = ApnsProvider(
        pem(key),
        "KEYID12345",
        "TEAMID1234",
        f"https://localhost:{server.port}",
        KnownHost(timeout_seconds=1, ca=server.ca),
    )
    yield made
    await made.close()


async def to_apple(
    provider: ApnsProvider, note: Notification = NOTE, token: str = DEVICE
) -> Outcome:
    return await provider.send(note, binding(provider=Provider.APNS, token=token, app="org.app"))


async def test_apns_takes_what_we_send(apns: ApnsProvider, server: BackEnd) -> None:
    await apns.check_token(DEVICE, "org.app")
    assert await to_apple(apns) == Sent()
    assert await to_apple(apns, SILENT) == Sent()
    loud, silent = server.requests
    assert json.loads(loud.body) == {
        "aps": {
            "badge": 3,
            "alert": {"title": "bob", "body": "see you at 8 🙂"},
            "sound": "default",
            "mutable-content": 1,
        },
        "chatmesh": {"kind": "message", "count": "1"},
    }
    assert loud.headers["apns-topic"] == "org.app"
    assert loud.headers["apns-id"] == str(UUID(hex=KEY))
    assert loud.headers["apns-collapse-id"] == KEY[::-1]
    assert loud.headers["apns-priority"] == "10"
    assert json.loads(silent.body)["aps"] == {"badge": 0, "content-available": 1}
    assert silent.headers["apns-priority"] == "5"
    assert loud.headers["authorization"] == silent.headers["authorization"], "kept, not made anew"


# "Handling notification responses from APNs": status, reason
@pytest.mark.parametrize(
    ("status", "reason", "outcome"),
    [
        (400, "BadDeviceToken", Gone("HTTP 400 BadDeviceToken")),
        (400, "DeviceTokenNotForTopic", Gone("HTTP 400 DeviceTokenNotForTopic")),
        (400, "BadTopic", Refused("HTTP 400 BadTopic")),
        (403, "InvalidProviderToken", Retry("HTTP 403 InvalidProviderToken")),
        (403, "ExpiredProviderToken", Retry("HTTP 403 ExpiredProviderToken", 0, False)),
        (410, "Unregistered", Gone("HTTP 410 Unregistered")),
        (413, "PayloadTooLarge", Refused("HTTP 413 PayloadTooLarge")),
        (429, "TooManyRequests", Retry("HTTP 429 TooManyRequests", None, False)),
        (500, "InternalServerError", Retry("HTTP 500 InternalServerError")),
        (503, "ServiceUnavailable", Retry("HTTP 503 ServiceUnavailable")),
    ],
)
async def test_answers_of_apns(
    apns: ApnsProvider, server: BackEnd, status: int, reason: str, outcome: Outcome
) -> None:
    server.judge = lambda _request: answer(status, {"reason": reason})
    assert await to_apple(apns) == outcome


async def test_apns_after_an_expired_provider_token(apns: ApnsProvider, server: BackEnd) -> None:
    await to_apple(apns)
    judge = server.judge
    server.judge = lambda _request: answer(403, {"reason": "ExpiredProviderToken"})
    await to_apple(apns)
    server.judge = judge
    assert await to_apple(apns) == Sent()
    first, _, third = (one.headers["authorization"] for one in server.requests)
    assert first != third, "ES256 signs anew each time"


async def test_a_device_that_registered_again_is_not_gone(
    apns: ApnsProvider, server: BackEnd
) -> None:
    bound = binding().bound_at_ms
    server.judge = lambda _request: answer(410, {"reason": "Unregistered", "timestamp": bound - 1})
    assert isinstance(await to_apple(apns), Retry)
    server.judge = lambda _request: answer(410, {"reason": "Unregistered", "timestamp": bound + 1})
    assert isinstance(await to_apple(apns), Gone)


@pytest.mark.parametrize(
    ("token", "app"), [("", "a"), ("xyz", "a"), ("ab" * 31, "a"), (DEVICE, ""), (DEVICE + "/", "a")]
)
async def test_tokens_that_are_none_of_apns(apns: ApnsProvider, token: str, app: str) -> None:
    with pytest.raises(BadToken):
        await apns.check_token(token, app)


# -- FCM ---------------------------------------------------------------------------------------


class Fcm:
    """firebase.google.com, FCM v1: "REST Resource: projects.messages"."""

    MESSAGE = frozenset(("token", "data", "notification", "android", "apns"))
    ANDROID = frozenset(("ttl", "priority", "notification"))

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key = RSAKey.import_key(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        self.fetched = 0
        self.answer: tuple[int, bytes] | None = None

    def judge(self, request: Request) -> tuple[int, bytes]:
        """One request, for a token or for a message."""
        if request.path == "/token":
            return self._grant(request)
        if request.headers.get("authorization") != f"Bearer access-{self.fetched}":
            return answer(401, {"error": {"status": "UNAUTHENTICATED"}})
        if request.path != "/v1/projects/demo/messages:send":
            return answer(404, {"error": {"status": "NOT_FOUND"}})
        if self.answer is not None:
            return self.answer
        (root,) = json.loads(request.body).items()
        name, message = root
        strings = all(isinstance(value, str) for value in message["data"].values())
        unknown = set(message) - self.MESSAGE or set(message["android"]) - self.ANDROID
        if name != "message" or unknown or not strings:
            return answer(400, {"error": {"status": "INVALID_ARGUMENT"}})
        return answer(200, {"name": "projects/demo/messages/1"})

    def _grant(self, request: Request) -> tuple[int, bytes]:
        form = parse_qs(request.body.decode())
        assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        claims = jwt.decode(form["assertion"][0], self._key, algorithms=["RS256"]).claims
        good = (
            claims["iss"] == "push@demo.iam"
            and claims["aud"].endswith("/token")
            and claims["scope"] == "https://www.googleapis.com/auth/firebase.messaging"
            and 0 < claims["exp"] - claims["iat"] <= 3_600
        )
        if not good:
            return answer(400, {"error": "invalid_grant"})
        self.fetched += 1
        return answer(200, {"access_token": f"access-{self.fetched}", "expires_in": 3_599})


@pytest.fixture(scope="session")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, 2_048)


@pytest.fixture
def google(server: BackEnd, rsa_key: rsa.RSAPrivateKey) -> Fcm:
    made = Fcm(rsa_key)
    server.judge = made.judge
    return made


@pytest.fixture
async def fcm(
    server: BackEnd, google: Fcm, rsa_key: rsa.RSAPrivateKey
) -> AsyncIterator[FcmProvider]:
    url = f"https://localhost:{server.port}"
    account = {
        "client_email": "push@demo.iam",
        "token_uri": f"{url}/token",
        "project_id": "demo",
        "private_key": pem(rsa_key),
    }
    made = FcmProvider(json.dumps(account), url, KnownHost(timeout_seconds=1, ca=server.ca))
    yield made
    await made.close()


async def to_google(provider: FcmProvider, note: Notification = NOTE) -> Outcome:
    return await provider.send(note, binding(provider=Provider.FCM, token="t" * 40))


async def test_fcm_takes_what_we_send(fcm: FcmProvider, google: Fcm, server: BackEnd) -> None:
    await fcm.check_token("c0:APA91b-_." + "x" * 100, "")
    assert await to_google(fcm) == Sent()
    assert await to_google(fcm, SILENT) == Sent()
    assert google.fetched == 1, "one access token for many messages"
    _, loud, silent = (one.body for one in server.requests)
    message = json.loads(loud)["message"]
    assert message["notification"] == {"title": "bob", "body": "see you at 8 🙂"}
    assert message["data"] == {"kind": "message", "count": "1"}
    assert message["android"] == {
        "ttl": "60s",
        "priority": "HIGH",
        "notification": {"tag": KEY[::-1]},
    }
    assert "notification" not in json.loads(silent)["message"]


def fcm_error(code: str, status: str = "", field: str = "") -> Any:
    details: list[Any] = []
    if code:
        kind = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
        details.append({"@type": kind, "errorCode": code})
    if field:
        kind = "type.googleapis.com/google.rpc.BadRequest"
        details.append({"@type": kind, "fieldViolations": [{"field": field}]})
    return {"error": {"status": status, "details": details}}


# "ErrorCode" of the FCM v1 reference: status, code
@pytest.mark.parametrize(
    ("status", "value", "outcome"),
    [
        (404, fcm_error("UNREGISTERED"), Gone("HTTP 404 UNREGISTERED")),
        (403, fcm_error("SENDER_ID_MISMATCH"), Gone("HTTP 403 SENDER_ID_MISMATCH")),
        (400, fcm_error("INVALID_ARGUMENT", field="message.token"),
         Gone("HTTP 400 INVALID_ARGUMENT")),
        (400, fcm_error("INVALID_ARGUMENT"), Refused("HTTP 400 INVALID_ARGUMENT")),
        (403, fcm_error("", "PERMISSION_DENIED"), Retry("HTTP 403 PERMISSION_DENIED")),
        (429, fcm_error("QUOTA_EXCEEDED"), Retry("HTTP 429 QUOTA_EXCEEDED", None, False)),
        (500, fcm_error("INTERNAL"), Retry("HTTP 500 INTERNAL")),
        (503, fcm_error("UNAVAILABLE"), Retry("HTTP 503 UNAVAILABLE")),
        (400, {"error": "not an object"}, Refused("HTTP 400")),
        (400, ["not", "an", "object"], Refused("HTTP 400")),
    ],
)  # fmt: skip
async def test_answers_of_fcm(
    fcm: FcmProvider, google: Fcm, status: int, value: Any, outcome: Outcome
) -> None:
    google.answer = answer(status, value)
    assert await to_google(fcm) == outcome


async def test_fcm_after_its_access_token_was_revoked(fcm: FcmProvider, google: Fcm) -> None:
    assert await to_google(fcm) == Sent()
    google.fetched += 1  # the server believes only a newer one
    assert isinstance(await to_google(fcm), Retry)
    assert await to_google(fcm) == Sent()


async def test_fcm_without_access_is_tried_again(server: BackEnd, fcm: FcmProvider) -> None:
    server.judge = lambda _request: answer(400, {"error": "invalid_grant"})
    assert await to_google(fcm) == Retry("no access token: HTTP 400")


def test_accounts_that_are_none() -> None:
    for text in ("", "{}", "[]", '{"client_email": 1, "token_uri": 2, "project_id": 3}'):
        with pytest.raises(ValueError, match="service account"):
            FcmProvider(text, "https://x", None)  # type: ignore[arg-type]


# -- Web Push ----------------------------------------------------------------------------------

RFC_8291 = {
    # RFC 8291, section 5 and appendix A
    "text": b"When I grow up, I want to be a watermelon",
    "receiver": "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94",
    "sender": "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw",
    "auth": "BTBZMqHH6r4Tts7J_aSIgg",
    "salt": "DGv6ra1nlYgDCS1FRnbzlw",
    "body": "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLoc"
    "InmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQex"
    "SgSxsj_Qulcy4a-fN",
}


class Browser:
    """A browser's half of a subscription, and its push service (RFC 8030, 8291, 8292)."""

    HEADERS = frozenset(
        ("authorization", "content-encoding", "content-type", "ttl", "urgency", "topic")
    )

    def __init__(self, vapid: ec.EllipticCurvePrivateKey, port: int) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.auth = b"a" * 16
        self.origin = f"https://localhost:{port}"
        self.texts: list[bytes] = []
        self._vapid = b64(point_of(vapid.public_key()))
        self._vapid_key = ECKey.import_key(
            vapid.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def subscription(self) -> str:
        """As JSON.stringify(subscription) gives it."""
        keys = {"p256dh": b64(point_of(self.key.public_key())), "auth": b64(self.auth)}
        return json.dumps(
            {"endpoint": f"{self.origin}/push/1", "expirationTime": None, "keys": keys}
        )

    def judge(self, request: Request) -> tuple[int, bytes]:
        """The push service, then the browser."""
        unknown = set(request.headers) - self.HEADERS - Apns.TRANSPORT - {"connection"}
        if unknown:
            return 400, f"unknown headers {unknown}".encode()
        scheme, _, rest = request.headers["authorization"].partition(" ")
        fields = dict(part.strip().split("=", 1) for part in rest.split(","))
        claims = jwt.decode(fields["t"], self._vapid_key, algorithms=["ES256"]).claims
        good = (
            scheme == "vapid"
            and fields["k"] == self._vapid
            and claims["aud"] == self.origin
            and time.time() < claims["exp"] <= time.time() + 86_400
            and claims["sub"].startswith("mailto:")
        )
        if not good:
            return 403, b""
        if len(request.headers["topic"]) > 32 or not request.headers["ttl"].isdigit():
            return 400, b""
        self.texts.append(decrypt(request.body, self.key, self.auth))
        return 201, b""


def decrypt(body: bytes, key: ec.EllipticCurvePrivateKey, auth: bytes) -> bytes:
    """The receiver's side of RFC 8291, written from its section 3.4."""
    salt, record, size = body[:16], int.from_bytes(body[16:20], "big"), body[20]
    point, sealed = body[21 : 21 + size], body[21 + size :]
    assert len(sealed) <= record
    sender = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)

    def derive(salt_: bytes, secret: bytes, info: bytes, length: int) -> bytes:
        return HKDF(hashes.SHA256(), length, salt_, info).derive(secret)

    info = b"WebPush: info\0" + point_of(key.public_key()) + point
    secret = derive(auth, key.exchange(ec.ECDH(), sender), info, 32)
    content_key = derive(salt, secret, b"Content-Encoding: aes128gcm\0", 16)
    nonce = derive(salt, secret, b"Content-Encoding: nonce\0", 12)
    text = AESGCM(content_key).decrypt(nonce, sealed, None)
    return text.rstrip(b"\0").removesuffix(b"\x02")


def test_the_vector_of_rfc_8291() -> None:
    receiver = vapid_key(str(RFC_8291["receiver"]))
    sender = vapid_key(str(RFC_8291["sender"]))
    keys = {"p256dh": b64(point_of(receiver.public_key())), "auth": RFC_8291["auth"]}
    subscription = parse(json.dumps({"endpoint": "https://example.com/", "keys": keys}))
    text = bytes(RFC_8291["text"])  # type: ignore[arg-type]
    body = encrypt(text, subscription, salt=unb64(str(RFC_8291["salt"])), sender=sender)
    assert b64(body) == RFC_8291["body"]
    assert decrypt(body, receiver, subscription.auth) == text


@pytest.fixture
def vapid() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def browser(server: BackEnd, vapid: ec.EllipticCurvePrivateKey) -> Browser:
    made = Browser(vapid, server.port)
    server.judge = made.judge
    return made


@pytest.fixture
async def web_push(
    server: BackEnd, vapid: ec.EllipticCurvePrivateKey
) -> AsyncIterator[WebPushProvider]:
    hosts = NamedHosts(Egress(networks=("127.0.0.0/8", "::1/128")), timeout_seconds=1, ca=server.ca)
    made = WebPushProvider(vapid, "mailto:ops@example.com", hosts)
    yield made
    await made.close()


async def to_browser(provider: WebPushProvider, token: str) -> Outcome:
    return await provider.send(NOTE, binding(provider=Provider.WEB_PUSH, token=token))


async def test_a_browser_reads_what_the_push_service_cannot(
    web_push: WebPushProvider, browser: Browser, server: BackEnd
) -> None:
    await web_push.check_token(browser.subscription(), "")
    assert await to_browser(web_push, browser.subscription()) == Sent()
    (text,) = browser.texts
    assert json.loads(text)["body"] == "see you at 8 🙂"
    (request,) = server.requests
    assert b"see you" not in request.body
    assert request.headers["urgency"] == "high"
    assert request.headers["topic"] == KEY[::-1]
    assert await to_browser(web_push, browser.subscription()) == Sent()
    assert server.requests[0].body[:16] != server.requests[1].body[:16], "a salt of its own"


# RFC 8030, sections 5 and 7.3; RFC 8292, section 4.2
@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (201, Sent()),
        (202, Sent()),
        (404, Gone("HTTP 404")),
        (410, Gone("HTTP 410")),
        (400, Refused("HTTP 400")),
        (403, Refused("HTTP 403")),
        (413, Refused("HTTP 413")),
        (307, Refused("HTTP 307")),
        (429, Retry("HTTP 429", None, False)),
        (503, Retry("HTTP 503")),
    ],
)
async def test_answers_of_push_services(
    web_push: WebPushProvider, browser: Browser, server: BackEnd, status: int, outcome: Outcome
) -> None:
    server.judge = lambda _request: (status, b"")
    assert await to_browser(web_push, browser.subscription()) == outcome


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint": 7},
        {"endpoint": "http://example.com/"},
        {"endpoint": "https://169.254.169.254/latest"},
        {"keys": None},
        {"keys": {"p256dh": "AA", "auth": b64(b"a" * 16)}},
        {"keys": {"p256dh": b64(b"\x04" + b"\x01" * 64), "auth": b64(b"a" * 16)}},
        {"keys": {"p256dh": 7, "auth": 7}},
        {"keys": {"p256dh": "ü", "auth": "?"}},
    ],
)
async def test_subscriptions_that_are_none(
    web_push: WebPushProvider, browser: Browser, change: dict[str, Any]
) -> None:
    token = json.dumps({**json.loads(browser.subscription()), **change})
    with pytest.raises(BadToken):
        await web_push.check_token(token, "")
    assert isinstance(await to_browser(web_push, token), Refused)
    for text in ("", "[]", "null", "{", '"x"'):
        with pytest.raises(BadToken):
            await web_push.check_token(text, "")


def test_vapid_keys(vapid: ec.EllipticCurvePrivateKey) -> None:
    raw = vapid.private_numbers().private_value.to_bytes(32, "big")
    for text in (pem(vapid), b64(raw), base64.urlsafe_b64encode(raw).decode() + "\n"):
        assert vapid_key(text).private_numbers() == vapid.private_numbers()
    other = pem(ec.generate_private_key(ec.SECP384R1()))
    for text in ("", "short", other, "-----BEGIN"):
        with pytest.raises(ValueError):  # noqa: PT011 - the library's texts are its own
            vapid_key(text)
