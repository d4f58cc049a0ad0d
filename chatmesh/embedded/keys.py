"""Secrets of an embedded mesh that must outlive a restart: made once, kept in DATA/secrets, 0600.

Rules: a secret is handed to servers as the path of its file, never on a command line. Sessions and
tokens stay valid over a restart because the development secret does; hints in the queue stay
readable because the hint key does.
"""

import secrets
from pathlib import Path

from chatmesh.embedded.layout import DataFolder, write_private

SECRET_BYTES = 32


_DEVELOPMENT = "development-secret"


def kept(folder: DataFolder, name: str) -> Path:
    """The file of a secret (43 characters of base64url, 256 bits), made when it is not there."""
    path = folder.secrets / name
    if not path.exists():
        write_private(path, secrets.token_urlsafe(SECRET_BYTES).encode())
    return path


def development_secret(folder: DataFolder) -> Path:
    """HS256 key of `chatmesh token`; a mesh with real issuers has none."""
    return kept(folder, _DEVELOPMENT)


def known_development_secret(folder: DataFolder) -> Path:
    """The same where it has been made already; nothing is made here."""
    return folder.secrets / _DEVELOPMENT


def hint_key(folder: DataFolder) -> Path:
    """Key of the digests on hints; chat nodes alone know it."""
    return kept(folder, "hint-key")


def postgres_password(folder: DataFolder, role: str) -> Path:
    """Password of one PostgreSQL role."""
    return kept(folder, f"postgres-{role}")


def valkey_password(folder: DataFolder) -> Path:
    """Password of the embedded Valkey."""
    return kept(folder, "valkey")
