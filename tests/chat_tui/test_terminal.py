"""`chatmesh chat` on a real mesh: two screens, or a screen and a device by the SDK."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from textual import events

from chatmesh.cli.chat.screens import Search
from chatmesh.client import (
    Client,
    ContactAction,
    Delete,
    Edit,
    Entry,
    Message,
    Reaction,
    Text,
    Unsupported,
)
from chatmesh.testing import TcpProxy
from tests.chat_tui.terminals import Chat, Terminal
from tests.chat_tui.test_drawing import NAUGHTY, check

if TYPE_CHECKING:
    from chatmesh.embedded.running import RunningMesh

pytestmark = [pytest.mark.mesh]


@pytest.fixture
def chat(running_mesh: RunningMesh, tmp_path: Path) -> Chat:
    return Chat(running_mesh, tmp_path)


async def heard(entries: Any, kind: type[Any]) -> Entry:
    """The next entry of a kind."""
    async for entry in entries:
        if isinstance(entry.event.content, kind):
            return entry  # type: ignore[no-any-return]
    raise AssertionError("the client ended")


async def test_two_screens_talk(chat: Chat) -> None:
    async with chat.terminal("alice", "bob") as alice, chat.terminal("bob") as bob:
        await alice.write("hello Bob")
        await alice.until_shown("hello Bob", "✓")
        await bob.until_shown(chat.name("alice"), "hello Bob", " 1 ")
        await alice.until(lambda: "✓✓" in alice.text, "delivered")
        talk = alice.app.model.talks[f"@{chat.name('bob')}"]
        assert talk.mark_of(talk.messages()[0])[1] == 0, "nobody has read it"
        await bob.press("ctrl+down")
        await alice.until(lambda: talk.mark_of(talk.messages()[0])[1] == 1, "read")
        assert bob.app.model.open is not None
        await bob.until(lambda: bob.app.model.open.unread == 0, "no badge")  # type: ignore[union-attr]

        await bob.press("x")
        await alice.until_shown("typing…")
        await bob.press("backspace")
        await bob.write("hi Alice")
        await alice.until_shown("hi Alice")
        await alice.until_gone("typing…")
        await alice.until_shown("● ", "online")


async def test_what_is_typed_fast_is_sent_whole(chat: Chat) -> None:
    async with chat.client("bob") as bob, chat.terminal("alice", "bob") as alice:
        entries = bob.entries()
        keys = [events.Key(letter, letter) for letter in "abc"]
        keys += [events.Key("ctrl+j", None), events.Key("d", "d"), events.Key("enter", "\r")]
        for key in keys:  # all of them before the screen has seen the first
            alice.app.post_message(key)
        assert (await heard(entries, Text)).text == "abc\nd"
        await alice.until(lambda: not alice.composer.text, "an empty line")


async def test_a_second_screen_on_one_store_says_what_to_do(chat: Chat) -> None:
    async with (
        chat.terminal("alice", "bob"),
        chat.terminal("alice", "bob", is_online=False) as second,
    ):
        await second.until_shown("this session is over", "--store")
        await second.write("too late")
        assert second.composer.text == "too late", "what cannot go is not taken"


async def test_replies_edits_deletions_and_reactions(chat: Chat) -> None:
    async with chat.client("bob") as bob, chat.terminal("alice", "bob") as alice:
        entries = bob.entries()
        first = await bob.send(to_user=chat.name("alice"), text="shall we?")
        await alice.choose("shall we?")
        await alice.press("r")
        await alice.until_shown("reply to")
        await alice.write("yes")
        entry = await heard(entries, Text)
        entry = await heard(entries, Text) if entry.text == "shall we?" else entry
        assert (entry.text, entry.event.reply_to) == ("yes", first.conversation_seq)
        await alice.until_shown("│ ")

        await alice.choose("shall we?")
        await alice.press("plus")
        await alice.until_shown("React by")
        await alice.write("4")
        reaction = (await heard(entries, Reaction)).event.content
        assert reaction == Reaction(first.conversation_seq, "🎉")
        await alice.until_shown("🎉 1")

        await alice.choose("yes")
        await alice.press("e")
        assert alice.composer.text == "yes"
        alice.composer.load_text("")
        await alice.write("yes!")
        edit = (await heard(entries, Edit)).event.content
        assert edit == Edit(entry.event.conversation_seq, Text("yes!"))
        await alice.until_shown("yes!", "edited")

        await alice.choose("yes!")
        await alice.press("d")
        await alice.until_shown("Delete for everyone")
        await alice.press("y")
        assert (await heard(entries, Delete)).event.content == Delete(entry.event.conversation_seq)
        await alice.until_shown("deleted")
    async with chat.terminal("alice", "bob") as alice:  # reactions are not in the history
        await alice.until_shown("🎉 1", "deleted", "shall we?")


async def test_scrolling_up_loads_what_was_before(chat: Chat) -> None:
    async with chat.client("bob") as bob:
        texts = [f"line {number:03}" for number in range(120)]
        to = chat.name("alice")
        await bob.send_many([Message(Text(text), to_user=to) for text in texts])
        async with chat.terminal("alice", "bob") as alice:
            await alice.until_shown("line 119")
            loaded = alice.app.model.talks[f"@{chat.name('bob')}"]
            await alice.until(lambda: len(loaded.order) == 50, "the newest page")
            await alice.press("up")
            while loaded.has_more:
                before = len(loaded.order)
                await alice.press("home", "up")
                await alice.until(lambda: len(loaded.order) > before, "an older page")  # noqa: B023
            assert [said.text for said in loaded.messages()] == texts
            await alice.until(lambda: len(alice.history.parts) > len(texts), "drawn")
            await alice.press("home")
            await alice.until_shown("line 000")
            await bob.send(to_user=to, text="something new")
            await alice.until(lambda: len(loaded.order) == 121, "it came")
            assert "line 000" in alice.text, "who reads old messages stays there"
            await alice.press("escape")
            await alice.until_shown("something new")


async def test_what_was_written_offline_goes_once_after_a_restart(chat: Chat) -> None:
    async with (
        TcpProxy(chat.mesh.public[0]) as proxy,
        chat.client("bob") as bob,
    ):
        entries = bob.entries()
        target = f"127.0.0.1:{proxy.port}"
        async with chat.terminal("alice", "bob", target=target) as alice:
            await alice.write("before")
            assert (await heard(entries, Text)).text == "before"
            proxy.refuse()
            proxy.cut_all()
            await alice.until_shown("connection lost")
            await alice.write("while away")
            await alice.until_shown("while away", "waiting")
        async with chat.terminal("alice", "bob", target=target, is_online=False) as alice:
            await alice.until_shown("while away", "◷ waiting")
            proxy.heal()
            assert (await heard(entries, Text)).text == "while away"
            await alice.until(lambda: "◷" not in alice.text, "it went")
            await alice.write("after")
            assert (await heard(entries, Text)).text == "after", "the one before came once"
            await alice.until_gone("connecting")


async def test_groups_search_and_help(chat: Chat) -> None:
    async with chat.client("bob") as bob, chat.terminal("alice") as alice:
        await alice.press("f1")
        await alice.until_shown("Marks on your messages")
        await alice.press("escape", "ctrl+g")
        await alice.until_shown("Title of the group?")
        await alice.write("[red]friends[/]")
        await alice.until_shown("Who shall be in")
        await alice.write(chat.name("bob"))
        await alice.until_shown("# [red]friends[/]", chat.name("bob"))
        await alice.write("a pelican crosses")
        assert (await heard(bob.entries(), Text)).text == "a pelican crosses"
        await alice.until_shown("a pelican crosses")

        await alice.press("ctrl+n")
        await alice.until_shown("Write to which user?")
        await alice.write(chat.name("nobody"))
        await alice.until(lambda: alice.app.model.open_key == f"@{chat.name('nobody')}")
        await _search(alice, bob)


async def _search(alice: Terminal, bob: Client) -> None:
    """Where the server can search, the hit opens its conversation; else a line says it cannot."""
    await alice.press("ctrl+f")
    await alice.until_shown("Search in your conversations")
    try:
        await bob.search("pelican")
    except Unsupported:
        await alice.write("pelican")
        await alice.until_shown("This server cannot search.")
        return

    async def found() -> None:
        await alice.write("pelican")
        screen = alice.app.screen
        assert isinstance(screen, Search)
        await alice.until(lambda: screen.hits or "Nothing was found" in alice.text, "an answer")
        if not screen.hits:  # its index is filled behind the commit
            screen.query_one("#found").update("")  # type: ignore[attr-defined]
            await found()

    await found()
    await alice.until_shown("1 found")
    await alice.press("enter")
    await alice.until(lambda: alice.history.chosen_id.startswith("m"), "the message is chosen")
    await alice.until_shown("# [red]friends[/]", "a pelican crosses")


async def test_nothing_naughty_reaches_the_screen(chat: Chat) -> None:
    async with chat.client("bob") as bob:
        to = chat.name("alice")
        outcomes = await bob.send_many([Message(Text(text), to_user=to) for text in NAUGHTY])
        assert any(isinstance(one, Exception) for one in outcomes), "some the server refuses"
        for title in ("[@click=app.quit]\u202etitle", "a[/b]"):
            await bob.create_group(title, [to])
        async with chat.terminal("alice", "bob") as alice:
            await alice.until(lambda: len(alice.app.model.talks) >= 3, "listed")
            await alice.until(lambda: alice.history.parts, "messages")
            await alice.press("up")
            for _ in range(12):
                check(alice.text)
                await alice.press("pageup")
            assert alice.app.is_running


async def test_a_contact_is_asked_for_and_seen(chat: Chat) -> None:
    async with chat.client("carol") as carol, chat.terminal("alice", "carol") as alice:
        await alice.until_shown("ctrl+o asks")
        await alice.press("ctrl+o")
        await alice.until_shown("asked to be your contact")
        await carol.update_contact(chat.name("alice"), ContactAction.ACCEPT)
        await alice.until_shown("● ", "online")
    async with chat.client("dave") as dave, chat.terminal("alice", "dave") as alice:
        await dave.update_contact(chat.name("alice"), ContactAction.REQUEST)
        await alice.until_shown("wants to be your contact")
        await alice.press("ctrl+o")
        await alice.until_shown("● ", "online")


async def test_any_size_will_do(chat: Chat) -> None:
    async with chat.client("bob") as bob, chat.terminal("alice", "bob") as alice:
        await bob.send(to_user=chat.name("alice"), text="a long message, " * 20)
        await alice.until_shown("a long message")
        for width, height in ((20, 6), (8, 3), (1, 1), (50, 20), (200, 60)):
            await alice.pilot.resize_terminal(width, height)
            await alice.pilot.pause()
        await alice.until_shown("a long message", chat.name("bob"))
