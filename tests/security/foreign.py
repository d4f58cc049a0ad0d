"""Requests that reach for what is somebody else's, generated from the descriptors.

Every public RPC's request of `methods.PUBLIC` is taken, and each field that names an object (a
conversation, a user, a device, a page, a session) is set to each object of the victim's. A request
field that names objects in a way that is not known here fails the test: whoever adds one says which
objects it may name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf import message_factory, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from chatmesh.v1 import session_pb2
from tests.contract.descriptors import public_methods
from tests.raw import fill
from tests.security.methods import PUBLIC

SESSION = "/chatmesh.v1.ChatService/Session"
OBJECTS: Mapping[str, str] = {
    "conversation_id": "conversation", "open_conversation_id": "conversation",
    "user_id": "user", "user_ids": "user",
    "peer_user_id": "user", "to_user_id": "user", "member_user_ids": "user",
    "mention_user_ids": "user", "device_id": "device", "page_token": "page",
    "session_token": "session", "idempotency_key": "key",
}  # fmt: skip
"""Names of fields that name an object, and of which kind."""
HARMLESS = frozenset({"token", "nonce", "message_id", "collapse_key", "reply_to_conversation_seq"})
"""Names like those of objects, that name none: credentials, the caller's own, for display."""
FRAMES: Mapping[str, str] = {
    "send": 'send { messages { idempotency_key: "$key" conversation_id: 1 '
    'content { text { body: "let me in" } } } }',
    "mark_read": "mark_read { conversation_id: 1 message_no: 99 }",
    "typing": "typing { conversation_id: 1 active: true }",
    "watch": 'watch { user_ids: "x" open_conversation_id: 1 }',
}
"""Client frames that name objects; the others name the caller's own alone."""


def objects_in(message: Descriptor, depth: int = 0) -> Iterator[FieldDescriptor]:
    """Every field below a message whose name says that it names an object."""
    for field in message.fields:
        if field.message_type is not None and depth < 6 and not _is_map(field):
            yield from objects_in(field.message_type, depth + 1)
        elif field.name.endswith(("_id", "_ids", "_token", "_key", "_user_ids")):
            yield field


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def kind_of(name: str) -> str:
    """Of which kind the objects are that a field names; empty: none."""
    return OBJECTS.get(name) or ("user" if name.endswith("user_ids") else "")


def requests(objects: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, str, list[bytes]]]:
    """(path, what it reaches for, messages) of every public RPC and object of the victim's."""
    for path, text in PUBLIC.items():
        kind = message_factory.GetMessageClass(public_methods()[path].input_type)
        if path == SESSION:
            hello = session_pb2.ClientFrame(hello=session_pb2.Hello(device_id="phone"))
            first = hello.SerializeToString()
            for frame in FRAMES.values():
                for what, made in variants(session_pb2.ClientFrame, frame, objects):
                    yield path, what, [first, made]
            continue
        for what, made in variants(kind, text, objects):
            yield path, what, [made]


def variants(
    kind: type[Message], text: str, objects: Mapping[str, Sequence[Any]]
) -> Iterator[tuple[str, bytes]]:
    """A request as it is, and with each field that names an object set to each of the victim's."""
    yield "as it is", text_format.Parse(fill(text), kind()).SerializeToString()
    places = list(_places(text_format.Parse(fill(text), kind())))
    for path in places:
        for value in objects.get(kind_of(path[-1]), ()):
            made = text_format.Parse(fill(text), kind())
            _set(made, path, value)
            yield f"{'.'.join(path)}={value!r}", made.SerializeToString()


def _places(message: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for field in message.DESCRIPTOR.fields:
        here = (*path, field.name)
        if field.message_type is not None and not _is_map(field):
            inner = getattr(message, field.name)
            if field.is_repeated:
                inner = inner[0] if inner else None
            elif not message.HasField(field.name):
                inner = None
            if inner is not None:
                yield from _places(inner, here)
        elif kind_of(field.name) and field.name != "idempotency_key":
            yield here


def _set(message: Any, path: tuple[str, ...], value: Any) -> None:
    *above, last = path
    for name in above:
        inner = getattr(message, name)
        message = inner if isinstance(inner, Message) else inner[0]
    field = message.DESCRIPTOR.fields_by_name[last]
    if field.is_repeated:
        del getattr(message, last)[:]
        getattr(message, last).append(value)
    else:
        setattr(message, last, value)
