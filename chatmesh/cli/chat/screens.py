"""What lies over the conversation for a moment: a question, a confirmation, search, help.

Rules: each returns a plain value to who opened it; no text is parsed as markup.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from chatmesh import client as sdk
from chatmesh.cli.chat import drawing
from chatmesh.cli.chat.model import Model
from chatmesh.cli.chat.widgets import Listing, Part

HELP = """\
Everywhere
  ctrl+n          write to a user        ctrl+g    make a group
  ctrl+f          search                 ctrl+o    ask for, or accept, a contact
  ctrl+up, down   the conversation above or below (also alt+up, alt+down)
  tab             from list to messages to where you write
  f1  help        ctrl+q  end

Where you write
  enter           send                   ctrl+j    new line (or shift+enter)
  up, page up     to the messages        escape    no reply, no edit

On a message (up and down choose one)
  r, enter        reply                  e         edit, if it is yours
  d               delete for everyone    +         react; again takes it back
  up at the top   older messages         escape    back to writing

Marks on your messages
  ◷ waiting: goes by itself when there is a connection, even after a restart
  ✓ stored by the server     ✓✓ on a device of theirs     ✓✓ (bright) read
  ✗ refused: the reason stands beside it

In the list
  ● online   ◐ away   ⊖ do not disturb   ○ offline   # group   ✎ notes to yourself
"""


class Modal(ModalScreen[str]):
    """A box in the middle; escape leaves it with the empty string."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "close"),
        Binding("ctrl+q", "app.quit", "end", show=False),
    ]

    def action_leave(self) -> None:
        """Nothing was wanted."""
        self.dismiss("")


class Ask(Modal):
    """One line of input."""

    def __init__(self, question: str, hint: str = "") -> None:
        super().__init__()
        self._question, self._hint = question, hint

    def compose(self) -> ComposeResult:
        """Question and input."""
        with Vertical(classes="box"):
            yield Label(self._question, markup=False)
            yield Input(placeholder=self._hint)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Answered."""
        self.dismiss(event.value.strip())


class Confirm(Modal):
    """y or n; "y" is yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "yes", "yes"),
        Binding("n", "leave", "no"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """The question."""
        with Vertical(classes="box"):
            yield Label(self._question, markup=False)
            yield Label("y  yes      n  no", markup=False)

    def action_yes(self) -> None:
        """Yes."""
        self.dismiss("y")


class Help(Modal):
    """All keys and marks."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("f1,enter,q", "leave", "close", show=False)]

    def compose(self) -> ComposeResult:
        """The text."""
        with Vertical(classes="box wide"):
            yield Static(HELP, markup=False)


class Search(Modal):
    """Words, then hits; choosing one returns its place in the list of hits as a number."""

    def __init__(
        self, model: Model, search: Callable[[str], Awaitable[list[sdk.SearchHit]]]
    ) -> None:
        super().__init__()
        self._model, self._search = model, search
        self.hits: list[sdk.SearchHit] = []

    def compose(self) -> ComposeResult:
        """Input, a line that says what was found, hits."""
        with Vertical(classes="box wide"):
            yield Label("Search in your conversations", markup=False)
            yield Input(placeholder='words, "a phrase", -without')
            yield Static("", id="found", markup=False)
            yield Listing(id="hits")

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        """Look for it."""
        if not event.value.strip():
            return
        found = self.query_one("#found", Static)
        try:
            self.hits = await self._search(event.value)
        except sdk.Unsupported:
            found.update("This server cannot search.")
            return
        except sdk.ChatmeshError as error:
            found.update(drawing.safe(str(error)))
            return
        count = len(self.hits)
        found.update(f"{count} found" if count else "Nothing was found.")
        listing = self.query_one(Listing)
        width = max(20, listing.size.width - 4)
        listing.show_parts(
            [
                Part(str(number), drawing.hit(self._model, hit, width))
                for number, hit in enumerate(self.hits)
            ]
        )
        if self.hits:
            listing.highlighted = 0
            listing.focus()

    def on_option_list_option_selected(self, event: Listing.OptionSelected) -> None:
        """This one."""
        self.dismiss(event.option_id or "")
