"""What was said, as JSON and back: the fields of chatmesh.v1.Event that are stored as its body.

Field names are the contract's, enums are their numbers, 64-bit ids within are decimal strings,
bytes are base64. Strict: an unknown field, a wrong type or a field that is no part of a body is
refused.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from chatmesh.v1.types_pb2 import Content, Event

KIND_OF: Final = {field.number: field.name for field in Content.DESCRIPTOR.fields}
NUMBER_OF: Final = {name: number for number, name in KIND_OF.items()}
VISIBLE_KINDS: Final = ("text", "data")

_NOT_STORED: Final = 8
"""Event's fields up to this are positions, told by the line; two more are of no use elsewhere."""
_NOT_STORED_TOO: Final = ("trace_context", "idempotency_key")
_IDS: Final = (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_INT64)


class BadEvent(ValueError):
    """What was said cannot be read."""


def as_json(body: bytes) -> dict[str, Any]:
    """A stored body as JSON; empty for an erased one. Its trace stays behind, as spans do."""
    event = Event.FromString(body)
    for name in _NOT_STORED_TOO:
        event.ClearField(name)
    return _fields_of(event)


def as_body(event: dict[str, Any], conversations: dict[str, str] | None = None) -> bytes:
    """A stored body from JSON; content comes first, as in every stored body.

    Args:
        conversations: new ids of conversations that events name; others stay.

    Raises BadEvent.
    """
    made = Event()
    _fill(made, event, "event")
    for name in event:
        number = Event.DESCRIPTOR.fields_by_name[name].number
        if number <= _NOT_STORED or name in _NOT_STORED_TOO:
            raise BadEvent(f"event.{name} is no part of an exported event")
    if made.content.account.conversation_id and conversations:
        named = str(made.content.account.conversation_id)
        made.content.account.conversation_id = int(conversations.get(named, named))
    return made.SerializeToString(deterministic=True)


def named_conversation(event: dict[str, Any]) -> str:
    """The conversation that an account's event is about; empty: none."""
    content = event.get("content")
    account = content.get("account") if isinstance(content, dict) else None
    named = account.get("conversation_id") if isinstance(account, dict) else None
    return named if isinstance(named, str) else ""


def _fields_of(message: Message) -> dict[str, Any]:
    return {field.name: _value_of(field, value) for field, value in message.ListFields()}


def _value_of(field: FieldDescriptor, value: Any) -> Any:
    if _is_map(field):
        return {key: value[key] for key in sorted(value)}
    if field.is_repeated:
        return [_one_of(field, one) for one in value]
    return _one_of(field, value)


def _one_of(field: FieldDescriptor, value: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return _fields_of(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(value).decode()
    return str(value) if _is_id(field) else value


def _is_id(field: FieldDescriptor) -> bool:
    return field.type in _IDS and field.name.endswith("_id")


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry


def _fill(message: Message, fields: Any, place: str) -> None:
    if not isinstance(fields, dict):
        raise BadEvent(f"{place} is no object")
    known: Any = message.DESCRIPTOR
    for name, value in fields.items():
        field = known.fields_by_name.get(name)
        where = f"{place}.{name}"
        if field is None:
            raise BadEvent(f"{where} is no field")
        if _is_map(field):
            if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
                raise BadEvent(f"{where} is no object of texts")
            getattr(message, name).update(value)
        elif field.is_repeated:
            if not isinstance(value, list):
                raise BadEvent(f"{where} is no list")
            for one in value:
                _add(message, field, one, where)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            getattr(message, name).SetInParent()
            _fill(getattr(message, name), value, where)
        else:
            setattr(message, name, _scalar(field, value, where))
    oneofs = [o for o in known.oneofs if sum(f.name in fields for f in o.fields) > 1]
    if oneofs:
        raise BadEvent(f"{place} has more than one {oneofs[0].name}")


def _add(message: Message, field: FieldDescriptor, value: Any, where: str) -> None:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        _fill(getattr(message, field.name).add(), value, where)
    else:
        getattr(message, field.name).append(_scalar(field, value, where))


def _scalar(field: FieldDescriptor, value: Any, where: str) -> Any:
    try:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return base64.b64decode(_expected(value, str, where), validate=True)
        if field.type == FieldDescriptor.TYPE_STRING:
            text: str = _expected(value, str, where)
            text.encode()
            return text
        if field.type == FieldDescriptor.TYPE_BOOL:
            return _expected(value, bool, where)
        if _is_id(field):
            return _in_range(field, int(_expected(value, str, where)), where)
        return _in_range(field, _expected(value, int, where), where)
    except (binascii.Error, UnicodeEncodeError, ValueError) as error:
        if isinstance(error, BadEvent):
            raise
        raise BadEvent(f"{where} cannot be read") from None


def _expected(value: Any, kind: type, where: str) -> Any:
    if type(value) is not kind:
        raise BadEvent(f"{where} has the wrong type")
    return value


def _in_range(field: FieldDescriptor, number: int, where: str) -> int:
    wide = field.type in _IDS
    low = 0 if field.type in (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_UINT32) else None
    top = (1 << (63 if wide else 31)) - 1
    if not (-top if low is None else low) <= number <= top:
        raise BadEvent(f"{where} is out of range")
    return number
