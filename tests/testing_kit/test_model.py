"""The small model keeps the rules that it stands for."""

import pytest

from chatmesh.testing.model import Model, Refused


def refused(reason: str) -> pytest.RaisesExc[Refused]:
    return pytest.RaisesExc(Refused, match=f"^{reason}$")


def test_one_conversation_a_pair_and_one_order_for_all() -> None:
    model = Model()
    chat = model.direct("alice", "bob")
    assert model.direct("bob", "alice") is chat
    model.send("alice", chat, "1", "hi")
    model.send("bob", chat, "1", "ho")
    assert model.timelines["alice"] == model.timelines["bob"]
    assert [said.conversation_seq for said in chat.events] == [1, 2]


def test_once_per_key() -> None:
    model = Model()
    chat = model.direct("alice", "bob")
    first = model.send("alice", chat, "1", "hi")
    assert model.send("alice", chat, "1", "hi") is first
    with refused("KEY_REUSED"):
        model.send("alice", chat, "1", "other")
    assert len(chat.events) == 1


def test_members_see_what_was_said_while_they_were_in() -> None:
    model = Model()
    chat = model.group("alice", ["bob"])
    model.send("alice", chat, "1", "before")
    model.add("alice", chat, "carol")
    model.send("alice", chat, "2", "between")
    model.remove("alice", chat, "bob")
    model.send("carol", chat, "3", "after")
    assert [said.body for said in model.timelines["carol"]] == ["carol", "between", "bob", "after"]
    assert chat.stays == {"alice": [(1, 0)], "bob": [(1, 6)], "carol": [(4, 0)]}
    assert [said.kind for said in model.timelines["bob"]][-1] == "removed"
    with refused("NOT_A_MEMBER"):
        model.send("bob", chat, "4", "gone")
    with refused("ROLE_REQUIRED"):
        model.add("carol", chat, "dave")


def test_blocks_hold_both_ways_in_direct_conversations() -> None:
    model = Model()
    chat = model.direct("alice", "bob")
    model.block("bob", "alice")
    for sender in ("alice", "bob"):
        with refused("NOT_REACHABLE"):
            model.send(sender, chat, "1", "hi")
    model.unblock("bob", "alice")
    model.send("alice", chat, "1", "hi")


def test_how_it_reads_now() -> None:
    model = Model()
    chat = model.direct("alice", "bob")
    model.send("alice", chat, "1", "helo")
    model.send("alice", chat, "2", "hello", kind="edit", target=1)
    model.send("bob", chat, "3", "+", kind="reaction", target=1)
    model.send("alice", chat, "4", "oops")
    model.send("alice", chat, "5", "", kind="delete", target=4)
    with refused("NOT_YOURS"):
        model.send("bob", chat, "6", "x", kind="edit", target=1)
    with refused("TARGET_UNKNOWN"):
        model.send("bob", chat, "7", "x", kind="edit", target=99)
    first, second = model.reads_now(chat)
    assert (first.body, first.reactions) == ("hello", frozenset({("bob", "+")}))
    assert second.body is None


def test_what_is_unread() -> None:
    model = Model()
    chat = model.group("alice", ["bob"])
    for number in range(3):
        model.send("alice", chat, f"{number}", "hi")
    model.send("alice", chat, "d", "", kind="delete", target=3)
    model.add("alice", chat, "carol")
    model.send("bob", chat, "b", "ho")
    assert [model.unread(user, chat) for user in ("alice", "bob", "carol")] == [1, 2, 1]
    model.mark_read("bob", chat, 2)
    model.mark_read("bob", chat, 1)
    assert model.unread("bob", chat) == 1
    model.block("carol", "bob")
    model.remove("bob", chat, "bob")
    assert [model.unread(user, chat) for user in ("bob", "carol")] == [0, 0]
