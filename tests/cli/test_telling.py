"""Every kind of event has a line for people and a document for scripts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from chatmesh import client as sdk
from chatmesh.cli.telling import document, line

EVENT = sdk.Event(
    conversation_id=2**63 + 1,
    conversation_seq=3,
    message_no=2,
    message_id=118874788276994048,
    sender="al\x1bice",
    created_at_ms=1_795_567_558_132,
    peer="bob",
    conversation_kind=sdk.ConversationKind.DIRECT,
    content=sdk.Text("hi"),
)

KINDS = [
    (sdk.Text("a\nb"), r"a\nb", "text"),
    (sdk.Data("image/png", b"123"), "(image/png, 3 bytes)", "data"),
    (sdk.Edit(1, sdk.Text("new")), "(edits 1) new", "edit"),
    (sdk.Edit(1, sdk.Data("x/y", b"")), "(edits 1)", "edit"),
    (sdk.Delete(1), "(deletes 1)", "delete"),
    (sdk.Reaction(1, "+1"), "(reacts +1 on 1)", "reaction"),
    (sdk.Reaction(1, "+1", removed=True), "(takes back +1 on 1)", "reaction"),
    (sdk.Pin(1), "(pins 1)", "pin"),
    (
        sdk.Membership(sdk.MembershipChange.ADDED, ["bob"], sdk.MemberRole.MEMBER),
        "(added bob)",
        "membership",
    ),
    (
        sdk.ConversationChange(True, "climb", None),
        "(changes the group: climb)",
        "conversationchange",
    ),
    (sdk.AccountChange("contacts", "bob", "accepted"), "(contacts: bob accepted)", "accountchange"),
    (sdk.UnknownContent(), "(a kind of message that this release does not know)", "unknowncontent"),
    (None, "(deleted)", "erased"),
]


@pytest.mark.parametrize(("content", "text", "kind"), KINDS)
def test_every_kind(content: sdk.Content | None, text: str, kind: str) -> None:
    event = replace(EVENT, content=content)
    assert line(event).endswith(f" al\\x1bice: {text}")
    values = json.loads(json.dumps(document(event, timeline_seq=9)))
    assert (values["kind"], values["timeline_seq"]) == (kind, 9)
    assert values["conversation_id"] == str(2**63 + 1), "ids are strings: no reader loses a bit"
