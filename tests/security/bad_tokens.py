"""Bad tokens: each a way in which somebody could try to get in, and the reason it is refused for.

Made for the key family of an embedded mesh (HS256 with the development secret). The reasons are
the contract's; that all are UNAUTHENTICATED is the test's to say.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, OctKey, RSAKey

from chatmesh.runtime.identity import MAX_TOKEN_BYTES
from chatmesh.runtime.settings_public import DEV_AUDIENCE, DEV_ISSUER

MISSING, MALFORMED, INVALID = "TOKEN_MISSING", "TOKEN_MALFORMED", "TOKEN_INVALID"
EXPIRED, EARLY = "TOKEN_EXPIRED", "TOKEN_NOT_YET_VALID"
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class BadToken:
    """One row of the matrix."""

    name: str
    metadata: Metadata
    reason: str


def bad_tokens(secret: str) -> list[BadToken]:
    """All of them, against a mesh whose development secret is `secret`."""
    forge = Forge(secret)
    return [*_headers(forge), *_forms(forge), *_signatures(forge), *_header_tricks(forge),
            *_claims(forge)]  # fmt: skip


class Forge:
    """Makes tokens of any form."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Good claims with changes; None takes one away."""
        now = int(time.time())
        good: dict[str, Any] = {
            "iss": DEV_ISSUER, "aud": DEV_AUDIENCE, "sub": "mallory", "tenant": "default",
            "iat": now, "nbf": now, "exp": now + 3600, "jti": "forged",
        }  # fmt: skip
        return {name: value for name, value in {**good, **changes}.items() if value is not None}

    def sign(
        self, claims: Any, header: dict[str, Any] | None = None, secret: str | None = None
    ) -> str:
        """HS256 over any header and claims; `json.dumps` as it is, NaN included."""
        signed = ".".join(
            (encode(json.dumps(header or {"alg": "HS256", "typ": "JWT"})), encode(as_text(claims)))
        )
        key = (self.secret if secret is None else secret).encode()
        return f"{signed}.{encode(hmac.new(key, signed.encode(), hashlib.sha256).digest())}"

    def good(self) -> str:
        """A token that is accepted: every bad one below differs from it in one thing."""
        return self.sign(self.claims())


def as_text(claims: Any) -> str:
    """JSON of claims; text stays as it is."""
    return claims if isinstance(claims, str) else json.dumps(claims)


def encode(content: str | bytes) -> str:
    """base64url without padding."""
    raw = content.encode() if isinstance(content, str) else content
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _with(name: str, token: str, reason: str) -> BadToken:
    return BadToken(name, (("authorization", f"Bearer {token}"),), reason)


def _headers(forge: Forge) -> list[BadToken]:
    good = forge.good()
    return [
        BadToken("no authorization", (), MISSING),
        BadToken("empty authorization", (("authorization", ""),), MALFORMED),
        BadToken("scheme alone", (("authorization", "Bearer"),), MALFORMED),
        BadToken("token without scheme", (("authorization", good),), MALFORMED),
        BadToken("basic scheme", (("authorization", f"Basic {good}"),), MALFORMED),
        BadToken(
            "authorization twice",
            (("authorization", f"Bearer {good}"), ("authorization", f"Bearer {good}")),
            MALFORMED,
        ),
        BadToken("mesh caller's metadata", (("chatmesh-caller", "sync_svc"),), MISSING),
        BadToken("on behalf of, without a token", (("chatmesh-on-behalf-of", "alice"),), MISSING),
    ]


