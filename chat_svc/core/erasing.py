"""Takes an erased user's name out of what others wrote.

Pure. Only fields that name users are looked at (`…user_id`, `…user_ids`); what somebody wrote as
text is theirs.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from chatmesh.v1.types_pb2 import Event


def without_name(body: bytes, user: str) -> bytes | None:
    """A stored event's body without the name; None: the name is in none of those fields."""
    event = Event.FromString(body)
    return event.SerializeToString() if _scrub(event, user) else None


def _scrub(message: Message, user: str) -> bool:
    changed = False
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            kind = field.message_type
            if kind is None or kind.GetOptions().map_entry:
                continue
            inner: Any = value if field.is_repeated else (value,)
            for one in inner:
                changed |= _scrub(one, user)
        elif field.type == FieldDescriptor.TYPE_STRING:
            changed |= _scrub_field(message, field, value, user)
    return changed


def _scrub_field(message: Message, field: FieldDescriptor, value: Any, user: str) -> bool:
    if field.is_repeated:
        if not field.name.endswith("user_ids") or user not in value:
            return False
        kept = [name for name in value if name != user]
        del value[:]
        value.extend(kept)
        return True
    if not field.name.endswith("user_id") or value != user:
        return False
    message.ClearField(field.name)
    return True
