"""The screen: conversations on the left, one of them on the right, keys at the bottom.

Role: draws the model when it has changed, and turns keys into calls of the courier.
Rules: one redraw for any number of changes; no text of other people is ever markup; nothing here
waits for a server.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Final

from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Footer, Static, TextArea

from chatmesh import client as sdk
from chatmesh.cli.chat import drawing
from chatmesh.cli.chat.courier import Courier, now_ms
from chatmesh.cli.chat.memory import Reactions
from chatmesh.cli.chat.model import Kind, Link, Model, Said, Talk
from chatmesh.cli.chat.screens import Ask, Confirm, Help, Search
from chatmesh.cli.chat.widgets import Composer, History, Listing, Part

REDRAW_SECONDS: Final = 0.04
NARROW_COLUMNS: Final = 64
QUICK_REACTIONS: Final = ("👍", "❤️", "😂", "🎉", "😮", "😢")

_CSS = """
#talks { width: 30; height: 1fr; border: none; border-right: solid $panel; background: $surface; }
.narrow #talks { display: none; }
.narrow #talks:focus-within, .narrow.listing #talks { display: block; width: 1fr; }
.narrow.listing #right { display: none; }
#head { height: 1; padding: 0 1; background: $panel; }
#banner { display: none; height: auto; padding: 0 1; background: $warning; color: $text; }
#banner.shown { display: block; }
#messages { height: 1fr; border: none; background: $background; scrollbar-gutter: stable; }
#context { display: none; height: 1; padding: 0 1; background: $panel; color: $text-muted; }
#context.shown { display: block; }
#composer { height: auto; min-height: 3; max-height: 8; border: round $panel; }
#composer:focus { border: round $primary; }
Modal { align: center middle; }
.box { width: 60; max-width: 90%; height: auto; max-height: 90%; padding: 1 2;
       background: $surface; border: round $primary; overflow-y: auto; }
