"""The table of who sees what, cell by cell."""

import pytest

from chat_svc.core.visibility import Audiences, Facts, Relation, visible
from chatmesh.v1.contacts_pb2 import AUDIENCE_CONTACTS as CONTACTS
from chatmesh.v1.contacts_pb2 import AUDIENCE_NOBODY as NOBODY
from chatmesh.v1.types_pb2 import DeviceKind, PresenceState

S = PresenceState
PHONE = DeviceKind.DEVICE_KIND_PHONE
ONLINE = Facts(S.PRESENCE_STATE_ONLINE, 7, "busy", (PHONE,))
HIDDEN = Facts(S.PRESENCE_STATE_OFFLINE)
CONTACT = Relation(is_contact=True)


@pytest.mark.parametrize(
    ("facts", "relation", "audiences", "shown"),
    [
        (ONLINE, Relation(is_self=True), Audiences(NOBODY, NOBODY), ONLINE),
        (ONLINE, Relation(), Audiences(), HIDDEN),
        (ONLINE, Relation(is_contact=True, is_blocked=True), Audiences(), HIDDEN),
        (ONLINE, CONTACT, Audiences(), ONLINE),
        (ONLINE, CONTACT, Audiences(NOBODY, CONTACTS), Facts(S.PRESENCE_STATE_OFFLINE, 7)),
        (ONLINE, CONTACT, Audiences(NOBODY, NOBODY), HIDDEN),
        (
            ONLINE,
            CONTACT,
            Audiences(CONTACTS, NOBODY),
            Facts(S.PRESENCE_STATE_ONLINE, 0, "busy", (PHONE,)),
        ),
        (
            Facts(S.PRESENCE_STATE_INVISIBLE, 7, "x", (PHONE,)),
            CONTACT,
            Audiences(),
            Facts(S.PRESENCE_STATE_OFFLINE, 7, "x"),
        ),
        (Facts(S.PRESENCE_STATE_INVISIBLE, 7), CONTACT, Audiences(CONTACTS, NOBODY), HIDDEN),
        (Facts(S.PRESENCE_STATE_INVISIBLE, 7), Relation(), Audiences(), HIDDEN),
        (
            Facts(S.PRESENCE_STATE_INVISIBLE, 7),
            Relation(is_self=True),
            Audiences(),
            Facts(S.PRESENCE_STATE_INVISIBLE, 7),
        ),
        (
            Facts(S.PRESENCE_STATE_UNSPECIFIED, 7, "x"),
            CONTACT,
            Audiences(),
            Facts(S.PRESENCE_STATE_UNSPECIFIED),
        ),
    ],
)
def test_the_table(facts: Facts, relation: Relation, audiences: Audiences, shown: Facts) -> None:
    assert visible(facts, relation, audiences) == shown


@pytest.mark.parametrize("presence", [CONTACTS, NOBODY])
@pytest.mark.parametrize("last_seen", [CONTACTS, NOBODY])
@pytest.mark.parametrize("relation", [CONTACT, Relation(), Relation(is_blocked=True)])
def test_an_invisible_user_is_as_one_who_left(
    relation: Relation, presence: int, last_seen: int
) -> None:
    left = Facts(S.PRESENCE_STATE_OFFLINE, 7, "busy")
    hides = Facts(S.PRESENCE_STATE_INVISIBLE, 7, "busy", (PHONE,))
    audiences = Audiences(presence, last_seen)
    assert visible(hides, relation, audiences) == visible(left, relation, audiences)
