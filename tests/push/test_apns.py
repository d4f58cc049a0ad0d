"""APNs against a local HTTPS server.

The server verifies what the real one verifies, refuses headers and fields that it does not know,
and answers with the statuses of the provider's reference, whose page is named beside them.
"""

import json
import time
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import ECKey

from push_svc.decide import Provider
from push_svc.providers import BadToken, Gone, Outcome, Refused, Retry, Sent
from push_svc.providers.apns import ApnsProvider
from push_svc.providers.http import KnownHost
from push_svc.render import Notification
from tests.push.hooks import BackEnd, Request
from tests.push.notes import DEVICE, KEY, NOTE, SILENT, TRANSPORT_HEADERS, answer, pem
from tests.push.parts import binding


class Apns:
    """developer.apple.com: "Sending notification requests to APNs", tables of headers and keys."""

    HEADERS = frozenset(
        ("authorization", "apns-topic", "apns-id", "apns-push-type", "apns-priority",
         "apns-expiration", "apns-collapse-id")
    )  # fmt: skip
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
        if unknown := set(request.headers) - self.HEADERS - TRANSPORT_HEADERS:
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
