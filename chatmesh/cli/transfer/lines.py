"""What a line may be: one model a type. Numbers are those of docs/schema.md.

Order of a file: the header; users by id; contacts and blocks by owner; conversations by id; members
by conversation and user; messages by conversation and position; the end. Ids are decimal strings,
since JSON's numbers are too small for them in many languages; positions and times are numbers.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

FORMAT: Final = 1
"""Rises when a line of an older release could be misunderstood."""
MAX_LINE_BYTES: Final = 8 << 20
"""A message has 256 KiB at most; a member's list of hidden messages may be longer."""
LARGEST: Final = (1 << 63) - 1

_NO_NUL: Final = r"^[^\x00]*$"
Number = Annotated[int, Field(ge=0, le=LARGEST)]
Small = Annotated[int, Field(ge=0, le=32_767)]
Text = Annotated[str, StringConstraints(pattern=_NO_NUL)]
UserId = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_NO_NUL)]
AnyUserId = Annotated[str, StringConstraints(max_length=128, pattern=_NO_NUL)]
"""Empty: the user was erased."""


def _id(text: str) -> str:
    if int(text) > LARGEST:
        raise ValueError("has more than 63 bits")
    return text


Id = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,18}$"), AfterValidator(_id)]


class Line(BaseModel):
    """Base of all lines."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class Header(Line):
    """The first line."""

    type: Literal["export"] = "export"
    format: Literal[1] = FORMAT
    tenant: Text


class Wish(Line):
    """What a user chose to be."""

    state: Annotated[int, Field(ge=3, le=5)]
    status_text: Text
    status_until_ms: Number


class User(Line):
    """An account."""

    type: Literal["user"]
    user_id: UserId
    kind: Annotated[int, Field(ge=0, le=3)]
    created_at_ms: Number
    disabled_at_ms: Number
    self_conversation_id: Id
    presence_audience: Annotated[int, Field(ge=1, le=2)]
    last_seen_audience: Annotated[int, Field(ge=1, le=2)]
    typing_audience: Annotated[int, Field(ge=1, le=2)]
    receipts_audience: Annotated[int, Field(ge=1, le=2)]
    mute: Annotated[int, Field(ge=1, le=3)]
    quiet_start_minute: Annotated[int, Field(ge=0, le=1440)]
    quiet_end_minute: Annotated[int, Field(ge=0, le=1440)]
    time_zone: Text
    wish: Wish | None


class Contact(Line):
    """Where two users stand, seen from the owner."""

    type: Literal["contact"]
    owner: UserId
    user_id: UserId
    state: Annotated[int, Field(ge=1, le=3)]
    changed_at_ms: Number


class Block(Line):
    """Whom the owner blocks."""

    type: Literal["block"]
    owner: UserId
    user_id: UserId
    changed_at_ms: Number


class Conversation(Line):
    """A conversation; its messages have the positions first to last, without a hole."""

    type: Literal["conversation"]
    conversation_id: Id
    kind: Annotated[int, Field(ge=1, le=3)]
    title: Text
    users: list[AnyUserId]
    join_policy: Annotated[int, Field(ge=1, le=3)]
    history_policy: Annotated[int, Field(ge=1, le=2)]
    govern_version: Annotated[int, Field(ge=0, le=2_147_483_647)]
    created_at_ms: Number
    active_at_ms: Number
    first_conversation_seq: Annotated[int, Field(ge=1, le=LARGEST)]
    last_conversation_seq: Number
    last_message_no: Number


class Member(Line):
    """Somebody who is or was in a conversation."""

    type: Literal["member"]
    conversation_id: Id
    user_id: UserId
    role: Annotated[int, Field(ge=1, le=3)]
    joined_at_ms: Number
    gone: bool
    read_message_no: Number
    read_conversation_seq: Number
    delivered_conversation_seq: Number
    mute: Annotated[int, Field(ge=1, le=3)]
    mute_until_ms: Number
    pinned: bool
    archived: bool
    marked_unread: bool
    draft: Text
    intervals: list[tuple[Number, Number | None]]
    hidden: list[Number]


class Message(Line):
    """An event of a conversation, as it reads now."""

    type: Literal["message"]
    conversation_id: Id
    conversation_seq: Annotated[int, Field(ge=1, le=LARGEST)]
    message_no: Number
    message_id: Id
    sender: AnyUserId
    created_at_ms: Number
    kind: str
    target_conversation_seq: Number
    expires_at_ms: Number
    notifies: bool
    erased: bool
    edited: bool
    idempotency_key: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    event: dict[str, Any]


class End(Line):
    """The last line: a file without it is half a file."""

    type: Literal["end"] = "end"
    users: Number = 0
    contacts: Number = 0
    blocks: Number = 0
    conversations: Number = 0
    members: Number = 0
    messages: Number = 0


AnyLine = Annotated[
    Header | User | Contact | Block | Conversation | Member | Message | End,
    Field(discriminator="type"),
]
ANY_LINE: Final[TypeAdapter[Any]] = TypeAdapter(AnyLine)
