"""Servers and certificates: what they say of themselves, and how long they are good."""

from __future__ import annotations

import asyncio
import datetime
import http.client
import json
import re
from pathlib import Path
from typing import Final

import chatmesh
from chatmesh.cli.doctor.findings import Finding, fail, ok, warn
from chatmesh.cli.doctor.subjects import Server, Subjects

CERTIFICATE_WARN_DAYS: Final = 30
ANSWER_SECONDS: Final = 5.0
_VERSION: Final = re.compile(rb'^chatmesh_build_info\{version="([^"]*)"\}', re.MULTILINE)
_FILES: Final = ("mesh_tls_ca", "mesh_tls_cert", "public_tls_cert")


def look_at_certificates(subjects: Subjects, now: datetime.datetime) -> list[Finding]:
    """Each certificate file of the servers' settings, once."""
    seen: dict[Path, str] = {}
    for server in subjects.servers:
        for name in _FILES:
            path = getattr(server.settings, name, None)
            if path is not None:
                seen.setdefault(path, f"{server.name} {name}")
    return [_certificate(path, subject, now) for path, subject in seen.items()]


def _certificate(path: Path, whose: str, now: datetime.datetime) -> Finding:
    subject = f"certificate {whose}"
    try:
        ends = _not_after(path)
    except ImportError:
        return warn(subject, "not looked at", "pip install 'chatmesh[push]'")
    except (OSError, ValueError) as error:
        return fail(subject, f"{path} cannot be read: {error}", "put a PEM certificate there")
    days = (ends - now).days
    said = f"ends {ends:%Y-%m-%d}"
    if ends <= now:
        return fail(subject, f"{said}: it is over", "renew it, restart the servers")
    if days < CERTIFICATE_WARN_DAYS:
        return warn(subject, f"{said}, in {days} days", "renew it, and look why nobody else does")
    return ok(subject, said)


def _not_after(path: Path) -> datetime.datetime:
    """The end of the first certificate of a PEM file, in UTC."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc


async def look_at_servers(subjects: Subjects) -> list[Finding]:
    """Readiness and version of every server with a metrics port."""
    known = [server for server in subjects.servers if server.metrics]
    found = await asyncio.gather(*(asyncio.to_thread(_server, server) for server in known))
    return [finding for pair in found for finding in pair]


def _server(server: Server) -> list[Finding]:
    subject = f"server {server.name}"
    try:
        status, text = _get(server.metrics, "/readyz")
        version = _VERSION.search(_get(server.metrics, "/metrics")[1])
    except (OSError, http.client.HTTPException):
        return [fail(subject, "does not answer on its metrics port", "look into its log")]
    if status != http.HTTPStatus.OK:
        said = json.dumps(text.decode(errors="replace").strip())
        return [fail(subject, f"is not ready: {said}", "look into its log")]
    running = version.group(1).decode() if version else "unknown"
    if running != chatmesh.__version__:
        said = f"ready, version {running}; this command is {chatmesh.__version__}"
        return [warn(subject, said, "finish the rollout, or use the servers' release")]
    return [ok(subject, f"ready, version {running}")]


def _get(address: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
