"""What other people write is drawn as text, whatever it holds; and drawn within the width."""

from __future__ import annotations

import unicodedata

import pytest
from rich.text import Text as Drawn

from chatmesh.cli.chat import drawing
from chatmesh.cli.chat.model import Kind, Model, Said, Waiting
from chatmesh.client import (
    ConversationKind,
    Event,
    Presence,
    PresenceState,
    Reaction,
    SearchHit,
    Text,
    Typing,
)

NAUGHTY = [
    "\x1b[31mred\x1b[0m", "\x1b]0;a title\x07", "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x1b]52;c;ZXZpbA==\x07", "\x1bP$q\x1b\\", "\x1b[2J\x1b[H", "\x9b2J", "\x9d0;title\x9c",
    "\x1b[?1049l", "\x1b[6n", "\x1bc", "\x08\x08\x08overwritten", "\rover", "a\x00b", "\x07",
    "\u202eevil\u202c", "\u2066a\u2069", "\u200f\u200e", "\u061c", "\ufeff", "\u2028line\u2029",
    "\u00adsoft", "\U000e0041\U000e0042", "\ufff9a\ufffab\ufffb", "\ue000private\ue001",
    "[@click=app.quit]press me[/]", "[red]markup[/red]", "[/]", "[link=file:///etc/passwd]x[/link]",
    "$primary [b", "\\[b]", "Z\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308algo",
    "a" + "\u0489" * 1000, "👩\u200d🚀 żółw שלום مرحبا 你好 می\u200cخواهم", "e\u0301" * 50,
    "\t\ttabs", "\n\n\n", " ", "界" * 300, "x" * 5_000, "word " * 1_000, "\n".join("many" * 300),
]  # fmt: skip
ALLOWED = "\n\u200c\u200d"
WIDTHS = (20, 37, 80)
NOW = 1_795_567_558_132


def check(drawn: Drawn | str, width: int = 0) -> None:
    """Nothing that a terminal obeys, nothing that acts when it is clicked, no line too wide."""
    plain = drawn if isinstance(drawn, str) else drawn.plain
    for letter in plain:
        bad = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        assert not bad or letter in ALLOWED, f"U+{ord(letter):04X} in {plain[:80]!r}"
    marks = 0
    for letter in plain:
        marks = marks + 1 if unicodedata.category(letter) in ("Mn", "Me") else 0
        assert marks <= drawing.MAX_COMBINING
    if isinstance(drawn, Drawn):
        for span in drawn.spans:
            assert not getattr(span.style, "meta", None), "an action"
            assert "link" not in str(span.style)
        if width:
            assert all(line.cell_len <= width for line in drawn.split("\n"))


@pytest.mark.parametrize("number", range(len(NAUGHTY)))
def test_nothing_naughty_reaches_the_terminal(number: int) -> None:
    text = NAUGHTY[number]
    model = Model("alice")
    talk = model.with_user(text)
    talk.title = talk.preview = text
    talk.conversation_id, talk.members = 1, [text] * 3
    model.ids[1] = talk.key
    said = Said(1, 1, text, NOW, Kind.TEXT, text, reply_to=2)
    talk.keep(said)
    talk.keep(Said(2, 2, "alice", NOW, Kind.TEXT, text, edited=True))
    talk.keep(Said(3, 0, text, NOW, Kind.NOTE, text))
    talk.react("alice", Reaction(1, text))
    for width in WIDTHS:
        for one in talk.messages():
            check(drawing.message(model, talk, one, None, width), width)
        check(drawing.waiting(talk, Waiting(b"k", text, 1, refused=text), width), width)
        check(drawing.listed(model, talk, width), width)
    event = Event(1, 1, 1, 1, text, NOW, text, ConversationKind.DIRECT, Text(text))
    check(drawing.hit(model, SearchHit(event, f"\ue000{text}\ue001 {text}"), 60), 60)
    model.seen(Presence(text, PresenceState.ONLINE, status_text=text))
    check(drawing.head(model, talk, NOW))
    model.typed(Typing(1, text, True), NOW)
    check(drawing.head(model, talk, NOW))
    talk.typing.clear()
    talk.kind = ConversationKind.GROUP
    check(drawing.head(model, talk, NOW))
    model.problem = text
    check(drawing.banner(model))


def test_what_is_hidden_is_shown() -> None:
    assert drawing.safe("\x1b[31mred") == "\\x1b[31mred"
    assert drawing.safe("a\u202eb") == "a\\u202eb"
    assert drawing.safe_lines("one\r\ntwo\tthree") == ["one", "two    three"]


def test_own_messages_are_on_the_right_and_marked() -> None:
    model = Model("alice")
    talk = model.with_user("bob")
    mine, theirs = (Said(n, n, who, NOW, Kind.TEXT, "hi") for n, who in enumerate(("alice", "bob")))
    drawn = drawing.message(model, talk, mine, None, 60).plain
    assert drawn.startswith("   ")
    assert drawn.endswith("✓ ")
    first, second = drawing.message(model, talk, theirs, None, 60).plain.split("\n")
    assert (first, second.startswith(" hi  ")) == ("bob", True)
    assert "bob" not in drawing.message(model, talk, theirs, theirs, 60).plain, "said a moment ago"


def test_days_are_told_as_people_do() -> None:
    day_ms = 86_400_000
    assert drawing.day(NOW, NOW) == "today"
    assert drawing.day(NOW - day_ms, NOW) == "yesterday"
    assert "2026" in drawing.day(NOW - 5 * day_ms, NOW)


def test_a_very_long_message_says_how_much_more_there_is() -> None:
    model = Model("alice")
    talk = model.with_user("bob")
    said = Said(1, 1, "bob", NOW, Kind.TEXT, "\n".join(str(n) for n in range(500)))
    assert "… 300 more lines" in drawing.message(model, talk, said, None, 60).plain
