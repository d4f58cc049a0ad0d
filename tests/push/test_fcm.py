"""FCM against a local HTTPS server.

The server verifies what the real one verifies, refuses headers and fields that it does not know,
and answers with the statuses of the provider's reference, whose page is named beside them.
"""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwt
from joserfc.jwk import RSAKey

from push_svc.decide import Provider
from push_svc.providers import Gone, Outcome, Refused, Retry, Sent
from push_svc.providers.fcm import FcmProvider
from push_svc.providers.http import KnownHost
from push_svc.render import Notification
from tests.push.hooks import BackEnd, Request
from tests.push.notes import KEY, NOTE, SILENT, answer, pem
from tests.push.parts import binding


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
