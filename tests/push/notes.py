"""What is sent to local providers, and how they answer; shared by the tests of the providers."""

from __future__ import annotations

import json
from typing import Any

from cryptography.hazmat.primitives import serialization

from push_svc.render import Notification

KEY = "00112233445566778899aabbccddeeff"
NOTE = Notification(
    KEY, KEY[::-1], True, "bob", "see you at 8 🙂", 3, True, 60, {"kind": "message", "count": "1"}
)
SILENT = Notification(KEY, KEY, False, "", "", 0, False, 60, {"kind": "sync"})
DEVICE = "ab" * 32


def pem(key: Any) -> str:
    text: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return text.decode()


def answer(status: int, value: Any) -> tuple[int, bytes]:
    return status, json.dumps(value).encode()


TRANSPORT_HEADERS = frozenset(("host", "accept", "accept-encoding", "user-agent", "content-length"))
"""What every HTTP client sends."""
