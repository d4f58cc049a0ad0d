"""Short names for what the tests of presence are made of."""

from __future__ import annotations

from presence_svc.merge import Session
from presence_svc.store.accounts import Attachment
from presence_svc.store.records import Held, Node

KEEP_MS = 86_400_000
NOW_MS = 1_764_000_000_000
PHONE, DESKTOP = 1, 3


def node(number: int) -> Node:
    """A chat node."""
    return Node(number, f"127.0.0.1:{9000 + number % 1000}", f"node-{number}")


def came(
    account_id: int,
    session_no: int,
    device_id: str = "phone",
    *,
    kind: int = PHONE,
    active: bool = True,
) -> Attachment:
    """A session that came."""
    return Attachment(account_id, Session(0, device_id, session_no, kind, active))


def went(account_id: int, session_no: int, device_id: str = "phone") -> Held:
    """A session that went."""
    return Held(account_id, device_id, session_no)
