"""The state as text: one function a thing on the screen.

Rules: pure; every text of other people goes through `safe` or `safe_lines`, and nothing is ever
parsed as markup: what comes back are rich texts with fixed lines, or plain strings.
"""

from __future__ import annotations

import datetime
import unicodedata
import zlib

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from chatmesh import client as sdk
from chatmesh.cli.chat.model import Kind, Link, Mark, Model, Said, Talk, Waiting
from chatmesh.cli.plain import shown

MAX_COMBINING = 4
"""Marks on one letter: more would paint over the lines above."""
MAX_LINES = 200
GROUPED_MS = 5 * 60_000
"""Messages of one sender within this time share a head."""

_COLOURS = ("#7aa2f7", "#bb9af7", "#7dcfff", "#e0af68", "#f7768e", "#73daca", "#ff9e64", "#c0caf5")
_OWN, _OTHER, _REFUSED = "on #1f3a5f", "on #2a2e42", "on #4a1f2a"
_DIM, _READ = "#8089b3", "#7dcfff"
_MARKS = {
    Mark.WAITING: "◷",
    Mark.REFUSED: "✗",
    Mark.SENT: "✓",
    Mark.DELIVERED: "✓✓",
    Mark.READ: "✓✓",
}
_DOTS = {
    sdk.PresenceState.ONLINE: ("●", "#9ece6a"),
    sdk.PresenceState.AWAY: ("◐", "#e0af68"),
    sdk.PresenceState.DO_NOT_DISTURB: ("⊖", "#f7768e"),
}
_WIDE = Console(width=1000, color_system=None, force_terminal=False, force_jupyter=False)


def safe_lines(text: str) -> list[str]:
    """The lines of a text of somebody else: control characters and bidi controls are shown, marks
    on one letter are limited, tabs are blanks."""
    text = text.replace("\r\n", "\n").replace("\t", "    ")
    return [_few_marks(shown(line)) for line in text.split("\n")]


def safe(text: str) -> str:
    """As `safe_lines`, in one line."""
    return _few_marks(shown(text.replace("\n", " ").replace("\t", " ")))


def _few_marks(line: str) -> str:
    kept: list[str] = []
    marks = 0
    for character in line:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        if marks <= MAX_COMBINING:
            kept.append(character)
    return "".join(kept)


def colour(user: str) -> str:
    """The same for a user everywhere."""
    return _COLOURS[zlib.crc32(user.encode("utf-8", "replace")) % len(_COLOURS)]


def clock(epoch_ms: int) -> str:
    """A time of day for the reader."""
    return _local(epoch_ms).strftime("%H:%M")


def day(epoch_ms: int, now_ms: int) -> str:
    """A day, as people say it."""
    then, today = _local(epoch_ms).date(), _local(now_ms).date()
    if then == today:
        return "today"
    if then == today - datetime.timedelta(days=1):
        return "yesterday"
    return f"{then:%A}, {then.day} {then:%B %Y}"


