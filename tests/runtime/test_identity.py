"""Bearer tokens: what is accepted, and the table of what is not."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from joserfc.jwk import OctKey
from pydantic import SecretStr

from chatmesh.runtime import faults, identity
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.guards import IdentityGuard
from chatmesh.runtime.identity import TokenVerifier, bearer_token, is_clean_text
from chatmesh.runtime.settings_public import IssuerSettings
from tests.runtime.conftest import Serving
from tests.runtime.echo import EchoServicer, Message

NOW = 1_800_000_000
SECRET = "0123456789abcdef0123456789abcdef"
ISSUER, AUDIENCE = "https://id.example", "chat"


class FakeClock:
    """Wall and monotonic time, moved by hand."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def wall_ms(self) -> int:
        return int(self.now * 1000)

    def monotonic(self) -> float:
        return self.now

    def boottime_ns(self) -> int:
        return int(self.now * 1e9)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def claims(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "exp": NOW + 600,
        "nbf": NOW - 10,
        "iat": NOW - 10,
    }
    made.update(changes)
    return {name: value for name, value in made.items() if value is not None}


def shared_secret(**fields: Any) -> IssuerSettings:
    return IssuerSettings(
        issuer=ISSUER, audience=AUDIENCE, secret=SecretStr(SECRET), algorithms=("HS256",), **fields
    )


def sign(
    content: dict[str, Any], header: dict[str, Any] | None = None, secret: str = SECRET
) -> str:
    """By hand (RFC 7515, appendix A.1), so that anything can be signed."""
    chosen = {"alg": "HS256", "typ": "JWT", **(header or {})}
    hashes = {"HS256": "sha256", "HS512": "sha512"}
    signed = f"{encoded(chosen)}.{encoded(content)}"
    return (
        f"{signed}.{encoded(hmac.digest(secret.encode(), signed.encode(), hashes[chosen['alg']]))}"
    )


