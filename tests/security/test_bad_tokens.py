"""Every bad token at the verifier itself, and that the good one they differ from is accepted.

The matrix runs the same tokens through every RPC of a running node; here the reason is looked at
closely, for the development secret and for a deployment with public keys.
"""

import json
from pathlib import Path

import grpc
import pytest
from joserfc.jwk import ECKey, KeySet
from pydantic import SecretStr

from chatmesh.runtime.clock import SystemClock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.identity import TokenVerifier, bearer_token
from chatmesh.runtime.settings_public import DEV_AUDIENCE, DEV_ISSUER, IssuerSettings
from tests.security.bad_tokens import MISSING, BadToken, Forge, bad_tokens

SECRET = "a development secret of more than 32 bytes"


@pytest.fixture(scope="module")
def verifier() -> TokenVerifier:
    issuer = IssuerSettings(
        issuer=DEV_ISSUER, audience=DEV_AUDIENCE, secret=SecretStr(SECRET),
        tenant_claim="tenant", algorithms=("HS256",),
    )  # fmt: skip
    return TokenVerifier([issuer], SystemClock())


async def refusal(verifier: TokenVerifier, bad: BadToken) -> Fault:
    values = [value for key, value in bad.metadata if key == "authorization"]
    with pytest.raises(Fault) as refused:
        await verifier.verify(bearer_token(values))
    return refused.value


@pytest.mark.parametrize("bad", bad_tokens(SECRET), ids=lambda bad: bad.name)
async def test_bad_token_is_refused_for_its_reason(verifier: TokenVerifier, bad: BadToken) -> None:
    fault = await refusal(verifier, bad)
    assert fault.code is grpc.StatusCode.UNAUTHENTICATED
    assert fault.reason == bad.reason
    said = str(fault.message) + str(fault.metadata)
    for part in "".join(value for _, value in bad.metadata).removeprefix("Bearer ").split("."):
        assert len(part) < 8 or part not in said, "a refusal repeats no word of the token"


async def test_the_good_token_is_accepted(verifier: TokenVerifier) -> None:
    identity = await verifier.verify(Forge(SECRET).good())
    assert (identity.user_id, identity.tenant) == ("mallory", "default")


async def test_public_keys_make_every_shared_secret_worthless(tmp_path: Path) -> None:
    """With a JWK set, a token signed with the text of a public key as secret is no token."""
    key = ECKey.generate_key("P-256", {"kid": "k1"})
    jwks = tmp_path / "keys.json"
    jwks.write_text(json.dumps(KeySet([key]).as_dict(private=False)))
    issuer = IssuerSettings(issuer=DEV_ISSUER, audience=DEV_AUDIENCE, jwks_file=jwks)
    verifier = TokenVerifier([issuer], SystemClock())
    for secret in (jwks.read_text(), key.as_pem(private=False).decode(), "", SECRET):
        forged = Forge(secret)
        for header in ({"alg": "HS256"}, {"alg": "HS256", "kid": "k1"}, {"alg": "ES256"}):
            token = forged.sign(forged.claims(), {**header, "typ": "JWT"})
            bad = BadToken("forged", (("authorization", f"Bearer {token}"),), "TOKEN_INVALID")
            assert (await refusal(verifier, bad)).reason == "TOKEN_INVALID"


def test_there_are_enough_of_them_and_their_names_are_unique() -> None:
    names = [bad.name for bad in bad_tokens(SECRET)]
    assert len(names) == len(set(names)) >= 30
    assert any(bad.reason == MISSING for bad in bad_tokens(SECRET))
