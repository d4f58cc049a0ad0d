"""Events in, view state out: the model behind `chatmesh chat`, without a screen and a server."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from chatmesh.cli.chat.model import Kind, Mark, Model, Waiting
from chatmesh.client import (
    AccountChange,
    Content,
    ContentRefused,
    Conversation,
    ConversationKind,
    Delete,
    Edit,
    Event,
    HistoryPage,
    MemberRole,
    MemberState,
    MuteLevel,
    Presence,
    PresenceState,
    Reaction,
    Receipt,
    Sent,
    Text,
    Typing,
)

BOB, GROUP = 7, 8


def event(seq: int, content: Content | None, sender: str = "bob", **more: Any) -> Event:
    """In the conversation of alice and bob; what reads as a message has a message_no."""
    visible = content is None or isinstance(content, Text)
    return Event(
        more.pop("conversation_id", BOB), seq, seq if visible else 0, 1000 + seq, sender,
        1_795_567_558_000 + seq, more.pop("peer", "bob"),
        more.pop("kind", ConversationKind.DIRECT), content, **more,
    )  # fmt: skip


def conversation(last: int, unread: int, read: int = 0, **more: Any) -> Conversation:
    state = MemberState(
        MemberRole.MEMBER, read, unread, 0, MuteLevel.NONE, 0, False, False, False, ""
    )
    return Conversation(
        more.pop("conversation_id", BOB), more.pop("kind", ConversationKind.DIRECT), "",
        more.pop("peer", "bob"), last, last, event(last, Text(f"text {last}")), last, state, 2,
        None,
    )  # fmt: skip


@pytest.fixture
def model() -> Model:
    return Model("alice")


def texts(model: Model) -> list[str]:
    return [said.text for said in model.talks["@bob"].messages()]


def test_unread_counts_what_others_said_since_the_list_was_read(model: Model) -> None:
    model.conversation(conversation(last=5, unread=2, read=3))
    for seq in range(1, 6):
        model.event(event(seq, Text("of long ago")))
    assert model.talks["@bob"].unread == 2, "entries up to the list's position are counted in it"
    model.event(event(6, Text("new")))
    model.event(event(6, Text("new")))
    model.event(event(7, Text("my own"), sender="alice"))
    model.event(event(8, Reaction(6, "x")))
    assert model.talks["@bob"].unread == 3
    assert model.read(model.talks["@bob"]) == 7
    assert model.talks["@bob"].unread == 0
    assert model.read(model.talks["@bob"]) == 0, "said once"


def test_a_list_that_is_older_than_the_entries_does_not_undo_them(model: Model) -> None:
    model.event(event(6, Text("new")))
    model.conversation(conversation(last=5, unread=2))
    assert (model.talks["@bob"].unread, model.talks["@bob"].preview) == (1, "new")
    model.conversation(conversation(last=5, unread=0, read=6))
    assert model.talks["@bob"].unread == 0, "read on another device"


def test_pages_and_entries_in_any_order_read_the_same(model: Model) -> None:
    story = [
        event(1, Text("one")), event(2, Text("two")), event(3, Edit(1, Text("ONE"))),
        event(4, Text("four"), sender="alice"), event(5, Delete(2)), event(6, Reaction(1, "x")),
        event(7, Reaction(1, "x"), sender="alice"), event(8, Reaction(1, "x", removed=True)),
    ]  # fmt: skip
    page = HistoryPage([event(1, Text("one")), event(2, Text("two"))], more=False)
    for seed in range(20):
        model = Model("alice")
        talk = model.with_user("bob")
        talk.opened = True
        cut = random.Random(seed).randrange(len(story) + 1)
        for one in story[:cut]:
            model.event(one)
        model.history(talk, page)
        for one in story[cut:] + story[:3]:
            model.event(one)
        assert texts(model) == ["ONE", "", "four"]
        assert [said.kind for said in talk.messages()] == [Kind.TEXT, Kind.ERASED, Kind.TEXT]
        assert talk.reactions == {1: {"x": {"alice"}}}
        assert talk.has_more is False


def test_an_edit_of_a_message_that_is_not_loaded_waits_for_it(model: Model) -> None:
    talk = model.with_user("bob")
    talk.opened = True
    model.event(event(9, Edit(2, Text("TWO"))))
    model.history(talk, HistoryPage([event(2, Text("two"))], more=True))
    assert (texts(model), talk.has_more) == (["TWO"], True)


def test_a_message_waits_then_has_its_place_once(model: Model) -> None:
    talk = model.with_user("bob")
    talk.opened = True
    model.offered(talk, Waiting(b"k" * 16, "hello"), 5)
    model.event(event(1, Text("hello"), sender="alice", key=b"k" * 16))
    assert (texts(model), talk.waiting) == (["hello"], {})
    model.settled(b"k" * 16, Sent(1001, BOB, 1, 1, 1, 5))
    assert texts(model) == ["hello"]

    model.offered(talk, Waiting(b"l" * 16, "again"), 6)
    model.settled(b"l" * 16, Sent(1002, BOB, 2, 2, 2, 6))
    model.event(event(2, Text("again"), sender="alice", key=b"l" * 16))
    assert (texts(model), talk.waiting, model.by_id(BOB)) == (["hello", "again"], {}, talk)


def test_a_refused_message_stays_with_its_reason_until_the_next(model: Model) -> None:
    talk = model.with_user("bob")
    model.open_key = talk.key
    model.offered(talk, Waiting(b"k" * 16, "\x1b"), 5)
    model.settled(b"k" * 16, ContentRefused("holds a control character"))
    assert talk.waiting[b"k" * 16].refused == "holds a control character"
    model.drop_refused()
    assert not talk.waiting


def test_marks_of_a_direct_conversation_only_rise(model: Model) -> None:
    talk = model.with_user("bob")
    talk.opened = True
    model.event(event(3, Text("mine"), sender="alice"))
    said = talk.said[3]
    assert talk.mark_of(said) == (Mark.SENT, 0)
    model.receipt(Receipt(BOB, "bob", 3, 0))
    assert talk.mark_of(said) == (Mark.DELIVERED, 0)
    model.receipt(Receipt(BOB, "bob", 0, 3))
    assert talk.mark_of(said) == (Mark.READ, 1)
    model.receipt(Receipt(BOB, "bob", 2, 2))
    model.receipt(Receipt(BOB, "alice", 9, 9))
    model.receipt(Receipt(99, "bob", 9, 9))
    assert talk.mark_of(said) == (Mark.READ, 1)


def test_marks_of_a_large_group_are_counts(model: Model) -> None:
    group = {"conversation_id": GROUP, "peer": "", "kind": ConversationKind.GROUP}
    model.event(event(3, Text("mine"), sender="alice", **group))
    talk = model.talks[f"#{GROUP}"]
    talk.opened = True
    model.event(event(4, Text("mine too"), sender="alice", **group))
    said = talk.said[4]
    model.receipt(Receipt(GROUP, "", 4, 0, member_count=30))
    assert talk.mark_of(said)[0] == Mark.DELIVERED
    model.receipt(Receipt(GROUP, "", 0, 4, member_count=12))
    assert talk.mark_of(said) == (Mark.READ, 12)


def test_typing_ends_by_time_by_word_and_by_the_message(model: Model) -> None:
    model.event(event(1, Text("hello")))
    talk = model.talks["@bob"]
    model.typed(Typing(BOB, "bob", True, 2_000), now_ms=10_000)
    assert model.typing_over(11_999) is False
    assert talk.typing
    assert model.typing_over(12_000) is True
    model.typed(Typing(BOB, "bob", True), now_ms=20_000)
    model.typed(Typing(BOB, "bob", False), now_ms=20_001)
    assert not talk.typing
    model.typed(Typing(BOB, "bob", True), now_ms=30_000)
    model.event(event(2, Text("there")))
    model.typed(Typing(BOB, "alice", True), now_ms=30_000)
    assert not talk.typing


def test_unknown_presence_leaves_what_was_shown(model: Model) -> None:
    model.seen(Presence("bob", PresenceState.ONLINE))
    model.seen(Presence("bob", PresenceState.UNKNOWN))
    assert model.presence["bob"].is_online


def test_the_list_is_by_activity_below_what_is_pinned(model: Model) -> None:
    for number, peer in enumerate(("bob", "carol", "dave"), 1):
        model.conversation(conversation(number, 0, conversation_id=number, peer=peer))
    assert [talk.peer for talk in model.listed()] == ["dave", "carol", "bob"]
    pinned = conversation(1, 0, conversation_id=1)
    model.conversation(
        dataclasses.replace(pinned, state=dataclasses.replace(pinned.state, pinned=True))
    )
    assert [talk.peer for talk in model.listed()] == ["bob", "dave", "carol"]


def test_a_hidden_message_goes_from_the_screen(model: Model) -> None:
    talk = model.with_user("bob")
    talk.opened = True
    model.event(event(1, Text("one")))
    model.event(event(2, Text("two")))
    hidden = AccountChange("hidden", "", "hidden", BOB, 1)
    model.event(event(1, hidden, conversation_id=99, peer="alice", kind=ConversationKind.SELF))
    assert texts(model) == ["two"]
    assert set(model.talks) == {"@bob"}


def test_what_nobody_opened_is_counted_and_not_kept(model: Model) -> None:
    for seq in range(1, 500):
        model.event(event(seq, Text("x")))
    talk = model.talks["@bob"]
    assert (talk.unread, len(talk.said), len(talk.changes)) == (499, 0, 0)
