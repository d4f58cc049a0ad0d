"""The parts of the screen that are more than Textual's own: the history, and where one writes.

Rules: they know texts and ids, neither the model nor the SDK. No text is parsed as markup.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import OptionList, TextArea
from textual.widgets.option_list import Option

_PASTED_KEPT = "\n\t"


@dataclass(frozen=True, slots=True)
class Part:
    """One thing in a list: its id, how it looks, whether it can be chosen."""

    id: str
    text: Text
    can_choose: bool = True


class Listing(OptionList):
    """A list that changes in place: what stays keeps its highlight and its place on the screen."""

    def __init__(self, id: str) -> None:  # noqa: A002 - as Textual calls it
        super().__init__(markup=False, id=id)
        self.parts: list[Part] = []

    def show_parts(self, parts: list[Part]) -> None:
        """Make the list be these."""
        if parts == self.parts:
            return
        chosen = self.chosen_id
        before, self.parts = self.parts, parts
        common = len(before)
        if [part.id for part in parts[:common]] != [part.id for part in before]:
            self.set_options(Option(p.text, p.id, disabled=not p.can_choose) for p in parts)
            ids = [part.id for part in parts]
            self.highlighted = ids.index(chosen) if chosen in ids else None
            return
        for index, (old, new) in enumerate(zip(before, parts, strict=False)):
            if old.text != new.text:
                self.replace_option_prompt_at_index(index, new.text)
        self.add_options(Option(p.text, p.id, disabled=not p.can_choose) for p in parts[common:])

    @property
    def chosen_id(self) -> str:
        """Id of what is highlighted."""
        index = self.highlighted
        return self.parts[index].id if index is not None and index < len(self.parts) else ""

    def choose(self, part_id: str) -> None:
        """Highlight a part, if it is there."""
        for index, part in enumerate(self.parts):
            if part.id == part_id:
                self.highlighted = index


class History(Listing):
    """Messages. It follows the newest one until somebody scrolls up or chooses a message."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r,enter", "act('reply')", "reply"),
        Binding("e", "act('edit')", "edit"),
        Binding("d,delete", "act('delete')", "delete"),
        Binding("plus,a", "act('react')", "react", key_display="+"),
        Binding("escape", "act('back')", "write"),
    ]

    class Older(Message):
        """The reader is at the top."""

    @dataclass
    class Act(Message):
        """Something shall be done with the chosen message."""

        what: str
        part_id: str

    def __init__(self, id: str) -> None:  # noqa: A002 - as Textual calls it
        super().__init__(id)
        self.follows = True

    def show_parts(self, parts: list[Part]) -> None:
        """Make the history be these; who reads older ones stays where they are."""
        first = self.parts[0].id if self.parts else ""
        from_end = self.max_scroll_y - self.scroll_y
        super().show_parts(parts)
        if self.follows:
            self.call_after_refresh(self.scroll_end, animate=False)
        elif parts and parts[0].id != first:
            self.call_after_refresh(self._stay, from_end)

    def _stay(self, from_end: float) -> None:
        self.scroll_to(y=self.max_scroll_y - from_end, animate=False)

    def end(self) -> None:
        """Go to the newest message and stay there."""
        self.follows, self.highlighted = True, None
        self.scroll_end(animate=False)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Follow what scrolling means."""
        super().watch_scroll_y(old_value, new_value)
        if new_value < old_value:
            self.follows = False
        if new_value >= self.max_scroll_y:
            self.follows = True
        if new_value <= 0 < old_value:
            self.post_message(self.Older())

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel at the top asks for more."""
        if self.scroll_y <= 0:
            self.post_message(self.Older())

    def action_cursor_up(self) -> None:
        """One up; at the first message: load older ones, never jump to the end."""
        index = self.highlighted
        first = next((i for i, part in enumerate(self.parts) if part.can_choose), None)
        if index is not None and index == first:
            self.post_message(self.Older())
        elif index is None:
            self.action_last()
        else:
            super().action_cursor_up()

    def action_page_up(self) -> None:
        """A page up."""
        if self.scroll_y <= 0:
            self.post_message(self.Older())
        super().action_page_up()  # type: ignore[no-untyped-call]

    def action_cursor_down(self) -> None:
        """One down; below the last message is where one writes."""
        if self.highlighted is None or self.highlighted >= len(self.parts) - 1:
            self.action_act("back")
        else:
            super().action_cursor_down()

    def action_act(self, what: str) -> None:
        """Tell the application."""
        self.post_message(self.Act(what, self.chosen_id))


class Composer(TextArea):
    """Where one writes: enter sends, ctrl+j (or shift+enter, where the terminal tells) breaks."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "send"),
        Binding("ctrl+j,shift+enter,alt+enter", "break", "new line"),
        Binding("escape", "cancel", "cancel", show=False),
    ]

    @dataclass
    class Submitted(Message):
        """Send this."""

        text: str

    class Cancelled(Message):
        """No reply, no edit."""

    class Upwards(Message):
        """Up in an empty composer: to the messages."""

    async def _on_key(self, event: events.Key) -> None:
        """Keys in their order: a priority binding would overtake letters that wait here."""
        acts = {"enter": self.action_submit, "ctrl+j": self.action_break}
        acts |= dict.fromkeys(("shift+enter", "alt+enter"), self.action_break)
        if (act := acts.get(event.key)) is None:
            await super()._on_key(event)
            return
        event.stop()
        event.prevent_default()
        act()

    def action_submit(self) -> None:
        """Send what is written."""
        if text := self.text.strip():
            self.post_message(self.Submitted(text))

    def action_break(self) -> None:
        """A line break."""
        self.insert("\n")

    def action_cancel(self) -> None:
        """Tell the application."""
        self.post_message(self.Cancelled())

    def action_cursor_up(self, select: bool = False) -> None:
        """Up; from an empty composer into the history."""
        if self.text:
            super().action_cursor_up(select)
        else:
            self.post_message(self.Upwards())

    def action_cursor_page_up(self) -> None:
        """Page up reads older messages."""
        self.post_message(self.Upwards())

    async def _on_paste(self, event: events.Paste) -> None:
        """What is pasted may hold what no message may: control characters are left out."""
        event.text = "".join(
            letter
            for letter in event.text.replace("\r\n", "\n").replace("\r", "\n")
            if letter in _PASTED_KEPT or letter.isprintable() or letter in "\u200c\u200d"
        )
        await super()._on_paste(event)