.wide { width: 92; }
#hits { height: auto; max-height: 20; border: none; }
"""


class ChatApp(App[None]):
    """`chatmesh chat`. Made with a client that nobody has entered yet."""

    CSS = _CSS
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "help", "help", priority=True),
        Binding("ctrl+n", "new", "new", priority=True),
        Binding("ctrl+g", "group", "group", priority=True),
        Binding("ctrl+f", "search", "search", priority=True),
        Binding("ctrl+o", "contact", "contact", priority=True, show=False),
        Binding("ctrl+up,alt+up", "step(-1)", "previous", priority=True, show=False),
        Binding("ctrl+down,alt+down", "step(1)", "next", priority=True, show=False),
        Binding("ctrl+q", "quit", "end", priority=False),  # after the enter that was typed before
    ]

    def __init__(
        self,
        client: sdk.Client,
        memory: Reactions,
        *,
        me: str = "",
        user: str = "",
        conversation_id: int = 0,
    ) -> None:
        """`user` or `conversation_id`: what to open first, if any."""
        super().__init__()
        self.model = Model(me)
        self.courier = Courier(client, self.model, memory, self._changed, self._told)
        self._first = (user, conversation_id)
        self._dirty = False
        self._lifetime: asyncio.Task[None] | None = None
        self._drafts: dict[str, str] = {}
        self._reply_to = 0
        self._editing = 0
        self._drawn_key = ""

    def compose(self) -> ComposeResult:
        """The parts of the screen."""
        with Horizontal():
            yield Listing(id="talks")
            with Vertical(id="right"):
                yield Static(id="head", markup=False)
                yield Static(id="banner", markup=False)
                yield History(id="messages")
                yield Static(id="context", markup=False)
                yield Composer(id="composer", show_line_numbers=False, soft_wrap=True)
        yield Footer()

    async def on_mount(self) -> None:
        """Connect, and open what was asked for."""
        self.theme = "tokyo-night"
        self.title = "chatmesh"
        self._composer.focus()
        self._lifetime = asyncio.create_task(self.courier.run(), name="chatmesh-chat")
        self._lifetime.add_done_callback(self._over)
        user, conversation_id = self._first
        if user:
            self.model.open_key = self.model.with_user(user).key
        elif conversation_id:
            self.model.open_key = f"#{conversation_id}"
            talk = Talk(self.model.open_key, conversation_id=conversation_id)
            talk.kind = sdk.ConversationKind.GROUP
            self.model.talks[talk.key], self.model.ids[conversation_id] = talk, talk.key
        self._changed()

    def _over(self, task: asyncio.Task[None]) -> None:
        """A defect ends the application with its traceback; all else is in the banner."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._handle_exception(error if isinstance(error, Exception) else Exception(error))

    async def action_quit(self) -> None:
        """Leave in good order: acks go out, what waits stays in the store."""
        self.courier.stop()
        if self._lifetime is not None:
            await asyncio.wait({self._lifetime})
        self.exit()

    async def on_unmount(self) -> None:
        """However it ends, the client is closed."""
        self.courier.stop()
        if self._lifetime is not None:
            await asyncio.wait({self._lifetime})

    # -- drawing -----------------------------------------------------------------------------------

    @property
    def _composer(self) -> Composer:
        return self.screen_stack[0].query_one(Composer)

    def _part(self, name: str, kind: type[Any]) -> Any:
        return self.screen_stack[0].query_one(name, kind)

    def _changed(self) -> None:
        if not self._dirty and self.is_running:
            self._dirty = True
            self.set_timer(REDRAW_SECONDS, self._draw)

    def _told(self, text: str) -> None:
        self.notify(drawing.safe(text), severity="warning", markup=False)

    def _draw(self) -> None:
        self._dirty = False
        if not self.is_running or not self.screen_stack:
            return
        model, now = self.model, now_ms()
        words = drawing.banner(model)
        banner = self._part("#banner", Static)
        banner.update(words)
        banner.set_class(bool(words), "shown")
        self._part("#head", Static).update(drawing.head(model, model.open, now))
        talks = self._part("#talks", Listing)
        width = max(12, talks.scrollable_content_region.width - 2)
        talks.show_parts(
            [Part(talk.key, drawing.listed(model, talk, width)) for talk in model.listed()]
        )
        if not talks.has_focus:
            talks.choose(model.open_key)
        self._draw_messages(now)

    def _draw_messages(self, now: int) -> None:
        history = self._part("#messages", History)
        talk = self.model.open
        if talk is None:
            history.show_parts([])
            return
        if talk.key != self._drawn_key:
            self._drawn_key = talk.key
            history.follows, history.highlighted = True, None
        history.show_parts(parts(self.model, talk, now, history.scrollable_content_region.width))
        self._read_if_seen(talk, history)

    def _read_if_seen(self, talk: Talk, history: History) -> None:
        looks = self.app_focus and len(self.screen_stack) == 1
        if looks and history.follows and talk.opened and talk.unread + talk.last_message_no:
            before = talk.unread
            self.courier.read(talk)
            if before:
                self._changed()

    def on_resize(self, event: events.Resize) -> None:
        """Everything is drawn for one width."""
        self.screen_stack[0].set_class(event.size.width < NARROW_COLUMNS, "narrow")
        self.call_after_refresh(self._changed)

    def on_app_focus(self) -> None:
        """The terminal is looked at."""
        self.courier.foreground(True)
        self._changed()

    def on_app_blur(self) -> None:
        """It is not: nothing is read, and presence may become away."""
        self.courier.foreground(False)

    # -- which conversation ------------------------------------------------------------------------

    def show(self, talk: Talk) -> None:
        """Open a conversation, keeping what was written in the one before."""
        composer = self._composer
        self._drafts[self.model.open_key] = composer.text
        self._no_context()
        composer.load_text(self._drafts.pop(talk.key, ""))
        self.screen_stack[0].remove_class("listing")
        self.courier.soon(self.courier.open(talk))
        composer.focus()

    def on_option_list_option_selected(self, event: Listing.OptionSelected) -> None:
        """Enter or a click in the list."""
        talk = self.model.talks.get(event.option_id or "")
        if event.option_list.id == "talks" and talk is not None:
            self.show(talk)
        elif event.option_list.id == "messages":
            self._act("reply", event.option_id or "")

    def action_step(self, by: int) -> None:
        """The conversation above or below."""
        listed = self.model.listed()
        keys = [talk.key for talk in listed]
        if listed:
            place = keys.index(self.model.open_key) + by if self.model.open_key in keys else 0
            self.show(listed[max(0, min(place, len(listed) - 1))])

    def action_new(self) -> None:
        """A conversation with a user."""

        def answered(user: str | None) -> None:
            if user:
                self.show(self.model.with_user(user))

        self.push_screen(Ask("Write to which user?", "user id"), answered)

    def action_group(self) -> None:
        """A group: its title, then its members."""

        def titled(title: str | None) -> None:
            if title:
                question = f"Who shall be in {drawing.safe(title)!r}?"
                self.push_screen(Ask(question, "user ids, with commas"), lambda m: made(title, m))

        def made(title: str, members: str | None) -> None:
            users = [user.strip() for user in (members or "").split(",") if user.strip()]
            if users:
                self.courier.soon(self._make_group(title, users))

        self.push_screen(Ask("Title of the group?", "title"), titled)

    async def _make_group(self, title: str, users: list[str]) -> None:
        self.show(await self.courier.group(title, users))

    def action_contact(self) -> None:
        """Ask the user of the open conversation to be a contact, or accept."""
        talk = self.model.open
        if talk is not None and talk.kind == sdk.ConversationKind.DIRECT:
            self.courier.soon(self.courier.contact(talk.peer))

    def action_search(self) -> None:
        """Words, then a message."""
        screen = Search(self.model, self.courier.search)

        def chosen(number: str | None) -> None:
            if number:
                self.courier.soon(self._jump(screen.hits[int(number)].message))

        self.push_screen(screen, chosen)

    async def _jump(self, event: sdk.Event) -> None:
        talk = await self.courier.reach(event)
        self._draw()
        history = self._part("#messages", History)
        history.follows = False
        history.focus()
        history.choose(f"m{event.conversation_seq}")
        if event.conversation_seq not in talk.said:
            self._told("that message is further back: scroll up")

    def action_help(self) -> None:
        """Keys and marks."""
        if len(self.screen_stack) == 1:
            self.push_screen(Help())

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Over an open box only the end is reachable."""
        return len(self.screen_stack) < 2 or action not in (
            "new", "group", "search", "contact", "step", "help"
        )  # fmt: skip

    # -- writing -----------------------------------------------------------------------------------

    def on_composer_submitted(self, event: Composer.Submitted) -> None:
        """Send, or make the edit."""
        talk = self.model.open
        if talk is None:
            self._told("no conversation is open: ctrl+n")
            return
        if self.model.link == Link.ENDED:
            self._told("this session is over: nothing more is sent")
            return
        self.model.drop_refused()
        if self._editing:
            self.courier.edit(talk, self._editing, event.text)
        else:
            self.courier.send(talk, event.text, self._reply_to)
        self._composer.load_text("")
        self._no_context()
        self._part("#messages", History).end()

    def on_composer_cancelled(self) -> None:
        """No reply, no edit."""
        if self._editing:
            self._composer.load_text("")
        self._no_context()
        self._part("#messages", History).end()

    def on_composer_upwards(self) -> None:
        """To the messages, the newest first."""
        history = self._part("#messages", History)
        if history.parts:
            history.focus()
            history.action_last()

    def on_text_area_changed(self, event: TextArea.Changed) -> None:
        """The others see that somebody types."""
        talk = self.model.open
        if talk is not None and not self._editing:
            self.courier.typing(talk, bool(event.text_area.text))

    # -- about a message ---------------------------------------------------------------------------

    def on_history_older(self) -> None:
        """The reader is at the top."""
        if (talk := self.model.open) is not None:
            self.courier.soon(self.courier.older(talk))

    def on_history_act(self, event: History.Act) -> None:
        """A key on a message."""
        self._act(event.what, event.part_id)

    def _act(self, what: str, part_id: str) -> None:
        talk = self.model.open
        if what == "back" or talk is None:
            self._composer.focus()
            self._part("#messages", History).end()
            return
        said = talk.said.get(int(part_id[1:])) if part_id.startswith("m") else None
        if said is None or said.kind in (Kind.NOTE, Kind.ERASED):
            return
        if what == "reply":
            self._reply_to, self._editing = said.conversation_seq, 0
            self._show_context(f"↩ reply to {drawing.safe(said.sender)}: {drawing.safe(said.text)}")
        elif what == "edit":
            self._edit(said)
        elif what == "delete":
            self._delete(talk, said)
        elif what == "react":
            self._react(talk, said)

    def _edit(self, said: Said) -> None:
        if said.sender != self.model.me or said.kind != Kind.TEXT:
            self._told("only your own texts can be edited")
            return
        self._editing, self._reply_to = said.conversation_seq, 0
        self._composer.load_text(said.text)
        self._composer.move_cursor(self._composer.document.end)
        self._show_context("✎ edit; escape leaves it as it is")

    def _delete(self, talk: Talk, said: Said) -> None:
        def answered(yes: str | None) -> None:
            if yes:
                self.courier.delete(talk, said.conversation_seq)

        words = drawing.safe(said.text)[:60]
        self.push_screen(Confirm(f"Delete for everyone: {words}"), answered)

    def _react(self, talk: Talk, said: Said) -> None:
        def answered(text: str | None) -> None:
            if text:
                number = int(text) - 1 if text.isascii() and text.isdigit() else -1
                quick = 0 <= number < len(QUICK_REACTIONS)
                self.courier.react(
                    talk, said.conversation_seq, QUICK_REACTIONS[number] if quick else text
                )

        known = "  ".join(f"{n} {emoji}" for n, emoji in enumerate(QUICK_REACTIONS, 1))
        self.push_screen(
            Ask(f"React by   {known}", "a number, an emoji, or a short code"), answered
        )

    def _show_context(self, words: str) -> None:
        context = self._part("#context", Static)
        context.update(words)
        context.set_class(True, "shown")
        self._composer.focus()

    def _no_context(self) -> None:
        self._reply_to = self._editing = 0
        self._part("#context", Static).set_class(False, "shown")


def parts(model: Model, talk: Talk, now: int, width: int) -> list[Part]:
    """The open conversation as a list: days, messages, and what waits."""
    found: list[Part] = []
    before: Said | None = None
    shown_day = ""
    for said in talk.messages():
        if (today := drawing.day(said.created_at_ms, now)) != shown_day:
            line = drawing.separator(said.created_at_ms, now, width)
            found.append(Part(f"d{said.conversation_seq}", line, can_choose=False))
            shown_day, before = today, None
        text = drawing.message(model, talk, said, before, width)
        found.append(Part(f"m{said.conversation_seq}", text))
        before = said
    found += [
        Part(f"w{one.key.hex()}", drawing.waiting(talk, one, width), can_choose=False)
        for one in talk.waiting.values()
    ]
    return found
