"""Public keys of issuers: from files and URLs, rotated, confused, unknown, and of every kind."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

from chatmesh.runtime import faults, keys
from chatmesh.runtime.identity import TokenVerifier
from chatmesh.runtime.settings_public import IssuerSettings
from tests.runtime.test_identity import (
    AUDIENCE,
    ISSUER,
    NOW,
    SECRET,
    FakeClock,
    claims,
    encoded,
    forged,
    reason_of,
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def ec_key(kid: str) -> ECKey:
    return ECKey.generate_key("P-256", {"kid": kid, "use": "sig", "alg": "ES256"})


def es256(key: ECKey, content: dict[str, Any] | None = None, **header: Any) -> str:
    return jwt.encode({"alg": "ES256", "kid": key.kid, **header}, content or claims(), key)


def key_set(*members: Any) -> str:
    return json.dumps(KeySet(list(members)).as_dict(private=False))


def from_file(path: Path, **fields: Any) -> IssuerSettings:
    return IssuerSettings(issuer=ISSUER, audience=AUDIENCE, jwks_file=path, **fields)


async def test_keys_from_a_file_and_their_rotation(clock: FakeClock, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first, second = ec_key("k1"), ec_key("k2")
    file.write_text(key_set(first))
    verifier = TokenVerifier([from_file(file)], clock)
    await verifier.verify(es256(first))
    file.write_text(key_set(second))
    assert await reason_of(verifier, es256(second)) == faults.TOKEN_INVALID  # read just now
    clock.now += keys.UNKNOWN_KEY_REFRESH_SECONDS
    await verifier.verify(es256(second, claims(sub="bob")))
    await verifier.verify(es256(first, claims(sub="carol")))  # the old key still counts
    clock.now += keys.RETIRED_KEY_SECONDS
    late = claims(sub="dave", exp=clock.now + 60)
    assert await reason_of(verifier, es256(first, late)) == faults.TOKEN_INVALID


async def test_key_confusion_is_refused(clock: FakeClock, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    rsa = RSAKey.generate_key(2048, {"kid": "r"})
    pem = rsa.as_pem(private=False).decode()
    file.write_text(key_set(rsa, ec_key("e")))
    verifier = TokenVerifier([from_file(file, algorithms=("RS256", "ES256"))], clock)
    await verifier.verify(jwt.encode({"alg": "RS256", "kid": "r"}, claims(), rsa))
    for secret in (pem, pem.strip(), json.dumps(rsa.as_dict(private=False))):
        signing = jws.JWSRegistry(algorithms=["HS256"])
        try:
            key = OctKey.import_key(secret)
            token = jwt.encode({"alg": "HS256", "kid": "r"}, claims(), key, registry=signing)
        except ValueError:
            continue
        assert await reason_of(verifier, token) == faults.TOKEN_INVALID
    # a key is used with its own algorithm only
    header = {"alg": "ES256", "kid": "r"}
    assert await reason_of(verifier, forged(header, claims())) == faults.TOKEN_INVALID


async def test_symmetric_and_encryption_keys_of_a_set_are_ignored(
    clock: FakeClock, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    entries = [
        {"kty": "oct", "kid": "o", "k": encoded(SECRET.encode())},
        {**ec_key("enc").as_dict(private=False), "use": "enc"},
        {"kty": "future", "kid": "f"},
        "nonsense",
        ec_key("good").as_dict(private=False),
    ]
    file.write_text(json.dumps({"keys": entries}))
    ring = keys.KeyRing(from_file(file), clock)
    found = {kid: await ring.find(kid, "ES256") for kid in ("o", "enc", "f", "good")}
    assert [kid for kid, key in found.items() if key is not None] == ["good"]


async def test_a_token_without_kid_needs_a_single_key(clock: FakeClock, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    only, other = ec_key("k1"), ec_key("k2")
    file.write_text(key_set(only))
    token = jwt.encode({"alg": "ES256"}, claims(), only)
    await TokenVerifier([from_file(file)], clock).verify(token)
    file.write_text(key_set(only, other))
    verifier = TokenVerifier([from_file(file)], clock)
    assert await reason_of(verifier, token) == faults.TOKEN_INVALID


class KeyServer:
    """An HTTP server of JWK sets that counts its fetches."""

    def __init__(self) -> None:
        self.body = "{}"
        self.status = 200
        self.fetches = 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.fetches += 1
                self.send_response(owner.status)
                if owner.status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(owner.body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/keys"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()


@pytest.fixture
def key_server() -> Iterator[KeyServer]:
    made = KeyServer()
    yield made
    made.server.shutdown()
    made.server.server_close()
    made.thread.join()


async def test_a_flood_of_unknown_keys_is_one_fetch_per_30_s(
    clock: FakeClock, key_server: KeyServer
) -> None:
    known = ec_key("k1")
    key_server.body = key_set(known)
    settings = IssuerSettings(issuer=ISSUER, audience=AUDIENCE, jwks_url=key_server.url)
    verifier = TokenVerifier([settings], clock)
    await verifier.verify(es256(known))
    tokens = [forged({"alg": "ES256", "kid": f"x{n}"}, claims()) for n in range(500)]
    results = await asyncio.gather(*(reason_of(verifier, token) for token in tokens))
    assert set(results) == {faults.TOKEN_INVALID}
    assert key_server.fetches == 1
    clock.now += keys.UNKNOWN_KEY_REFRESH_SECONDS
    await asyncio.gather(*(reason_of(verifier, token) for token in tokens))
    assert key_server.fetches == 2


@pytest.mark.parametrize("status", [500, 302])
async def test_known_keys_work_while_the_source_is_away(
    clock: FakeClock, key_server: KeyServer, status: int
) -> None:
    known = ec_key("k1")
    key_server.body = key_set(known)
    settings = IssuerSettings(issuer=ISSUER, audience=AUDIENCE, jwks_url=key_server.url)
    verifier = TokenVerifier([settings], clock)
    await verifier.verify(es256(known))
    key_server.status = status
    clock.now += keys.PERIODIC_REFRESH_SECONDS
    await verifier.verify(es256(known, claims(sub="bob", exp=NOW + 9000)))
    assert key_server.fetches == 2


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("algorithm", ["EdDSA", "Ed25519", "ES384", "PS256"])
async def test_other_algorithms(clock: FakeClock, tmp_path: Path, algorithm: str) -> None:
    made: dict[str, Callable[[], Any]] = {
        "EdDSA": lambda: OKPKey.generate_key("Ed25519", {"kid": "k"}),
        "Ed25519": lambda: OKPKey.generate_key("Ed25519", {"kid": "k"}),
        "ES384": lambda: ECKey.generate_key("P-384", {"kid": "k"}),
        "PS256": lambda: RSAKey.generate_key(2048, {"kid": "k"}),
    }
    key = made[algorithm]()
    file = tmp_path / "keys.json"
    file.write_text(key_set(key))
    token = jwt.encode({"alg": algorithm, "kid": "k"}, claims(), key, algorithms=[algorithm])
    verifier = TokenVerifier([from_file(file, algorithms=(algorithm,))], clock)
    assert (await verifier.verify(token)).user_id == "alice"
