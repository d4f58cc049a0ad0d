"""Who may see what of a user's presence: a table over facts, never a lookup.

Facts come from presence_svc; whether the viewer is a contact, shares a conversation or is blocked
comes from the store. Blocking hides both ways. Pure.
"""

from dataclasses import dataclass
from typing import Final

from chatmesh.v1.contacts_pb2 import AUDIENCE_CONTACTS
from chatmesh.v1.types_pb2 import DeviceKind, PresenceState

_UNKNOWN: Final = PresenceState.PRESENCE_STATE_UNSPECIFIED
_OFFLINE: Final = PresenceState.PRESENCE_STATE_OFFLINE
_INVISIBLE: Final = PresenceState.PRESENCE_STATE_INVISIBLE


@dataclass(frozen=True, slots=True)
class Relation:
    """What the viewer is to the user."""

    is_self: bool = False
    is_contact: bool = False
    is_blocked: bool = False
    """Either blocks the other."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What presence_svc knows of the user."""

    state: PresenceState.ValueType
    last_seen_ms: int = 0
    status_text: str = ""
    online_kinds: tuple[DeviceKind.ValueType, ...] = ()


@dataclass(frozen=True, slots=True)
class Audiences:
    """The user's privacy, as far as presence goes; `chatmesh.v1.Audience` numbers."""

    presence: int = AUDIENCE_CONTACTS
    last_seen: int = AUDIENCE_CONTACTS


_NOTHING: Final = Facts(_OFFLINE)


def visible(facts: Facts, relation: Relation, audiences: Audiences) -> Facts:
    """What the viewer is shown.

    | viewer | state | last seen | status text, kinds |
    | --- | --- | --- | --- |
    | oneself | as it is, INVISIBLE included | yes | yes |
    | blocked, or no contact | offline | no | no |
    | contact, presence hidden | offline | by its audience | no |
    | contact, invisible user | offline | by its audience | the text, as of one who left |
    | contact | as it is | by its audience | yes |
    """
    if relation.is_self:
        return facts
    if relation.is_blocked or not relation.is_contact:
        return _NOTHING
    last_seen = facts.last_seen_ms if audiences.last_seen == AUDIENCE_CONTACTS else 0
    if audiences.presence != AUDIENCE_CONTACTS:
        return Facts(_OFFLINE, last_seen)
    if facts.state == _INVISIBLE:
        # to the letter as one who left when this one went out of sight: else they differ
        return Facts(_OFFLINE, last_seen, facts.status_text)
    if facts.state == _UNKNOWN:
        return Facts(_UNKNOWN)
    return Facts(facts.state, last_seen, facts.status_text, facts.online_kinds)
