"""How a conversation reads now: messages with edits, deletions, reactions, pins and expiry applied.

Role: the one set of rules for whoever holds raw events (devices, tools, the model of the checker);
the server's stored rows and ``ListMessages`` say the same. ``protos/reads_now.json`` holds the
rules as vectors for other languages.

Rules: a pure function of a set of events. They may come in any order and more than once; only
``conversation_seq`` orders them. Whether somebody was allowed to is not asked: an event that is in
the conversation was allowed.

| event | effect on its target |
| --- | --- |
| edit | replaces the body, unless the message is erased |
| delete | erases the message: no body, no reactions, no pin; nothing brings it back |
| reaction | one per user and reaction: set, or taken back; none on an erased message |
| pin | pinned, or no longer, for all members; none on an erased message |
| expiry | from its moment on as if deleted |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Generic, TypeVar

Body = TypeVar("Body")
# Without slots: Python 3.11 makes no generic, frozen, slotted class by an alias (Reading[str]).


class Effect(Enum):
    """What an event does to how a conversation reads."""

    MESSAGE = "message"
    EDIT = "edit"
    DELETE = "delete"
    REACTION = "reaction"
    PIN = "pin"
    NONE = "none"


@dataclass(frozen=True)
class Said(Generic[Body]):
    """One event, as far as it changes how something reads."""

    conversation_seq: int
    effect: Effect
    sender: str = ""
    body: Body | None = None
    """Of a message and of an edit. None: erased already."""
    target: int = 0
    """conversation_seq of the message that it is about."""
    reaction: str = ""
    removed: bool = False
    expires_at_ms: int = 0
    """Of a message: ms since the Unix epoch; 0 = never."""


@dataclass(frozen=True)
class Reading(Generic[Body]):
    """One message as it reads now. ``body`` None: erased."""

    conversation_seq: int
    sender: str
    body: Body | None
    reactions: frozenset[tuple[str, str]] = frozenset()
    """(user, reaction)."""
    edited: bool = False
    pinned: bool = False


def reads_now(events: Iterable[Said[Body]], now_ms: int = 0) -> list[Reading[Body]]:
    """The messages among `events`, by conversation_seq, rising. `now_ms`: of the server's clock."""
    ordered = {said.conversation_seq: said for said in events}
    readings: dict[int, Reading[Body]] = {}
    for seq in sorted(ordered):
        said = ordered[seq]
        if said.effect is Effect.MESSAGE:
            body = None if 0 < said.expires_at_ms <= now_ms else said.body
            readings[seq] = Reading(seq, said.sender, body)
        elif (old := readings.get(said.target)) is not None:
            readings[said.target] = _after(old, said)
    return list(readings.values())


def _after(old: Reading[Body], said: Said[Body]) -> Reading[Body]:
    if old.body is None:
        return old
    match said.effect:
        case Effect.EDIT:
            # an edit without a body is one whose message was erased later: nothing to show of it
            return old if said.body is None else replace(old, body=said.body, edited=True)
        case Effect.DELETE:
            return Reading(old.conversation_seq, old.sender, None)
        case Effect.REACTION:
            mine = frozenset({(said.sender, said.reaction)})
            kept = old.reactions - mine if said.removed else old.reactions | mine
            return replace(old, reactions=kept)
        case Effect.PIN:
            return replace(old, pinned=not said.removed)
        case _:
            return old
