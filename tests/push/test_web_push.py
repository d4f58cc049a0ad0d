"""Web Push against a local HTTPS server, and the vector of RFC 8291.

The server verifies what the real one verifies, refuses headers and fields that it does not know,
and answers with the statuses of the provider's reference, whose page is named beside them.
"""

import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwt
from joserfc.jwk import ECKey

from push_svc.decide import Provider
from push_svc.providers import BadToken, Gone, Outcome, Refused, Retry, Sent
from push_svc.providers.egress import Egress
from push_svc.providers.http import NamedHosts
from push_svc.providers.web_push import (
    WebPushProvider,
    b64,
    encrypt,
    parse,
    point_of,
    unb64,
    vapid_key,
)
from tests.push.hooks import BackEnd, Request
from tests.push.notes import KEY, NOTE, TRANSPORT_HEADERS, pem
from tests.push.parts import binding

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
        unknown = set(request.headers) - self.HEADERS - TRANSPORT_HEADERS - {"connection"}
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