def _just_too_long(forge: Forge) -> str:
    """Above our limit, but all of its metadata below gRPC's own 8 KiB, where it refuses some."""
    missing = MAX_TOKEN_BYTES - len(forge.sign(forge.claims(pad="")))
    return forge.sign(forge.claims(pad="x" * (missing * 3 // 4 + 8)))


def _forms(forge: Forge) -> list[BadToken]:
    header, claims, signature = forge.good().split(".")
    return [
        _with("a word", "letmein", MALFORMED),
        _with("two parts", f"{header}.{claims}", MALFORMED),
        _with("five parts (JWE)", f"{header}.{claims}.{claims}.{claims}.{signature}", MALFORMED),
        _with("header is no base64url", f"%%%.{claims}.{signature}", MALFORMED),
        _with("padded base64", f"{header}==.{claims}.{signature}", MALFORMED),
        _with("header is no JSON", f"{encode('{')}.{claims}.{signature}", MALFORMED),
        _with("header is a list", f"{encode('[1]')}.{claims}.{signature}", MALFORMED),
        _with("claims are no JSON", forge.sign("{"), MALFORMED),
        _with("claims are a list", forge.sign("[]"), MALFORMED),
        _with("claims nested too deep", forge.sign("[" * 3_000), MALFORMED),
        _with("longer than allowed", _just_too_long(forge), MALFORMED),
    ]


def _signatures(forge: Forge) -> list[BadToken]:
    header, claims, signature = forge.good().split(".")
    changed = encode(json.dumps(forge.claims(sub="alice")))
    rsa, ec = RSAKey.generate_key(2048), ECKey.generate_key("P-256")
    payload = json.dumps(forge.claims()).encode()

    def other(algorithm: str, key: Any, **extra: Any) -> str:
        registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
        protected = {"alg": algorithm, "typ": "JWT", **extra}
        return jws.serialize_compact(protected, payload, key, [algorithm], registry)

    public_pem = rsa.as_pem(private=False).decode()
    return [
        _with("foreign secret", forge.sign(forge.claims(), secret="x" * 48), INVALID),
        _with("empty secret", forge.sign(forge.claims(), secret=""), INVALID),
        _with("public key as secret", forge.sign(forge.claims(), secret=public_pem), INVALID),
        _with("no signature", f"{header}.{claims}.", INVALID),
        _with("signature cut", f"{header}.{claims}.{signature[:-4]}", INVALID),
        _with("claims changed after signing", f"{header}.{changed}.{signature}", INVALID),
        _with(
            "HS384 with the right secret", other("HS384", OctKey.import_key(forge.secret)), INVALID
        ),
        _with("RS256 with a key of their own", other("RS256", rsa), INVALID),
        _with(
            "ES256 with its key inside", other("ES256", ec, jwk=ec.as_dict(private=False)), INVALID
        ),
    ]


def _header_tricks(forge: Forge) -> list[BadToken]:
    claims = forge.claims()

    def with_header(**extra: Any) -> str:
        return forge.sign(claims, {"alg": "HS256", "typ": "JWT", **extra})

    def unsigned(algorithm: Any) -> str:
        return f"{encode(json.dumps({'alg': algorithm}))}.{encode(json.dumps(claims))}."

    far = "https://attacker.example/keys.json"
    foreign, by_path = "y" * 48, {"alg": "HS256", "kid": "/dev/null"}
    return [
        _with("alg none", unsigned("none"), INVALID),
        _with("alg nOnE", unsigned("nOnE"), INVALID),
        _with("alg empty", unsigned(""), INVALID),
        _with("alg is a number", unsigned(1), INVALID),
        _with("alg none, signed", forge.sign(claims, {"alg": "none"}), INVALID),
        _with("alg missing", forge.sign(claims, {"typ": "JWT"}), INVALID),
        _with("crit", with_header(crit=["exp"]), INVALID),
        _with("b64 false", with_header(b64=False), INVALID),
        _with("typ of another kind", with_header(typ="dpop+jwt"), INVALID),
        _with("kid is a number", with_header(kid=7), MALFORMED),
        _with("kid is a path", forge.sign(claims, by_path, ""), INVALID),
        _with("jku", forge.sign(claims, {"alg": "HS256", "jku": far}, foreign), INVALID),
        _with("x5u", forge.sign(claims, {"alg": "HS256", "x5u": far}, foreign), INVALID),
    ]  # fmt: skip


def _claims(forge: Forge) -> list[BadToken]:
    now = int(time.time())
    rows: list[tuple[str, Callable[[], dict[str, Any]], str]] = [
        ("no issuer", lambda: forge.claims(iss=None), INVALID),
        ("other issuer", lambda: forge.claims(iss="https://login.example"), INVALID),
        ("issuer is a list", lambda: forge.claims(iss=[DEV_ISSUER]), INVALID),
        ("no audience", lambda: forge.claims(aud=None), INVALID),
        ("other audience", lambda: forge.claims(aud="billing"), INVALID),
        ("audience begins as ours", lambda: forge.claims(aud=f"{DEV_AUDIENCE}-x"), INVALID),
        ("no exp", lambda: forge.claims(exp=None), INVALID),
        ("exp is text", lambda: forge.claims(exp=str(now + 3600)), INVALID),
        ("exp is true", lambda: forge.claims(exp=True), INVALID),
        ("exp is NaN", lambda: forge.claims(exp=float("nan")), INVALID),
        ("expired a moment ago", lambda: forge.claims(exp=now - 1), EXPIRED),
        ("expired in 1970", lambda: forge.claims(exp=0), EXPIRED),
        ("no nbf", lambda: forge.claims(nbf=None), INVALID),
        ("valid from tomorrow", lambda: forge.claims(nbf=now + 86_400), EARLY),
        ("issued tomorrow", lambda: forge.claims(iat=now + 86_400), EARLY),
        ("no sub", lambda: forge.claims(sub=None), INVALID),
        ("sub empty", lambda: forge.claims(sub=""), INVALID),
        ("sub is a number", lambda: forge.claims(sub=1), INVALID),
        ("sub with NUL", lambda: forge.claims(sub="a\0b"), INVALID),
        ("sub with a line break", lambda: forge.claims(sub="alice\n"), INVALID),
        ("sub too long", lambda: forge.claims(sub="a" * 129), INVALID),
        ("tenant empty", lambda: forge.claims(tenant=""), INVALID),
        ("tenant is a list", lambda: forge.claims(tenant=["a", "b"]), INVALID),
        ("tenant too long", lambda: forge.claims(tenant="t" * 65), INVALID),
    ]
    return [_with(name, forge.sign(claims()), reason) for name, claims, reason in rows]
