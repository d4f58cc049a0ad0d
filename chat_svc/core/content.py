"""What a client may say: checks before batching, and the event body made from what passed.

A table of kinds (``KINDS``), a check per kind, and the body: protobuf bytes of
``chatmesh.v1.Event``'s fields 9-18, rebuilt field by field so that nothing unknown is carried to
recipients. Checks that need the conversation (membership, target, edit window) are the commit's.

Pure. Content is accepted unchanged or refused, never edited.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag
from hashlib import blake2b
from typing import Final

from chat_svc.core.extras import (
    MAX_BIGINT,
    MAX_USER_ID_CHARACTERS,
    NOTIFIES,
    add_extras,
    check_media_type,
)
from chat_svc.core.limits import Limits
from chat_svc.core.wire import framed, varint_size
from chatmesh import errors
from chatmesh.runtime.faults import Fault
from chatmesh.v1 import types_pb2
from chatmesh.v1.types_pb2 import OutgoingMessage

KEY_BYTES: Final = 16
TRACE_BYTES: Final = 25
MAX_REACTION_BYTES: Final = 32
_DAY_MS: Final = 86_400_000

_CONTROLS: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""C0 but TAB, LF and CR."""

_EVENT_CONTENT: Final = b"\x4a"
_CONTENT_TEXT: Final = b"\x0a"
_TEXT_BODY: Final = b"\x0a"
_EVENT_TRACE: Final = b"\xaa\x01\x19"
"""Field 21, length 25."""


class EventFlags(IntFlag):
    """What the commit does with an event beside storing it."""

    VISIBLE = 1
    """Counts: it gets a message_no."""
    NOTIFIES = NOTIFIES
    """Raises notify_seq of everyone but its sender."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table of content kinds."""

    number: int
    """Field number in ``Content.kind``; ``event.kind`` in PostgreSQL."""
    flags: EventFlags
    refers: bool
    """Names a target_conversation_seq that must exist."""


_MESSAGE: Final = EventFlags.VISIBLE | EventFlags.NOTIFIES
KINDS: Final[dict[str, Kind]] = {
    "text": Kind(1, _MESSAGE, False),
    "data": Kind(2, _MESSAGE, False),
    "edit": Kind(3, EventFlags(0), True),
    "delete": Kind(4, EventFlags(0), True),
    "reaction": Kind(5, EventFlags(0), True),
    "pin": Kind(6, EventFlags(0), True),
}
"""Kinds that clients may send; those without a row are refused."""
_TEXT: Final = KINDS["text"]


@dataclass(slots=True)
class Checked:
    """A message that passed; what the committer needs of it."""

    key: bytes
    to_user: str
    """Empty when ``conversation_id`` names the destination."""
    conversation_id: int
    kind: int
    flags: int
    target_seq: int
    expires_at_ms: int
    body: bytes
    """Fields 9-18 of Event, the content first."""
    content_size: int
    """Length of the content at the head of ``body``: a slim echo leaves it out."""
    mentions: tuple[str, ...]
    trace: bytes
    """Trace context as the client sent it; 25 bytes or empty."""


def check(message: OutgoingMessage, limits: Limits, wall_ms: int) -> Checked:
    """Everything that can be said of a message without its conversation.

    Raises:
        Fault: INVALID_ARGUMENT or FAILED_PRECONDITION with a reason of the error table.
    """
    key = message.idempotency_key
    check_key(key, limits, wall_ms)
    to_user, conversation_id = message.to_user_id, message.conversation_id
    if to_user:
        if len(to_user) > MAX_USER_ID_CHARACTERS:
            raise errors.NOT_REACHABLE()
    elif not conversation_id:
        raise errors.NO_DESTINATION()
    elif conversation_id > MAX_BIGINT:
        raise errors.NOT_A_MEMBER()
    content = message.content
    name = content.WhichOneof("kind")
    if name == "text":
        kind, target = _TEXT, 0
        body = _text_content(content.text.body, limits)
    else:
        kind, target, body = _other_content(content, name, limits)
    trace = message.trace_context
    checked = Checked(
        key,
        to_user,
        conversation_id,
        kind.number,
        int(kind.flags),
        target,
        0,
        body,
        len(body),
        (),
        trace if len(trace) == TRACE_BYTES else b"",
    )
    if message.ByteSize() != _plain_size(checked, len(trace)):
        add_extras(checked, message, limits, wall_ms)
    return checked


def _plain_size(checked: Checked, trace_size: int) -> int:
    """Size of a message that has key, destination, content and trace context alone.

    A message of exactly this size has no other field, known or unknown, so nine field reads are
    saved for nearly every message; whatever differs takes the complete way.
    """
    if checked.to_user:
        destination = 2 + len(checked.to_user)  # more for other than ASCII: takes the complete way
    else:
        destination = 1 + varint_size(checked.conversation_id)
    trace = 2 + trace_size if trace_size else 0
    return 2 + KEY_BYTES + destination + checked.content_size + trace


def check_key(key: bytes, limits: Limits, wall_ms: int) -> None:
    """A UUIDv7 (RFC 9562) whose time is within what the server remembers.

    Raises:
        Fault: KEY_INVALID; KEY_TOO_OLD or KEY_IN_FUTURE with the server's time.
    """
    if len(key) != KEY_BYTES or key[6] >> 4 != 7 or key[8] >> 6 != 2:
        raise errors.KEY_INVALID()
    made_ms = int.from_bytes(key[:6], "big")
    if made_ms < wall_ms - limits.key_age_days * _DAY_MS:
        raise errors.KEY_TOO_OLD(server_time_ms=wall_ms, key_time_ms=made_ms)
    if made_ms > wall_ms + limits.key_ahead_seconds * 1_000:
        raise errors.KEY_IN_FUTURE(server_time_ms=wall_ms, key_time_ms=made_ms)