def _local(epoch_ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(epoch_ms / 1000, datetime.UTC).astimezone()


# -- the list of conversations --------------------------------------------------------------------


def listed(model: Model, talk: Talk, width: int) -> Text:
    """A conversation in the list: presence, name, unread; a second line with the newest words."""
    mark, style = _dot(model, talk)
    badge = f" {talk.unread} " if talk.unread else ""
    room = max(4, width - cell_len(mark) - cell_len(badge) - 2)
    name = Text(safe(talk.name), "bold" if talk.unread else "")
    name.truncate(room, overflow="ellipsis", pad=True)
    line = Text.assemble((mark, style), " ", name, " ")
    line.append(badge, "bold #16161e on #7aa2f7" if not talk.muted else "#c0caf5 on #3b4261")
    if talk.typing:
        under = Text("  typing…", "italic #9ece6a")
    else:
        under = Text(f"  {safe(talk.preview)}", _DIM)
    under.truncate(max(4, width - 1), overflow="ellipsis")
    return Text("\n").join([line, under])


def _dot(model: Model, talk: Talk) -> tuple[str, str]:
    if talk.kind == sdk.ConversationKind.GROUP:
        return "#", _DIM
    if talk.kind == sdk.ConversationKind.SELF:
        return "✎", _DIM
    known = model.presence.get(talk.peer)
    return _DOTS.get(known.state, ("○", _DIM)) if known else ("○", _DIM)


def head(model: Model, talk: Talk | None, now_ms: int) -> Text:
    """Above the messages: who it is, and what they do."""
    if talk is None:
        return Text("no conversation is open: choose one, or press ctrl+n", _DIM)
    mark, style = _dot(model, talk)
    line = Text.assemble((mark, style), " ", (safe(talk.name), "bold"), "  ")
    if talk.typing:
        names = ", ".join(safe(user) for user in sorted(talk.typing)[:3])
        verb = "is" if len(talk.typing) == 1 else "are"
        return line.append(f"{names} {verb} typing…", "italic #9ece6a")
    if talk.kind == sdk.ConversationKind.GROUP:
        names = ", ".join(safe(user) for user in talk.members[:12])
        more = f" and {len(talk.members) - 12} more" if len(talk.members) > 12 else ""
        return line.append(names + more, _DIM)
    if talk.kind == sdk.ConversationKind.SELF:
        return line.append("notes to yourself", _DIM)
    return line.append(_presence(model, talk.peer, now_ms), _DIM)


def _presence(model: Model, user: str, now_ms: int) -> str:
    said = model.presence.get(user)
    state = model.contacts.get(user)
    if state == sdk.ContactState.INCOMING:
        return "wants to be your contact: ctrl+o accepts"
    if state == sdk.ContactState.REQUESTED:
        return "asked to be your contact"
    if said is None or said.state == sdk.PresenceState.UNKNOWN:
        known = state == sdk.ContactState.ACCEPTED
        return (
            "" if known else "no contact of yours: ctrl+o asks, then you see each other's presence"
        )
    words = said.state.name.lower().replace("_", " ")
    if not said.is_online and said.last_seen_ms:
        seen = f"{day(said.last_seen_ms, now_ms)}, {clock(said.last_seen_ms)}"
        words = f"{words}, last seen {seen}"
    return f"{words} · {safe(said.status_text)}" if said.status_text else words


def banner(model: Model) -> str:
    """What is wrong with the connection; empty when nothing is."""
    waiting = sum(len(talk.waiting) for talk in model.talks.values())
    held = f" {waiting} waiting." if waiting else ""
    match model.link:
        case Link.CONNECTING:
            return f"⟳ connecting… {safe(model.problem)}"
        case Link.LOST:
            why = safe(model.problem)
            return f"⟳ connection lost ({why}). What you write waits, and goes by itself.{held}"
        case Link.ENDED:
            return f"✗ this session is over: {safe(model.problem)}. ctrl+q ends."
        case _:
            return ""


# -- messages -------------------------------------------------------------------------------------


def separator(epoch_ms: int, now_ms: int, width: int) -> Text:
    """Between days."""
    words = f" {day(epoch_ms, now_ms)} "
    side = "─" * max(0, (width - cell_len(words)) // 2)
    return Text(f"{side}{words}{side}", _DIM)


def message(model: Model, talk: Talk, said: Said, before: Said | None, width: int) -> Text:
    """One message as a bubble: one's own to the right, with marks."""
    if said.kind == Kind.NOTE:
        return _note(said, width)
    mine = said.sender == model.me
    joined = (
        before is not None
        and before.kind != Kind.NOTE
        and before.sender == said.sender
        and said.created_at_ms - before.created_at_ms < GROUPED_MS
    )
    top = None
    if not joined and not mine:
        top = Text(safe(said.sender) or "(erased account)", colour(said.sender))
        top.truncate(width, overflow="ellipsis")
    foot = Text(f"{'edited ' if said.edited else ''}{clock(said.created_at_ms)}", _DIM)
    if mine:
        mark, readers = talk.mark_of(said)
        foot.append(f" {_MARKS[mark]}", _READ if mark == Mark.READ else _DIM)
        if readers > 1:
            foot.append(f" {readers}", _READ)
    body = _body(said.kind, said.text)
    quote = _quote(talk, said.reply_to)
    bubble = _bubble(body, foot, quote, _OWN if mine else _OTHER, mine=mine, width=width)
    parts = [part for part in (top, bubble, _reactions(model, talk, said, width, mine)) if part]
    return Text("\n").join(parts)


def _note(said: Said, width: int) -> Text:
    line = Text(f"{safe(said.sender)} {safe(said.text)}", f"italic {_DIM}")
    line.truncate(width, overflow="ellipsis")
    line.pad_left(max(0, (width - line.cell_len) // 2))
    return line


def waiting(talk: Talk, one: Waiting, width: int) -> Text:
    """A message without an answer."""
    mark = Mark.REFUSED if one.refused else Mark.WAITING
    foot = Text(
        f"{_MARKS[mark]} {f'not sent: {safe(one.refused)}' if one.refused else 'waiting'}", _DIM
    )
    style = _REFUSED if one.refused else f"{_OWN} dim"
    quote = _quote(talk, one.reply_to)
    return _bubble(_body(Kind.TEXT, one.text), foot, quote, style, mine=True, width=width)


def _body(kind: Kind, text: str) -> Text:
    if kind == Kind.ERASED:
        return Text("deleted", f"italic {_DIM}")
    if kind == Kind.OTHER:
        return Text(f"({safe(text)})", f"italic {_DIM}")
    lines = safe_lines(text)
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"… {len(lines) - MAX_LINES} more lines"]
    return Text("\n".join(lines))


def _quote(talk: Talk, seq: int) -> Text | None:
    if not seq:
        return None
    said = talk.said.get(seq)
    words = f"{safe(said.sender)}: {safe(said.text)}" if said else "an earlier message"
    return Text(f"│ {words}", f"italic {_DIM}")


def _bubble(
    body: Text, foot: Text, quote: Text | None, style: str, *, mine: bool, width: int
) -> Text:
    """Lines of one width with a background; fixed, so that nothing is wrapped again."""
    room = max(8, width * 3 // 4 - 2)
    lines = list(body.wrap(_WIDE, room))
    if quote is not None:
        quote.truncate(room, overflow="ellipsis")
        lines.insert(0, quote)
    if lines and lines[-1].cell_len + foot.cell_len + 2 <= room:
        lines[-1] = Text.assemble(lines[-1], "  ", foot)
    else:
        lines += foot.wrap(_WIDE, room)
    widest = max(line.cell_len for line in lines)
    indent = " " * (max(0, width - widest - 2) if mine else 0)
    drawn = []
    for line in lines:
        filled = Text.assemble(" ", line, " " * (widest - line.cell_len + 1))
        filled.stylize_before(style)
        drawn.append(Text.assemble(indent, filled))
    return Text("\n").join(drawn)


def _reactions(model: Model, talk: Talk, said: Said, width: int, mine: bool) -> Text | None:
    found = talk.reactions.get(said.conversation_seq)
    if not found:
        return None
    line = Text()
    for reaction, users in found.items():
        style = "#e0af68" if model.me in users else _DIM
        line.append(f"{safe(reaction)} {len(users)}  ", style)
    line.truncate(max(8, width - 2), overflow="ellipsis")
    if mine:
        line.pad_left(max(0, width - line.cell_len))
    return line


def hit(model: Model, found: sdk.SearchHit, width: int) -> Text:
    """A line of search results, the found words bright."""
    event = found.message
    key = model.ids.get(event.conversation_id, "")
    talk = model.talks.get(key)
    where = safe(talk.name) if talk else f"#{event.conversation_id}"
    line = Text.assemble(
        (f"{_local(event.created_at_ms):%Y-%m-%d %H:%M} ", _DIM),
        (f"{where} ", "bold"), (f"{safe(event.sender)}: ", colour(event.sender)),
    )  # fmt: skip
    bright = False
    for part in found.highlight.replace("\ue001", "\ue000").split("\ue000"):
        line.append(safe(part), "bold #e0af68" if bright else "")
        bright = not bright
    line.truncate(max(8, width), overflow="ellipsis")
    return line
