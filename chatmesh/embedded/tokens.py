"""Development tokens: who holds the data folder may speak for anyone.

Rules: for the embedded mesh alone; a deployment has issuers with public keys.
"""

import time
import uuid
from collections.abc import Sequence

from joserfc import jwt
from joserfc.jwk import OctKey

from chatmesh.runtime.settings_public import (
    DEFAULT_TENANT,
    DEV_AUDIENCE,
    DEV_ISSUER,
    SECRET_ALGORITHM,
)

DEFAULT_TTL_SECONDS = 12 * 3600


def mint(
    secret: str,
    user_id: str,
    *,
    tenant: str = DEFAULT_TENANT,
    ttl_seconds: float = DEFAULT_TTL_SECONDS,
    scopes: Sequence[str] = (),
) -> str:
    """A signed token for one user, valid from now on. A negative ttl gives an expired one."""
    now = time.time()
    claims: dict[str, object] = {
        "iss": DEV_ISSUER,
        "aud": DEV_AUDIENCE,
        "sub": user_id,
        "tenant": tenant,
        "iat": int(now),
        "nbf": int(now),
        "exp": int(now + ttl_seconds),
        "jti": uuid.uuid4().hex,
    }
    if scopes:
        claims["scope"] = " ".join(scopes)
    return jwt.encode(
        {"alg": SECRET_ALGORITHM, "typ": "JWT"},
        claims,
        OctKey.import_key(secret),
        algorithms=[SECRET_ALGORITHM],
    )
