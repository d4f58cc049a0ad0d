"""The terminal client under Textual's pilot, against a real mesh.

Rules: nothing here waits for a duration; conditions have a generous deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Input

from chatmesh.cli.chat import prepare
from chatmesh.cli.chat.app import ChatApp
from chatmesh.cli.chat.widgets import Composer, History
from chatmesh.cli.speaking import Speaker
from chatmesh.client import Client

if TYPE_CHECKING:
    from chatmesh.embedded.running import RunningMesh

DEADLINE_SECONDS = 60
SIZE = (100, 30)


def text_of(screen: Screen[Any]) -> str:
    """What a screen shows, line by line."""
    strips = screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips)


def _said(drawn: str, words: str) -> bool:
    """Whether a message says it, quotes of other messages aside."""
    return any(words in line for line in drawn.split("\n") if "│" not in line)


class Terminal:
    """One running `chatmesh chat`."""

    def __init__(self, app: ChatApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def text(self) -> str:
        """What is on the screen."""
        return text_of(self.app.screen)

    @property
    def composer(self) -> Composer:
        """Where one writes."""
        return self.app.screen_stack[0].query_one(Composer)

    @property
    def history(self) -> History:
        """The messages."""
        return self.app.screen_stack[0].query_one(History)

    async def until(self, condition: Callable[[], Any], what: str = "") -> None:
        """Returns when it holds; fails with the screen when it does not within the deadline."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not condition():  # noqa: ASYNC110 - the screen sets no event
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"never: {what or condition}\n{self.text}") from None
        await self.pilot.pause()

    async def until_shown(self, *words: str) -> None:
        """Returns when all of them are on the screen."""
        await self.until(lambda: all(word in self.text for word in words), f"{words} shown")

    async def until_gone(self, word: str) -> None:
        """Returns when it is not on the screen."""
        await self.until(lambda: word not in self.text, f"{word!r} gone")

    async def press(self, *keys: str) -> None:
        """Keys, one after the other."""
        await self.pilot.press(*keys)

    async def write(self, text: str) -> None:
        """Text into what has the focus, then enter."""
        where = self.app.screen.focused
        if isinstance(where, Input):
            where.value = text
        else:
            self.composer.focus()
            self.composer.insert(text)
        await self.pilot.press("enter")

    async def choose(self, words: str) -> None:
        """Highlight the message with these words."""
        await self.until(lambda: self._part_with(words), f"{words!r} in the history")
        self.history.follows = False
        self.history.focus()
        self.history.choose(self._part_with(words))
        await self.pilot.pause()

    def _part_with(self, words: str) -> str:
        found = [part.id for part in self.history.parts if _said(part.text.plain, words)]
        return found[-1] if found else ""


class Chat:
    """Users that no other test has, on a mesh that tests share."""

    def __init__(self, mesh: RunningMesh, folder: Path) -> None:
        self.mesh = mesh
        self.folder = folder
        self.suffix = uuid.uuid4().hex[:12]

    def name(self, user: str) -> str:
        """The user's id here."""
        return f"{user}-{self.suffix}"

    def client(self, user: str, device: str = "phone", node: int = 0) -> Client:
        """A device of a user by the SDK."""
        token = self.mesh.token(self.name(user))
        return Client(self.mesh.public[node], token=token, device_id=device)

    @contextlib.asynccontextmanager
    async def terminal(
        self,
        user: str,
        to: str = "",
        *,
        target: str = "",
        file: str = "",
        size: tuple[int, int] = SIZE,
        is_online: bool = True,
    ) -> AsyncIterator[Terminal]:
        """`chatmesh chat --as USER TO`, connected unless `is_online` says otherwise."""
        token = self.mesh.token(self.name(user))

        async def give() -> str:
            return token

        who = Speaker(target or self.mesh.public[0], token, None)
        store = self.folder / (file or f"{user}.sqlite")
        app = prepare(who, give, store, me=self.name(user), user=self.name(to) if to else "")
        async with app.run_test(size=size) as pilot:
            terminal = Terminal(app, pilot)
            if is_online:
                await terminal.until(lambda: app.model.link.name == "ONLINE", "online")
            yield terminal
            await app.action_quit()
