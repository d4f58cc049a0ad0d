"""Checks of request fields that need nothing but the field."""

from __future__ import annotations

import re
from typing import Final

from google.protobuf.message import Message

from chat_svc.core.extras import MAX_BIGINT
from chatmesh import errors

MAX_TITLE_BYTES: Final = 256
MAX_DRAFT_BYTES: Final = 4_096

_CONTROLS: Final = re.compile("[\x00-\x1f\x7f]")
_DEVICE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def page_size(wanted: int, default: int, most: int) -> int:
    """How many to give: 0 = the default, more than the most = the most.

    Raises:
        Fault: INVALID_FIELD for a negative size.
    """
    if wanted < 0:
        raise errors.INVALID_FIELD("a page size is not negative", field="page_size")
    return min(wanted or default, most)


def conversation_id(number: int) -> int:
    """An id that the store can be asked for.

    Raises:
        Fault: NOT_FOUND: no conversation has it.
    """
    if not 0 < number <= MAX_BIGINT:
        raise errors.NOT_FOUND()
    return number


def position(number: int, field: str) -> int:
    """A seq, a message_no or a time.

    Raises:
        Fault: INVALID_FIELD.
    """
    if not 0 <= number <= MAX_BIGINT:
        raise errors.INVALID_FIELD("a position is below 2^63", field=field)
    return number


def title(text: str) -> str:
    """A group's title.

    Raises:
        Fault: INVALID_FIELD.
    """
    if len(text.encode()) > MAX_TITLE_BYTES or _CONTROLS.search(text):
        raise errors.INVALID_FIELD(
            "a title has at most 256 bytes and no control characters", field="title"
        )
    return text


def draft(text: str) -> str:
    """Unsent text.

    Raises:
        Fault: INVALID_FIELD.
    """
    if len(text.encode()) > MAX_DRAFT_BYTES or "\0" in text:
        raise errors.INVALID_FIELD("a draft has at most 4,096 bytes and no NUL", field="draft")
    return text


def device_id(text: str) -> str:
    """A device's id.

    Raises:
        Fault: BAD_DEVICE_ID.
    """
    if not _DEVICE_ID.fullmatch(text):
        raise errors.BAD_DEVICE_ID()
    return text


def query_of(request: Message) -> bytes:
    """What a page token is bound to: the method's request without size and token."""
    copy = type(request)()
    copy.CopyFrom(request)
    for field in ("page_size", "page_token"):
        copy.ClearField(field)
    return type(request).__name__.encode() + b"\0" + copy.SerializeToString(deterministic=True)
