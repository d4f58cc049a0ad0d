"""Python SDK of chatmesh: one device of one user, for asyncio.

    from chatmesh.client import Client

    async with Client("127.0.0.1:7030", token=token, device_id="phone") as client:
        sent = await client.send(to_user="bob", text="hello")
        async for entry in client.entries():
            print(entry.event.sender, entry.text)

Everything public is exported here; modules with an underscore are not. The list is frozen by
tests/client/test_exports.py.
"""

import sys as _sys

from chatmesh.runtime import engine as _engine

if "grpc" not in _sys.modules:
    _engine.prepare()  # before the imports below bring grpc in: its faster engine is chosen here

from chatmesh.client._client import Client
from chatmesh.client._content import (
    AccountChange,
    Attachment,
    Content,
    ConversationChange,
    Data,
    Delete,
    Edit,
    Forwarded,
    HistoryPolicy,
    JoinPolicy,
    MemberRole,
    Membership,
    MembershipChange,
    Message,
    Pin,
    Policy,
    PushPriority,
    Reaction,
    Sendable,
    Text,
    UnknownContent,
)
from chatmesh.client._events import (
    AccountChanged,
    CaughtUp,
    ClientEvent,
    Connected,
    Disconnected,
    SendSettled,
    SnapshotTaken,
)
from chatmesh.client._hub import SpanRecorder
from chatmesh.client._inbox import Entries
from chatmesh.client._outbox import MemoryStore, Remembered, SqliteStore, Store, StoredMessage
from chatmesh.client._people import (
    Audience,
    Contact,
    ContactAction,
    ContactState,
    Device,
    NotificationSettings,
    Privacy,
    PushPrivacy,
    PushProvider,
)
from chatmesh.client._progress import Cursor
from chatmesh.client._reading import Reading, reads_now
from chatmesh.client._tokens import TokenProvider
from chatmesh.client._topic import Subscription
from chatmesh.client._transport import Tls
from chatmesh.client._unary_client import UnaryClient
from chatmesh.client._users import AuditAction, AuditRecord, User
from chatmesh.client._values import (
    Conversation,
    ConversationKind,
    DeviceKind,
    Entry,
    Event,
    HistoryPage,
    Member,
    MemberState,
    MuteLevel,
    Page,
    Presence,
    PresenceState,
    Receipt,
    SearchHit,
    SearchPage,
    SenderKind,
    Sent,
    SessionInfo,
    Snapshot,
    Typing,
    Unread,
)
from chatmesh.client.errors import (
    AuthenticationFailed,
    ChatmeshError,
    ClientClosed,
    ContentRefused,
    CursorInvalid,
    DeviceRefused,
    InvalidRequest,
    KeyRefused,
    LimitExceeded,
    NotAllowedNow,
    NotFound,
    NotReachable,
    PermissionDenied,
    PreviousRefused,
    ProtocolViolated,
    ServerFailed,
    SessionEnded,
    SessionReplaced,
    StoreFailed,
    Unavailable,
    Unsupported,
)

__all__ = [
    "AccountChange",
    "AccountChanged",
    "Attachment",
    "Audience",
    "AuditAction",
    "AuditRecord",
    "AuthenticationFailed",
    "CaughtUp",
    "ChatmeshError",
    "Client",
    "ClientClosed",
    "ClientEvent",
    "Connected",
    "Contact",
    "ContactAction",
    "ContactState",
    "Content",
    "ContentRefused",
    "Conversation",
    "ConversationChange",
    "ConversationKind",
    "Cursor",
    "CursorInvalid",
    "Data",
    "Delete",
    "Device",
    "DeviceKind",
    "DeviceRefused",
    "Disconnected",
    "Edit",
    "Entries",
    "Entry",
    "Event",
    "Forwarded",
    "HistoryPage",
    "HistoryPolicy",
    "InvalidRequest",
    "JoinPolicy",
    "KeyRefused",
    "LimitExceeded",
    "Member",
    "MemberRole",
    "MemberState",
    "Membership",
    "MembershipChange",
    "MemoryStore",
    "Message",
    "MuteLevel",
    "NotAllowedNow",
    "NotFound",
    "NotReachable",
    "NotificationSettings",
    "Page",
    "PermissionDenied",
    "Pin",
    "Policy",
    "Presence",
    "PresenceState",
    "PreviousRefused",
    "Privacy",
    "ProtocolViolated",
    "PushPriority",
    "PushPrivacy",
    "PushProvider",
    "Reaction",
    "Reading",
    "Receipt",
    "Remembered",
    "SearchHit",
    "SearchPage",
    "SendSettled",
    "Sendable",
    "SenderKind",
    "Sent",
    "ServerFailed",
    "SessionEnded",
    "SessionInfo",
    "SessionReplaced",
    "Snapshot",
    "SnapshotTaken",
    "SpanRecorder",
    "SqliteStore",
    "Store",
    "StoreFailed",
    "StoredMessage",
    "Subscription",
    "Text",
    "Tls",
    "TokenProvider",
    "Typing",
    "UnaryClient",
    "Unavailable",
    "UnknownContent",
    "Unread",
    "Unsupported",
    "User",
    "reads_now",
]
