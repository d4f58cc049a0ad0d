"""What proves who somebody is: certificates on the mesh, tokens on the public face."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from chatmesh.embedded import certificates, keys, tokens
from chatmesh.embedded.layout import DataFolder
from chatmesh.runtime.clock import SystemClock
from chatmesh.runtime.faults import Fault
from chatmesh.runtime.identity import TokenVerifier
from chatmesh.runtime.settings_public import DEV_AUDIENCE, DEV_ISSUER, IssuerSettings


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    made = DataFolder(tmp_path / "data")
    made.make()
    return made


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_certificate_names_its_service_and_this_machine_only(folder: DataFolder) -> None:
    certificates.issue(folder.certificates, ["chat_svc"])
    for service in ("chat_svc", certificates.CLI):
        files = certificates.files_of(folder.certificates, service)
        certificate = load(files.certificate)
        certificate.verify_directly_issued_by(load(files.ca))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        assert uris == [f"spiffe://chatmesh/{service}"]
        assert names.get_values_for_type(x509.DNSName) == ["localhost"]
        assert all(a.is_loopback for a in names.get_values_for_type(x509.IPAddress))
        key = serialization.load_pem_private_key(files.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert key.public_key() == certificate.public_key()


def test_the_key_of_the_ca_is_not_kept(folder: DataFolder) -> None:
    certificates.issue(folder.certificates, ["chat_svc"])
    ca = load(folder.certificates / "ca.pem").public_key()
    for path in folder.certificates.glob("*-key.pem"):
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert key.public_key() != ca


def test_each_start_has_a_new_ca(folder: DataFolder) -> None:
    certificates.issue(folder.certificates, ["chat_svc"])
    first = load(certificates.files_of(folder.certificates, "chat_svc").certificate)
    certificates.issue(folder.certificates, ["chat_svc"])
    with pytest.raises(InvalidSignature):
        first.verify_directly_issued_by(load(folder.certificates / "ca.pem"))


def verifier(secret: str) -> TokenVerifier:
    issuer = IssuerSettings(
        issuer=DEV_ISSUER,
        audience=DEV_AUDIENCE,
        secret=SecretStr(secret),
        tenant_claim="tenant",
        algorithms=("HS256",),
    )
    return TokenVerifier([issuer], SystemClock())


async def test_a_minted_token_is_accepted_with_its_tenant_and_scopes(folder: DataFolder) -> None:
    secret = keys.development_secret(folder).read_text()
    token = tokens.mint(secret, "alice", tenant="acme", scopes=["chatmesh.act_as"])
    identity = await verifier(secret).verify(token)
    assert (identity.tenant, identity.user_id) == ("acme", "alice")
    assert identity.scopes == {"chatmesh.act_as"}
    assert identity.token_id != ""


async def test_a_token_of_another_folder_is_refused(folder: DataFolder, tmp_path: Path) -> None:
    other = DataFolder(tmp_path / "other")
    other.make()
    token = tokens.mint(keys.development_secret(other).read_text(), "alice")
    with pytest.raises(Fault, match="signature"):
        await verifier(keys.development_secret(folder).read_text()).verify(token)


async def test_an_expired_token_can_be_minted_for_tests(folder: DataFolder) -> None:
    secret = keys.development_secret(folder).read_text()
    with pytest.raises(Fault, match="expired"):
        await verifier(secret).verify(tokens.mint(secret, "alice", ttl_seconds=-1))


def test_a_secret_is_made_once(folder: DataFolder) -> None:
    first = keys.hint_key(folder).read_bytes()
    assert keys.hint_key(folder).read_bytes() == first
    assert len(first) >= 32
