"""The public face of the SDK is frozen: a change here is a change for every user."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import subprocess
import sys
from typing import get_args

import chatmesh.client as sdk

_PUBLIC = """
AccountChange AccountChanged Attachment Audience AuthenticationFailed CaughtUp ChatmeshError
Client ClientClosed ClientEvent Connected Contact ContactAction ContactState Content
ContentRefused Conversation ConversationChange ConversationKind Cursor CursorInvalid Data Delete
Device DeviceKind DeviceRefused Disconnected Edit Entries Entry Event Forwarded HistoryPage
HistoryPolicy InvalidRequest JoinPolicy KeyRefused LimitExceeded Member MemberRole MemberState
Membership MembershipChange MemoryStore Message MuteLevel NotAllowedNow NotFound NotReachable
NotificationSettings Page PermissionDenied Pin Policy Presence PresenceState PreviousRefused
Privacy ProtocolViolated PushPriority PushPrivacy PushProvider Reaction Receipt Remembered
SearchHit SearchPage SendSettled Sendable SenderKind Sent ServerFailed SessionEnded SessionInfo
SessionReplaced Snapshot SnapshotTaken SpanRecorder SqliteStore Store StoreFailed StoredMessage
Subscription Text Tls TokenProvider Typing UnaryClient Unavailable UnknownContent Unread Unsupported
AuditAction AuditRecord User Reading reads_now
"""
PUBLIC = _PUBLIC.split()

_METHODS = """
account_version add_members app_state block changed_conversations contacts conversation
conversations create_group device_id devices entries events hide_message history is_connected
leave_group mark_read members new_key notification_settings presence presence_of privacy receipts
register_push_token remove_members search send send_many send_message session set_presence
set_role set_typing sign_out typing unanswered unblock unread unregister_push_token unwatch
update_contact update_conversation_state update_group user_id watch
"""
METHODS = _METHODS.split()


def test_the_export_list_is_frozen() -> None:
    assert sorted(sdk.__all__) == sorted(PUBLIC)
    assert all(hasattr(sdk, name) for name in PUBLIC)


def test_the_clients_methods_are_frozen() -> None:
    assert sorted(name for name in dir(sdk.Client) if not name.startswith("_")) == sorted(METHODS)


def _annotations() -> list[tuple[str, str]]:
    """Every annotation that a user can meet, as written."""
    found = []
    for name in PUBLIC:
        value = getattr(sdk, name)
        if not inspect.isclass(value):
            found += [(name, repr(part)) for part in get_args(value)]
            continue
        if issubclass(value, enum.Enum):
            continue
        if dataclasses.is_dataclass(value):
            found += [(f"{name}.{one.name}", str(one.type)) for one in dataclasses.fields(value)]
        for attribute, member in inspect.getmembers(value):
            if attribute.startswith("_") and attribute not in ("__init__", "__aenter__"):
                continue
            function = member.fget if isinstance(member, property) else member
            if inspect.isfunction(function):
                texts = function.__annotations__.items()
                found += [(f"{name}.{attribute}({part})", str(text)) for part, text in texts]
    return found


def test_no_type_of_grpc_or_protobuf_is_in_a_public_signature() -> None:
    annotations = _annotations()
    assert len(annotations) > 300
    for where, text in annotations:
        for foreign in ("grpc", "pb.", "pb2", "protobuf", "ValueType", "Any"):
            assert foreign not in text, f"{where}: {text}"


def test_errors_carry_no_grpc_type() -> None:
    error = sdk.NotFound("text", reason="NOT_FOUND", code="NOT_FOUND")
    assert {type(value).__module__ for value in vars(error).values()} <= {"builtins"}


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PATH": ""},
    )  # fmt: skip
    return done.stdout.strip()


def test_the_first_import_switches_the_engine() -> None:
    show = "import os; print(os.environ.get('GRPC_EXPERIMENTS', ''))"
    assert "-event_engine_client" in _run(f"import chatmesh.client; {show}")


def test_an_application_that_imported_grpc_first_may_use_it_all_the_same() -> None:
    assert _run("import grpc, chatmesh.client; print('fine')") == "fine"
