"""The certificates of an embedded mesh: one CA, one identity a service, all made at each start.

Rules: an identity is the URI `spiffe://chatmesh/SERVICE` in the certificate's SAN; names and
addresses in it are of this machine only. The CA's key is never written: nobody can add an identity
to a running mesh.
"""

import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chatmesh.embedded.layout import write_private

TRUST_DOMAIN = "spiffe://chatmesh/"
VALID_DAYS = 365
CLOCK_SLACK_MINUTES = 5
CLI = "cli"
"""The identity of the command line: health checks and operators' calls."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Paths of the three PEM files one party needs for the mesh's mTLS."""

    ca: Path
    certificate: Path
    key: Path


def files_of(folder: Path, service: str) -> CertificateFiles:
    """Where the files of a service lie below the folder of certificates."""
    return CertificateFiles(
        folder / "ca.pem", folder / f"{service}.pem", folder / f"{service}-key.pem"
    )


def issue(folder: Path, services: Iterable[str]) -> None:
    """Makes a CA and a certificate for each service and for the command line, replacing all."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _ca_certificate(ca_key)
    write_private(folder / "ca.pem", _pem(ca))
    for service in {CLI, *services}:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _service_certificate(service, key.public_key(), ca, ca_key)
        files = files_of(folder, service)
        write_private(files.key, _key_pem(key))
        write_private(files.certificate, _pem(certificate))


def _builder(name: str, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=CLOCK_SLACK_MINUTES))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _ca_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return (
        _builder("chatmesh embedded CA", key.public_key())
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "chatmesh embedded CA")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _service_certificate(
    service: str,
    public_key: ec.EllipticCurvePublicKey,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    names = x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(TRUST_DOMAIN + service),
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("::1")),
        ]
    )
    usages = x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    )
    return (
        _builder(service, public_key)
        .issuer_name(ca.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(usages, critical=False)
        .add_extension(names, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
