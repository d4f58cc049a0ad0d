"""What happens to a client, for applications that want to show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from chatmesh.client._values import Sent, SessionInfo, Snapshot, Unread
from chatmesh.client.errors import ChatmeshError


@dataclass(frozen=True, slots=True)
class Connected:
    """A session is open."""

    session: SessionInfo


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Everything up to the head that stood when the session opened has arrived."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The session is over; the client comes back by itself after about so many seconds."""

    error: ChatmeshError | None
    reconnect_after_seconds: float


@dataclass(frozen=True, slots=True)
class SnapshotTaken:
    """The cursor could not be resumed from: entries up to the snapshot's position never come."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class AccountChanged:
    """Unread totals, or the account's own state outside the timeline, changed."""

    unread: Unread
    account_version: int


@dataclass(frozen=True, slots=True)
class SendSettled:
    """A message whose `send` nobody awaits any more (a restart, a cancelled task) was answered."""

    key: bytes
    outcome: Sent | ChatmeshError


ClientEvent: TypeAlias = (
    Connected | CaughtUp | Disconnected | SnapshotTaken | AccountChanged | SendSettled
)