def encoded(part: Any) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(header: Any, content: Any, signature: bytes = b"x") -> str:
    return ".".join((encoded(header), encoded(content), encoded(signature)))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def reason_of(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(Fault) as caught:
        await verifier.verify(token)
    assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
    assert token == "" or token not in str(caught.value)
    return caught.value.reason


async def test_a_good_token(clock: FakeClock) -> None:
    verifier = TokenVerifier([shared_secret(tenant_claim="org")], clock)
    content = claims(org="acme", scope="a b", jti="j1", aud=["other", AUDIENCE])
    found = await verifier.verify(sign(content))
    assert found == identity.Identity(
        "acme", "alice", frozenset("ab"), (NOW + 600) * 1000, ISSUER, "j1", (NOW - 10) * 1000
    )
    assert (await verifier.verify(sign(claims()))).tenant == "default"


async def test_the_user_claim_may_be_another(clock: FakeClock) -> None:
    verifier = TokenVerifier([shared_secret(user_claim="email", tenant="t")], clock)
    found = await verifier.verify(sign(claims(email="a@example.org")))
    assert (found.user_id, found.tenant) == ("a@example.org", "t")
    assert await reason_of(verifier, sign(claims())) == faults.TOKEN_INVALID


INVALID, MALFORMED = faults.TOKEN_INVALID, faults.TOKEN_MALFORMED
BAD_TOKENS: dict[str, tuple[str, str]] = {
    "empty": ("", MALFORMED),
    "no dots": ("abc", MALFORMED),
    "two parts": ("a.b", MALFORMED),
    "five parts (JWE)": ("a.b.c.d.e", MALFORMED),
    "not base64": ("!.!.!", MALFORMED),
    "padded base64": ("e30=.e30=.e30=", MALFORMED),
    "not JSON": (forged(b"{", b"{"), MALFORMED),
    "JSON but no object": (forged([], []), MALFORMED),
    "deeply nested": (forged(b"[" * 5000, b"{}"), MALFORMED),
    "invalid UTF-8": (forged(b"\xff\xfe", b"\xff"), MALFORMED),
    "too long": (sign(claims(pad="x" * 8000)), MALFORMED),
    "not ASCII": ("é.é.é", MALFORMED),
    "alg none": (forged({"alg": "none"}, claims(), b""), INVALID),
    "alg None": (forged({"alg": "None"}, claims(), b""), INVALID),
    "alg missing": (forged({}, claims()), INVALID),
    "alg a list": (forged({"alg": ["HS256"]}, claims()), INVALID),
    "alg RS256 for a shared secret": (forged({"alg": "RS256"}, claims()), INVALID),
    "alg HS512": (sign(claims(), {"alg": "HS512"}), INVALID),
    "another secret": (sign(claims(), secret=SECRET[::-1]), INVALID),
    "signature cut": (sign(claims())[:-4], INVALID),
    "signature empty": (sign(claims()).rpartition(".")[0] + ".", INVALID),
    "crit": (forged({"alg": "HS256", "crit": ["exp"], "exp": 1}, claims()), INVALID),
    "b64 false": (forged({"alg": "HS256", "b64": False}, claims()), INVALID),
    "typ of another kind": (sign(claims(), {"typ": "secevent+jwt"}), INVALID),
    "typ a number": (forged({"alg": "HS256", "typ": 1}, claims()), INVALID),
    "kid a number": (forged({"alg": "HS256", "kid": 1}, claims()), MALFORMED),
    "iss missing": (sign(claims(iss=None)), INVALID),
    "iss of another": (sign(claims(iss="https://evil.example")), INVALID),
    "iss a list": (sign(claims(iss=[ISSUER])), INVALID),
    "aud missing": (sign(claims(aud=None)), INVALID),
    "aud of another": (sign(claims(aud="shop")), INVALID),
    "aud a list without us": (sign(claims(aud=["shop", 7])), INVALID),
    "aud an object": (sign(claims(aud={AUDIENCE: 1})), INVALID),
    "exp missing": (sign(claims(exp=None)), INVALID),
    "exp past": (sign(claims(exp=NOW - 1)), faults.TOKEN_EXPIRED),
    "exp now": (sign(claims(exp=NOW)), faults.TOKEN_EXPIRED),
    "exp text": (sign(claims(exp=str(NOW + 9))), INVALID),
    "exp true": (sign(claims(exp=True)), INVALID),
    "exp infinite": (sign(claims(exp=float("inf"))), INVALID),
    "exp not a number": (sign(claims(exp=float("nan"))), INVALID),
    "nbf missing": (sign(claims(nbf=None)), INVALID),
    "nbf far ahead": (sign(claims(nbf=NOW + 60)), faults.TOKEN_NOT_YET_VALID),
    "iat far ahead": (sign(claims(iat=NOW + 60)), faults.TOKEN_NOT_YET_VALID),
    "iat text": (sign(claims(iat="now")), INVALID),
    "sub missing": (sign(claims(sub=None)), INVALID),
    "sub empty": (sign(claims(sub="")), INVALID),
    "sub a number": (sign(claims(sub=7)), INVALID),
    "sub too long": (sign(claims(sub="x" * 129)), INVALID),
    "sub with NUL": (sign(claims(sub="a\0b")), INVALID),
    "sub with newline": (sign(claims(sub="a\nb")), INVALID),
    "sub with bidi override": (sign(claims(sub="a\u202eb")), INVALID),
    "sub with a lone surrogate": (sign(claims(sub="a\ud800")), INVALID),
    "tenant of a number": (sign(claims(tenant=5)), INVALID),
    "tenant empty": (sign(claims(tenant="")), INVALID),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
async def test_bad_tokens(clock: FakeClock, name: str) -> None:
    token, reason = BAD_TOKENS[name]
    verifier = TokenVerifier([shared_secret(tenant_claim="tenant")], clock)
    assert await reason_of(verifier, token) == reason


async def test_small_clock_differences_are_forgiven_at_the_beginning_only(
    clock: FakeClock,
) -> None:
    verifier = TokenVerifier([shared_secret()], clock)
    await verifier.verify(sign(claims(nbf=NOW + 29, iat=NOW + 29)))


async def test_expiry_is_seen_through_the_cache(clock: FakeClock) -> None:
    verifier = TokenVerifier([shared_secret()], clock)
    token = sign(claims(exp=NOW + 5))
    await verifier.verify(token)
    await verifier.verify(token)
    clock.now += 5
    assert await reason_of(verifier, token) == faults.TOKEN_EXPIRED


async def test_the_cache_is_bounded(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "CACHED_TOKENS", 3)
    verifier = TokenVerifier([shared_secret()], clock)
    for number in range(10):
        await verifier.verify(sign(claims(sub=f"u{number}")))
    assert len(verifier._cache) == 3


async def test_headers_that_name_keys_are_ignored(clock: FakeClock) -> None:
    verifier = TokenVerifier([shared_secret()], clock)
    evil = OctKey.import_key("attacker-chosen-key-attacker-chosen").as_dict()
    header = {"jku": "https://evil.example/k", "x5u": "https://evil.example/c", "jwk": evil}
    assert (await verifier.verify(sign(claims(), header))).user_id == "alice"
    signed_by_evil = sign(claims(), header, secret="attacker-chosen-key-attacker-chosen")
    assert await reason_of(verifier, signed_by_evil) == faults.TOKEN_INVALID


# --- metadata --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], faults.TOKEN_MISSING),
        (["Basic abc"], MALFORMED),
        (["Bearer"], MALFORMED),
        (["Bearer  "], MALFORMED),
        (["Bearer a", "Bearer b"], MALFORMED),
        ([b"Bearer a"], MALFORMED),
    ],
)
def test_bad_authorization(values: list[str | bytes], reason: str) -> None:
    with pytest.raises(Fault) as caught:
        bearer_token(values)
    assert caught.value.reason == reason


@pytest.mark.parametrize("value", ["Bearer abc", "bearer abc", "BEARER  abc "])
def test_good_authorization(value: str) -> None:
    assert bearer_token([value]) == "abc"


def test_clean_text() -> None:
    assert is_clean_text("Zoë 李 🙂", 128)
    assert not is_clean_text("", 128)
    assert not is_clean_text("x" * 129, 128)


async def test_every_kind_of_call_needs_a_token(serving: Serving, clock: FakeClock) -> None:
    seen: list[str] = []

    class Looking(EchoServicer):
        async def UnaryUnary(self, request: Any, context: Any) -> Any:
            seen.append(identity.current_identity().user_id)
            return Message()

    guard = IdentityGuard(TokenVerifier([shared_secret()], clock))
    stub = await serving.echo(Looking(), guards=[guard])
    cases: dict[str, tuple[list[tuple[str, str]], str | None]] = {
        "none": ([], faults.TOKEN_MISSING),
        "bad": ([("authorization", "Bearer a.b.c")], MALFORMED),
        "good": ([("authorization", f"Bearer {sign(claims())}")], None),
    }
    for name, (metadata, reason) in cases.items():
        for kind, result in await stub.all_kinds(Message(text="x"), timeout=10, metadata=metadata):
            if reason is None:
                assert not isinstance(result, Exception), (name, kind, result)
            else:
                assert faults.from_rpc_error(result).reason == reason, (name, kind)
    assert seen == ["alice"]


def test_two_issuers_of_one_name_are_refused(clock: FakeClock) -> None:
    make: Callable[[], object] = lambda: TokenVerifier([shared_secret(), shared_secret()], clock)  # noqa: E731
    with pytest.raises(ValueError, match="one name"):
        make()
