"""Values of contacts, privacy, devices and push. Rules as in `_content`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from chatmesh.client._values import DeviceKind, MuteLevel


class ContactState(IntEnum):
    """Where two users stand, seen from the caller."""

    UNKNOWN = 0
    REQUESTED = 1
    INCOMING = 2
    ACCEPTED = 3
    BLOCKED = 4


class ContactAction(IntEnum):
    """What to do about a user."""

    REQUEST = 1
    ACCEPT = 2
    DECLINE = 3
    REMOVE = 4
    BLOCK = 5
    UNBLOCK = 6


class Audience(IntEnum):
    """Who may see something of the caller."""

    UNCHANGED = 0
    NOBODY = 1
    CONTACTS = 2


class PushProvider(IntEnum):
    """Who delivers a notification. NONE: the device has no token."""

    NONE = 0
    FCM = 1
    APNS = 2
    WEB_PUSH = 3
    WEBHOOK = 4
    LOG = 5


class PushPrivacy(IntEnum):
    """What a notification may show to the provider."""

    DEFAULT = 0
    ID_ONLY = 1
    SENDER = 2
    FULL = 3


@dataclass(frozen=True, slots=True)
class Contact:
    """One line of the caller's list."""

    user_id: str
    state: ContactState
    changed_at_ms: int


@dataclass(frozen=True, slots=True)
class Privacy:
    """Who sees what of the caller."""

    presence: Audience = Audience.UNCHANGED
    last_seen: Audience = Audience.UNCHANGED
    typing: Audience = Audience.UNCHANGED
    read_receipts: Audience = Audience.UNCHANGED


@dataclass(frozen=True, slots=True)
class Device:
    """One of the caller's devices."""

    device_id: str
    kind: DeviceKind
    name: str
    seen_at_ms: int
    acked_timeline_seq: int
    push_provider: PushProvider
    online: bool


@dataclass(frozen=True, slots=True)
class NotificationSettings:
    """How loud the account is; minutes of the local day, equal = off."""

    mute: MuteLevel
    quiet_start_minute: int
    quiet_end_minute: int
    time_zone: str
