"""Tokens of real kinds of issuers, whose keys are fetched from a local HTTPS server.

An OIDC provider, a Kubernetes cluster, both at once; keys that rotate while tokens are verified; a
key server that is away.
"""

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from chatmesh.embedded import certificates
from chatmesh.runtime import faults, keys
from chatmesh.runtime.identity import TokenVerifier
from chatmesh.runtime.settings_public import IssuerSettings
from tests.runtime.test_identity import NOW, FakeClock, reason_of

OIDC, CLUSTER = "https://login.example/realms/main", "https://kubernetes.default.svc"
BACK_END = "system:serviceaccount:shop:orders"


class Issuer:
    """A key server over HTTPS, and the keys it signs with."""

    def __init__(self, folder: Path) -> None:
        certificates.issue(folder, ["issuer"])
        files = certificates.files_of(folder, "issuer")
        self.ca = files.ca
        self.bearer = ""
        self.status = 200
        self.fetches = 0
        self.published: list[RSAKey | ECKey] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.fetches += 1
                shown = self.headers.get("Authorization", "")
                allowed = not owner.bearer or shown == f"Bearer {owner.bearer}"
                self.send_response(owner.status if allowed else 401)
                self.end_headers()
                document = KeySet(list(owner.published)).as_dict(private=False)
                self.wfile.write(json.dumps(document).encode() if allowed else b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False  # joined at the end: nothing stays open
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_address[1]}/keys"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    made = Issuer(tmp_path)
    yield made
    made.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def rsa(kid: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"})


def oidc(issuer: Issuer, **fields: Any) -> IssuerSettings:
    """As docs/identity.md says."""
    return IssuerSettings(
        issuer=OIDC, audience="chatmesh", jwks_url=issuer.url, jwks_ca=issuer.ca,
        user_claim="preferred_username", tenant_claim="org", nbf_required=False,
        algorithms=("RS256",), **fields,
    )  # fmt: skip


def cluster(issuer: Issuer, bearer: Path) -> IssuerSettings:
    """As docs/identity.md says."""
    return IssuerSettings(
        issuer=CLUSTER, audience="chatmesh", jwks_url=issuer.url, jwks_ca=issuer.ca,
        jwks_bearer_file=bearer, tenant="shop", algorithms=("RS256",),
        granted_scopes={BACK_END: ("chatmesh.act_as", "chatmesh.admin")},
    )  # fmt: skip


def person(key: RSAKey, **changes: Any) -> str:
    """What an OIDC provider writes: no `nbf`, several audiences, an opaque `sub`."""
    claims: dict[str, Any] = {
        "iss": OIDC, "aud": ["account", "chatmesh"], "sub": "6b1f0c0e-…", "iat": NOW - 5,
        "exp": NOW + 300, "jti": "x", "azp": "web", "scope": "openid profile",
        "preferred_username": "alice", "org": "acme", **changes,
    }  # fmt: skip
    kept = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode({"alg": "RS256", "typ": "JWT", "kid": key.kid}, kept, key)


def workload(key: RSAKey, subject: str = BACK_END, **changes: Any) -> str:
    """What a cluster projects into a pod; its header names no type."""
    _, _, namespace, name = subject.split(":")
    claims = {
        "iss": CLUSTER, "aud": ["chatmesh"], "sub": subject, "iat": NOW - 5, "nbf": NOW - 5,
        "exp": NOW + 3600, "jti": "y",
        "kubernetes.io": {
            "namespace": namespace, "serviceaccount": {"name": name, "uid": "u"},
            "pod": {"name": "p", "uid": "u"}, "warnafter": NOW + 3000,
        },
        **changes,
    }  # fmt: skip
    return jwt.encode({"alg": "RS256", "kid": key.kid}, claims, key)


async def test_a_person_of_an_oidc_provider(issuer: Issuer, clock: FakeClock) -> None:
    key = rsa("one")
    issuer.published = [key]
    verifier = TokenVerifier([oidc(issuer)], clock)
    found = await verifier.verify(person(key))
    assert (found.tenant, found.user_id, found.issuer) == ("acme", "alice", OIDC)
    assert found.issued_at_ms == (NOW - 5) * 1000
    assert (await verifier.verify(person(key, org=None))).tenant == "default"
    for changes in ({"iat": None}, {"aud": "account"}, {"preferred_username": None}, {"sub": None}):
        assert await reason_of(verifier, person(key, **changes)) == faults.TOKEN_INVALID
    early = person(key, iat=NOW + 3600)
    assert await reason_of(verifier, early) == faults.TOKEN_NOT_YET_VALID
    not_yet = person(key, nbf=NOW + 3600)
    assert await reason_of(verifier, not_yet) == faults.TOKEN_NOT_YET_VALID


async def test_a_back_end_in_a_cluster(issuer: Issuer, clock: FakeClock, tmp_path: Path) -> None:
    key = rsa("one")
    issuer.published, issuer.bearer = [key], "the mesh's own"
    bearer = tmp_path / "token"
    bearer.write_text("not yet\n")
    verifier = TokenVerifier([cluster(issuer, bearer)], clock)
    assert await reason_of(verifier, workload(key)) == faults.TOKEN_INVALID
    bearer.write_text("the mesh's own\n")  # read anew at the next fetch
    clock.now += keys.UNKNOWN_KEY_REFRESH_SECONDS
    found = await verifier.verify(workload(key))
    assert (found.tenant, found.user_id) == ("shop", BACK_END)
    assert found.scopes == {"chatmesh.act_as", "chatmesh.admin"}
    other = await verifier.verify(workload(key, "system:serviceaccount:shop:web"))
    assert other.scopes == frozenset()
    wrong = workload(key, aud=["https://kubernetes.default.svc"])  # a pod's default token
    assert await reason_of(verifier, wrong) == faults.TOKEN_INVALID


async def test_the_authority_is_checked(issuer: Issuer, clock: FakeClock, tmp_path: Path) -> None:
    key = rsa("one")
    issuer.published = [key]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    certificates.issue(elsewhere, [])
    for ca in (None, elsewhere / "ca.pem"):
        settings = oidc(issuer).model_copy(update={"jwks_ca": ca})
        assert await reason_of(TokenVerifier([settings], clock), person(key)) == (
            faults.TOKEN_INVALID
        )


async def test_two_issuers_at_once_and_neither_speaks_for_the_other(
    clock: FakeClock, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    bearer = tmp_path / "token"
    bearer.write_text("")
    people, pods = Issuer(tmp_path / "a"), Issuer(tmp_path / "b")
    try:
        ours, theirs = rsa("same kid"), rsa("same kid")
        people.published, pods.published = [ours], [theirs]
        verifier = TokenVerifier([oidc(people), cluster(pods, bearer)], clock)
        assert (await verifier.verify(person(ours))).user_id == "alice"
        assert (await verifier.verify(workload(theirs))).user_id == BACK_END
        for token in (person(theirs), workload(ours), person(ours, iss=CLUSTER)):
            assert await reason_of(verifier, token) == faults.TOKEN_INVALID
    finally:
        people.close()
        pods.close()


async def test_keys_rotate_under_load_and_nobody_is_refused(
    issuer: Issuer, clock: FakeClock
) -> None:
    """A provider publishes a key before it signs with it, and keeps the old one a while."""
    old, new = rsa("old"), rsa("new")
    issuer.published = [old]
    verifier = TokenVerifier([oidc(issuer)], clock)
    await verifier.verify(person(old))

    async def load(*signing: RSAKey) -> None:
        tokens = [
            person(signing[number % len(signing)], jti=str(number), exp=clock.now + 9_000)
            for number in range(30)
        ]
        found = await asyncio.gather(*(verifier.verify(token) for token in tokens))
        assert {one.user_id for one in found} == {"alice"}

    issuer.published = [old, new]
    await load(old)
    clock.now += keys.PERIODIC_REFRESH_SECONDS
    await load(old)  # the set is read again, once
    assert issuer.fetches == 2
    await load(old, new)
    issuer.published = [new]
    clock.now += keys.PERIODIC_REFRESH_SECONDS
    await load(old, new)  # tokens of the old key run out by themselves
    assert issuer.fetches == 3


async def test_a_key_server_that_is_away_costs_one_fetch_per_30_s(
    issuer: Issuer, clock: FakeClock
) -> None:
    key, stranger = rsa("one"), rsa("stranger")
    issuer.published, issuer.status = [key], 503
    verifier = TokenVerifier([oidc(issuer)], clock)
    flood = [person(stranger, jti=str(number)) for number in range(50)]
    for _ in range(2):
        reasons = await asyncio.gather(*(reason_of(verifier, token) for token in flood))
        assert set(reasons) == {faults.TOKEN_INVALID}
    assert await reason_of(verifier, person(key)) == faults.TOKEN_INVALID
    assert issuer.fetches == 1
    issuer.status = 200
    clock.now += keys.UNKNOWN_KEY_REFRESH_SECONDS
    assert (await verifier.verify(person(key))).user_id == "alice"
    assert issuer.fetches == 2
    issuer.status = 503
    clock.now += keys.PERIODIC_REFRESH_SECONDS
    again = person(key, jti="again", exp=clock.now + 100)
    assert (await verifier.verify(again)).user_id == "alice", "known keys go on"


def test_the_recipes_of_the_guide_are_settings(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "identity.md").read_text()
    recipes = [block.partition("```")[0] for block in guide.split("```json\n")[1:]]
    assert len(recipes) == 2
    file = tmp_path / "file"
    file.write_text("")
    issuers = []
    for recipe in recipes:
        for fields in json.loads(recipe):
            paths = {name: file for name in ("jwks_ca", "jwks_bearer_file") if name in fields}
            issuers.append(IssuerSettings(**{**fields, **paths}))
    assert len(TokenVerifier(issuers, FakeClock())._issuers) == 2


def test_what_only_a_url_needs_is_refused_without_one(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text("{}")
    for name in ("jwks_ca", "jwks_bearer_file"):
        fields: dict[str, Any] = {name: file}
        with pytest.raises(ValueError, match="jwks_url"):
            IssuerSettings(issuer="i", audience="a", jwks_file=file, **fields)
