"""Devices: sessions opened and fenced, cursors, heads, and what push asks of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatmesh.runtime.postgres import Database

START_OLDEST = 1
START_HEAD = 2
"""Where a device without a cursor begins: `chatmesh.v1.Hello.Start` numbers."""


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """What `open_session` found and did."""

    session_no: int
    """Greater than any before, of any device: fences acks and routes of older sessions."""
    previous_node_id: int
    """Node of the device's session before; 0 = none (or on this node: see node_id)."""
    previous_node_target: str
    """gRPC target of that node's mesh listener; empty = none, or its lease is over."""
    acked_seq: int
    acked_id: int
    start_seq: int
    """The session starts after this position."""
    head_seq: int
    min_seq: int
    """Oldest retained position; head_seq + 1 when nothing is retained."""
    account_version: int
    cursor_ok: bool
    """False: the cursor is too old, above the head, or of a rewound history; nothing changed."""
    devices: int
    """Devices of the account, this one included."""


@dataclass(frozen=True, slots=True)
class CursorWrite:
    """An ack to write."""

    account: int
    device_id: str
    session_no: int
    acked_seq: int
    acked_id: int
    """Message id of the entry at acked_seq; 0 = not known."""


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device."""

    device_id: str
    kind: int
    name: str
    seen_at_ms: int
    acked_seq: int
    session_node: int
    """Node of its live session; 0 = none, or the node's lease is over."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where an account's timeline stands."""

    seq: int
    notify_seq: int
    """Newest position that may notify; 0 = none."""
    min_seq: int
    account_version: int


@dataclass(frozen=True, slots=True)
class SignedOut:
    """A device that was signed out, and where its session was."""

    device_id: str
    node_id: int
    node_target: str
    """Empty: no live session."""


@dataclass(frozen=True, slots=True)
class PendingRow:
    """An entry that waits for a device and may notify."""

    timeline_seq: int
    message_id: int
    conversation: int
    sender_user: str
    title: str
    body: bytes
    mention: bool


@dataclass(frozen=True, slots=True)
class PushStateRow:
    """State of one device as push needs it."""

    account: int
    device_id: str
    exists: bool
    acked_seq: int
    notify_seq: int
    badge: int
    """Unread that counts."""
    visible: bool
    """False: nothing of what waits is loud (muted, quiet hours, read elsewhere)."""
    pending: list[PendingRow]
    """Newest last, at most 5."""
    pending_count: int


class DeviceStore:
    """Reads and writes of device and timeline_head."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open_session(
        self,
        account: int,
        device_id: str,
        kind: int,
        name: str,
        node_id: int,
        cursor: tuple[int, int] | None,
        start: int,
        *,
        max_devices: int = 10,
    ) -> OpenedSession:
        """Raise the device's session_no, and say where it starts.

        A cursor whose message id matches counts as an ack.

        Args:
            cursor: (timeline_seq, message id); None = a device without one.
            start: START_OLDEST or START_HEAD, read only for a new device without a cursor.

        Raises:
            Fault: DEVICE_REFUSED (signed out), LIMIT_EXCEEDED (max_devices).
        """
        raise NotImplementedError

    async def write_cursors(self, rows: Sequence[CursorWrite]) -> None:
        """Write acks: forward only, and only by the session that is the device's newest."""
        raise NotImplementedError

    async def close_sessions(self, sessions: Sequence[tuple[int, str, int]]) -> None:
        """(account, device_id, session_no) of sessions that ended: the device has no node now."""
        raise NotImplementedError

    async def list_devices(self, account: int) -> list[DeviceRow]:
        """Devices by last session, newest first."""
        raise NotImplementedError

    async def has_device(self, account: int, device_id: str) -> bool:
        """Whether the account has it."""
        raise NotImplementedError

    async def sign_out(self, account: int, device_ids: Sequence[str] | None) -> list[SignedOut]:
        """Forget devices (None = all): no session of theirs is honoured any more."""
        raise NotImplementedError

    async def set_push_devices(self, account: int, push_devices: int) -> None:
        """Devices of the account with a push token, as push_svc says."""
        raise NotImplementedError

    async def heads(self, accounts: Sequence[int]) -> dict[int, Head]:
        """Heads by account."""
        raise NotImplementedError

    async def push_state(self, devices: Sequence[tuple[int, str]]) -> list[PushStateRow]:
        """State of (account, device_id) pairs, in order; one batched read."""
        raise NotImplementedError
