"""Settings of a server with a public face: its listener and the issuers whose tokens it accepts.

Rules: one key family per deployment. Either issuers with public keys, or (embedded only) one
shared HS256 secret; a deployment that accepted both could be tricked into using a public key as
a shared secret.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from chatmesh.runtime.settings import Address, ServerSettings, check_readable, is_local, rule

PUBLIC_KEY_ALGORITHMS: Final = (
    "ES256", "ES384", "ES512", "EdDSA", "Ed25519", "PS256", "PS384", "PS512", "RS256", "RS384",
    "RS512",
)  # fmt: skip
SECRET_ALGORITHM: Final = "HS256"  # noqa: S105 - its name
MIN_SECRET_BYTES: Final = 32
"""RFC 7518 section 3.2: an HS256 key has at least the size of the hash."""

DEV_ISSUER: Final = "chatmesh-dev"
DEV_AUDIENCE: Final = "chatmesh"
DEFAULT_TENANT: Final = "default"


class IssuerSettings(BaseModel):
    """One issuer of tokens."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )

    issuer: str = Field(min_length=1)
    """Exact value of the claim `iss`."""

    audience: str = Field(min_length=1)
    """Value that the claim `aud` must hold."""

    jwks_file: Path | None = None
    """File with the issuer's public keys (JWK set)."""

    jwks_url: str | None = None
    """https URL of the issuer's public keys (JWK set)."""

    jwks_ca: Path | None = None
    """PEM file of the authority that `jwks_url` is checked against; none: the system's. For issuers
    inside a cluster."""

    jwks_bearer_file: Path | None = None
    """File with a bearer token that is shown at `jwks_url`; read anew at each fetch. For issuers
    that tell their keys to authenticated callers only."""

    secret: SecretStr | None = None
    """Shared HS256 secret of at least 32 bytes; only with CHATMESH_EMBEDDED=true."""

    user_claim: str = "sub"
    """Claim that holds the user id."""

    tenant_claim: str | None = None
    """Claim that holds the tenant; none: the fixed `tenant`."""

    tenant: str = DEFAULT_TENANT
    """Tenant of all tokens of this issuer when `tenant_claim` is not set or absent."""

    nbf_required: bool = True
    """false accepts tokens without the claim `nbf`, which many OIDC providers leave out; then `iat`
    must be there."""

    granted_scopes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Scopes by user id, beside those in the token: for issuers that cannot write scopes."""

    algorithms: tuple[str, ...] = ("ES256",)
    """Signature algorithms accepted, fixed here and never taken from a token."""

    @field_validator("jwks_file", "jwks_ca", "jwks_bearer_file")
    @classmethod
    def _file(cls, path: Path | None) -> Path | None:
        return check_readable(path)

    @field_validator("jwks_url")
    @classmethod
    def _url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise ValueError("must be an https URL (http only on this machine)")
        if not parts.hostname or parts.username or parts.password:
            raise ValueError("must name a host and hold no password")
        return url

    @model_validator(mode="after")
    def _one_key_source(self) -> Self:
        sources = [self.jwks_file, self.jwks_url, self.secret]
        if sum(source is not None for source in sources) != 1:
            raise ValueError("set exactly one of jwks_file, jwks_url, secret")
        if self.jwks_url is None and (self.jwks_ca or self.jwks_bearer_file):
            raise ValueError("jwks_ca and jwks_bearer_file are for a jwks_url")
        if self.secret is not None:
            if len(self.secret.get_secret_value().encode()) < MIN_SECRET_BYTES:
                raise ValueError(f"secret must have at least {MIN_SECRET_BYTES} bytes")
            if self.algorithms != (SECRET_ALGORITHM,):
                raise ValueError("with a secret, algorithms must be exactly HS256")
        unknown = [name for name in self.algorithms if name not in PUBLIC_KEY_ALGORITHMS]
        if self.secret is None and (unknown or not self.algorithms):
            raise ValueError(f"algorithms must be among {', '.join(PUBLIC_KEY_ALGORITHMS)}")
        return self


class PublicServerSettings(ServerSettings):
    """What a server with a public listener has."""

    public_listen: Address
    """Address of the public listener: HOST:PORT or unix:/path."""

    public_tls_cert: Path | None = None
    """PEM file of the public certificate (chain)."""

    public_tls_key: Path | None = None
    """PEM file of the public certificate's key."""

    public_insecure: bool = False
    """true allows a public listener in plain text off loopback, behind a proxy that ends TLS."""

    public_reflection: bool = False
    """true serves gRPC reflection on the public port (development)."""

    issuers: tuple[IssuerSettings, ...] = ()
    """JSON list of token issuers: [{"issuer": …, "audience": …, "jwks_url": …}]."""

    dev_secret: SecretStr | None = None
    """Shared secret of development tokens, at least 32 bytes; only with CHATMESH_EMBEDDED=true."""

    embedded: bool = False
    """true in an embedded mesh on one machine: allows the development secret."""

    @field_validator("public_tls_cert", "public_tls_key")
    @classmethod
    def _public_readable(cls, path: Path | None) -> Path | None:
        return check_readable(path)

    @field_validator("dev_secret")
    @classmethod
    def _long_enough(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value().encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"secret must have at least {MIN_SECRET_BYTES} bytes")
        return secret

    @rule("public_tls_cert", "public_tls_key")
    def _public_tls_files(self) -> None:
        if (self.public_tls_cert is None) != (self.public_tls_key is None):
            raise ValueError(
                "CHATMESH_PUBLIC_TLS_CERT and CHATMESH_PUBLIC_TLS_KEY: set both or none"
            )

    @rule("public_tls_cert", "public_listen", "public_insecure")
    def _public_tls_off_loopback(self) -> None:
        local = is_local(self.public_listen)
        if self.public_tls_cert is None and not local and not self.public_insecure:
            raise ValueError(
                f"CHATMESH_PUBLIC_LISTEN={self.public_listen!r} is reachable from other machines "
                "and has no TLS: set CHATMESH_PUBLIC_TLS_CERT and _KEY, or listen on 127.0.0.1, "
                "or set CHATMESH_PUBLIC_INSECURE=true behind a proxy that ends TLS"
            )

    @rule("dev_secret", "issuers", "embedded")
    def _one_key_family(self) -> None:
        shared = self.dev_secret is not None or any(i.secret is not None for i in self.issuers)
        public = any(i.secret is None for i in self.issuers)
        if shared and public:
            raise ValueError(
                "CHATMESH_DEV_SECRET and CHATMESH_ISSUERS with public keys are both set: a "
                "deployment accepts one key family; unset one of them"
            )
        if shared and not self.embedded:
            raise ValueError(
                "a shared token secret is for development: set CHATMESH_EMBEDDED=true on a "
                "machine of your own, or configure CHATMESH_ISSUERS with public keys"
            )
        if not shared and not public:
            raise ValueError(
                "nobody could log in: set CHATMESH_ISSUERS, or CHATMESH_DEV_SECRET_FILE with "
                "CHATMESH_EMBEDDED=true"
            )

    def token_issuers(self) -> tuple[IssuerSettings, ...]:
        """All issuers, the development one included."""
        if self.dev_secret is None:
            return self.issuers
        development = IssuerSettings(
            issuer=DEV_ISSUER,
            audience=DEV_AUDIENCE,
            secret=self.dev_secret,
            tenant_claim="tenant",
            algorithms=(SECRET_ALGORITHM,),
        )
        return (*self.issuers, development)