CONTENT_HASH_VERSION: Final = 1


def content_hash(conversation_id: int, body: bytes) -> int:
    """What an idempotency key was used for: version in the top byte, 56 bits of BLAKE2b below.

    Over parsed, known fields only (``body`` is rebuilt), and over the conversation, so that the
    same message addressed by user and by conversation is the same. Equal versions must agree;
    unequal ones count as equal content.
    """
    digest = blake2b(body, digest_size=7, person=conversation_id.to_bytes(8, "little"))
    return CONTENT_HASH_VERSION << 56 | int.from_bytes(digest.digest(), "big")


def trace_field(context: bytes) -> bytes:
    """Event.trace_context as bytes to append to a body; empty for none."""
    return _EVENT_TRACE + context if len(context) == TRACE_BYTES else b""


def _too_many_bytes(limits: Limits, size: int) -> Fault:
    return errors.CONTENT_TOO_LARGE(
        limit="max_content_bytes", value=limits.max_content_bytes, size=size
    )


def _text_content(text: str, limits: Limits) -> bytes:
    """Fields 9 of Event with a TextContent, by hand: half the price of three message objects."""
    if not text:
        raise errors.CONTENT_EMPTY()
    encoded = text.encode()
    if len(encoded) > limits.max_content_bytes:
        raise _too_many_bytes(limits, len(encoded))
    if len(text) > limits.max_text_code_points:
        raise errors.CONTENT_TOO_LARGE(
            "the text has more code points than Limits.max_text_code_points",
            limit="max_text_code_points",
            value=limits.max_text_code_points,
            size=len(text),
        )
    if not text.isprintable() and _CONTROLS.search(text):
        raise errors.CONTENT_INVALID()
    return framed(_EVENT_CONTENT, framed(_CONTENT_TEXT, framed(_TEXT_BODY, encoded)))


def _other_content(
    content: types_pb2.Content, name: str | None, limits: Limits
) -> tuple[Kind, int, bytes]:
    if name is None:
        if content.ByteSize():  # a kind of a later contract
            raise errors.CONTENT_UNSUPPORTED()
        raise errors.CONTENT_EMPTY()
    kind = KINDS.get(name)
    if kind is None:
        raise errors.CONTENT_UNSUPPORTED()
    rebuilt, target = _REBUILD[name](content, limits)
    if kind.refers and not 0 < target <= MAX_BIGINT:
        raise errors.TARGET_UNKNOWN()
    return kind, target, framed(_EVENT_CONTENT, rebuilt.SerializeToString())


def _data(content: types_pb2.Content, limits: Limits) -> tuple[types_pb2.Content, int]:
    return types_pb2.Content(data=_checked_data(content.data, limits)), 0


def _checked_data(data: types_pb2.DataContent, limits: Limits) -> types_pb2.DataContent:
    if not data.body:
        raise errors.CONTENT_EMPTY()
    if len(data.body) > limits.max_content_bytes:
        raise _too_many_bytes(limits, len(data.body))
    check_media_type(data.media_type, "content.data.media_type")
    return types_pb2.DataContent(media_type=data.media_type, body=data.body)


def _edit(content: types_pb2.Content, limits: Limits) -> tuple[types_pb2.Content, int]:
    edit = content.edit
    if edit.HasField("text") == edit.HasField("data"):
        raise errors.CONTENT_EMPTY("an edit carries exactly one of text and data")
    rebuilt = types_pb2.EditContent(target_conversation_seq=edit.target_conversation_seq)
    if edit.HasField("text"):
        _text_content(edit.text.body, limits)
        rebuilt.text.body = edit.text.body
    else:
        rebuilt.data.CopyFrom(_checked_data(edit.data, limits))
    return types_pb2.Content(edit=rebuilt), edit.target_conversation_seq


def _delete(content: types_pb2.Content, limits: Limits) -> tuple[types_pb2.Content, int]:
    target = content.delete.target_conversation_seq
    return types_pb2.Content(delete=types_pb2.DeleteContent(target_conversation_seq=target)), target


def _reaction(content: types_pb2.Content, limits: Limits) -> tuple[types_pb2.Content, int]:
    reaction = content.reaction
    size = len(reaction.reaction.encode())
    if not 1 <= size <= MAX_REACTION_BYTES:
        raise errors.INVALID_FIELD(
            field="content.reaction.reaction",
            limit="max_reaction_bytes",
            value=MAX_REACTION_BYTES,
            size=size,
        )
    if not reaction.reaction.isprintable() and _CONTROLS.search(reaction.reaction):
        raise errors.CONTENT_INVALID()
    rebuilt = types_pb2.ReactionContent(
        target_conversation_seq=reaction.target_conversation_seq,
        reaction=reaction.reaction,
        removed=reaction.removed,
    )
    return types_pb2.Content(reaction=rebuilt), reaction.target_conversation_seq


def _pin(content: types_pb2.Content, limits: Limits) -> tuple[types_pb2.Content, int]:
    pin = content.pin
    rebuilt = types_pb2.PinContent(
        target_conversation_seq=pin.target_conversation_seq, removed=pin.removed
    )
    return types_pb2.Content(pin=rebuilt), pin.target_conversation_seq


_Rebuild = Callable[[types_pb2.Content, Limits], tuple[types_pb2.Content, int]]
_REBUILD: Final[dict[str, _Rebuild]] = {
    "data": _data,
    "edit": _edit,
    "delete": _delete,
    "reaction": _reaction,
    "pin": _pin,
}
