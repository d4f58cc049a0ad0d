"""Between the SDK and the model: brings what comes, takes away what the user offers.

Role: one task a stream of the SDK, each applying what it reads to the model; and one method for
each thing a user does. After a change it calls `changed`; what a person must hear goes to `told`.
Rules: knows no widget and no gRPC. An entry is applied (and its reaction written down) before the
next one is asked for, which acks it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from chatmesh import client as sdk
from chatmesh.cli.chat.memory import Reactions
from chatmesh.cli.chat.model import Link, Model, Talk, Waiting

_V = TypeVar("_V")

PAGE_MESSAGES: Final = 50
LISTED_PAGES: Final = 5
"""Of 200 conversations each; the others appear when something happens in them, or by search."""
TYPING_AGAIN_SECONDS: Final = 3.0
JUMP_PAGES: Final = 40
LEAVE_SECONDS: Final = 1.0
YIELD_ENTRIES: Final = 64


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Courier:
    """Lives as long as the screen; `run` ends when `stop` was called or the session is over."""

    def __init__(
        self,
        client: sdk.Client,
        model: Model,
        memory: Reactions,
        changed: Callable[[], None],
        told: Callable[[str], None],
    ) -> None:
        self.client = client
        self.model = model
        self._memory = memory
        self._changed = changed
        self._told = told
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sends: set[asyncio.Task[None]] = set()
        self._loading: set[str] = set()
        self._typed_at = 0.0
        self._version = 0

    # -- life --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Everything that goes on by itself. What ends the session for good is only shown."""
        try:
            async with self.client as client:
                self.model.me = client.user_id or self.model.me
                client.app_state("foreground")
                self._show_unanswered()
                await self._until_stopped(client)
        except sdk.ChatmeshError as error:
            self._ended(error)
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._memory.close()

    async def _until_stopped(self, client: sdk.Client) -> None:
        pumps: list[Coroutine[Any, Any, None]] = [
            self._entries(client),
            self._each(client.receipts(), self.model.receipt),
            self._each(client.presence(), self.model.seen),
            self._each(client.typing(), lambda said: self.model.typed(said, now_ms())),
            self._events(client),
            self._forget_typing(),
        ]
        tasks = [asyncio.create_task(pump) for pump in pumps]
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
            if self._sends:  # what was just written must reach the store
                await asyncio.wait(self._sends, timeout=LEAVE_SECONDS)
        finally:
            for task in (*tasks, stop):
                task.cancel()
            outcomes = await asyncio.gather(*tasks, stop, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    def stop(self) -> None:
        """Leave; what is unanswered stays in the store and goes in the next run."""
        self._stopping.set()

    def _ended(self, error: sdk.ChatmeshError) -> None:
        hint = "; a second screen of a user needs its own --store"
        is_store = isinstance(error, sdk.StoreFailed)
        self.model.link, self.model.problem = Link.ENDED, f"{error}{hint if is_store else ''}"
        self._changed()

    def _show_unanswered(self) -> None:
        for message in self.client.unanswered():
            talk = self._talk_of(message)
            if talk is not None and message.key and isinstance(message.content, sdk.Text):
                one = Waiting(message.key, message.content.body, message.reply_to)
                self.model.offered(talk, one, now_ms())
        self._changed()

    def _talk_of(self, message: sdk.Message) -> Talk | None:
        if message.to_user is not None:
            return self.model.with_user(message.to_user)
        return self.model.by_id(message.conversation_id or 0)

    # -- what comes --------------------------------------------------------------------------------

    async def _entries(self, client: sdk.Client) -> None:
        count = 0
        async for entry in client.entries():
            event = entry.event
            if isinstance(event.content, sdk.Reaction):
                await self._memory.remember(event.conversation_id, event.sender, event.content)
            self.model.event(event)
            if isinstance(event.content, sdk.AccountChange) and event.content.subject == "contacts":
                self._soon(self._refresh_contacts())
            self._changed()
            count += 1
            if count % YIELD_ENTRIES == 0:
                await asyncio.sleep(0)  # a long catch-up must leave the screen some time

    async def _each(self, values: AsyncIterator[_V], apply: Callable[[_V], None]) -> None:
        async for value in values:
            apply(value)
            self._changed()

    async def _events(self, client: sdk.Client) -> None:
        model = self.model
        async for event in client.events():
            match event:
                case sdk.Connected(session):
                    model.me = session.user_id
                    model.link, model.problem = Link.CATCHING_UP, ""
                    self._soon(self._refresh())
                case sdk.CaughtUp():
                    model.link = Link.ONLINE
                case sdk.Disconnected(error, _):
                    if model.link != Link.CONNECTING:
                        model.link = Link.LOST
                    model.problem = error.message if error else "closed"
                case sdk.SendSettled(key, outcome):
                    model.settled(key, outcome)
                case sdk.SnapshotTaken(snapshot):
                    self._replaced(snapshot)
                case sdk.AccountChanged():
                    self._soon(self._refresh_states())
            self._changed()

    def _replaced(self, snapshot: sdk.Snapshot) -> None:
        """Entries are missing for ever: what is shown is read anew."""
        for talk in self.model.talks.values():
            talk.said.clear()
            talk.order.clear()
            talk.opened = False
        for conversation in snapshot.conversations:
            self.model.conversation(conversation)
        if self.model.open is not None:
            self._soon(self.open(self.model.open))

    async def _forget_typing(self) -> None:
        while True:
            await asyncio.sleep(1)
            if self.model.typing_over(now_ms()):
                self._changed()

    async def _refresh(self) -> None:
        self._version = self.client.account_version
        page_token = ""
        for _ in range(LISTED_PAGES):
            page = await self.client.conversations(limit=200, page_token=page_token)
            for one in page.conversations:
                self.model.conversation(one)
            page_token = page.next_page_token
            if not page_token:
                break
        await self._refresh_contacts()
        self._show_unanswered_of_groups()
        if (talk := self.model.open) is not None:
            await self.open(talk)

    def _show_unanswered_of_groups(self) -> None:
        """Of a run before: their conversations were not known when this one began."""
        known = {key for talk in self.model.talks.values() for key in talk.waiting}
        for message in self.client.unanswered():
            talk = self._talk_of(message)
            if talk and message.key not in known and isinstance(message.content, sdk.Text):
                one = Waiting(message.key or b"", message.content.body, message.reply_to)
                self.model.offered(talk, one, now_ms())

    async def _refresh_contacts(self) -> None:
        found = await self.client.contacts()
        self.model.contacts = {one.user_id: one.state for one in found}

    async def _refresh_states(self) -> None:
        found, version = await self.client.changed_conversations(self._version)
        self._version = version
        for one in found:
            if not one.state.archived:
                self.model.conversation(one)

    # -- what the user does ------------------------------------------------------------------------

    def send(self, talk: Talk, text: str, reply_to: int = 0) -> None:
        """Say something; it waits in the store while there is no connection."""
        key = self.client.new_key()
        self.model.offered(talk, Waiting(key, text, reply_to), now_ms())
        self._offer(talk, sdk.Text(text), reply_to, key)

    def edit(self, talk: Talk, seq: int, text: str) -> None:
        """Replace an own message's text."""
        self._offer(talk, sdk.Edit(seq, sdk.Text(text)))

    def delete(self, talk: Talk, seq: int) -> None:
        """Blank a message for everyone."""
        self._offer(talk, sdk.Delete(seq))

    def react(self, talk: Talk, seq: int, reaction: str) -> None:
        """Set an own reaction, or take it back when it is set."""
        users = talk.reactions.get(seq, {}).get(reaction, ())
        self._offer(talk, sdk.Reaction(seq, reaction, self.model.me in users))

    def _offer(
        self, talk: Talk, content: sdk.Sendable, reply_to: int = 0, key: bytes | None = None
    ) -> None:
        to: dict[str, Any] = {"conversation_id": talk.conversation_id}
        if talk.kind != sdk.ConversationKind.GROUP and talk.peer:
            to = {"to_user": talk.peer}
        message = sdk.Message(content, reply_to=reply_to, key=key or self.client.new_key(), **to)
        task = self._soon(self._send(message))
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)
        self._typed_at = 0.0
        self._changed()

    async def _send(self, message: sdk.Message) -> None:
        try:
            sent = await self.client.send_message(message)
        except sdk.ClientClosed:
            return  # it is in the store
        except sdk.ChatmeshError as error:
            self.model.settled(message.key or b"", error)
            if not isinstance(message.content, sdk.Text):
                raise
        else:
            self.model.settled(message.key or b"", sent)
            talk = self.model.by_id(sent.conversation_id)
            if talk is not None and talk is self.model.open:
                self.client.watch(open_conversation_id=sent.conversation_id)
        self._changed()

    def typing(self, talk: Talk, active: bool) -> None:
        """The user types; told at most every few seconds."""
        now = time.monotonic()
        if not talk.conversation_id or (active and now - self._typed_at < TYPING_AGAIN_SECONDS):
            return
        if active or self._typed_at:
            self._say(lambda: self.client.set_typing(talk.conversation_id, active))
        self._typed_at = now if active else 0.0

    def read(self, talk: Talk) -> None:
        """The newest message of a conversation is on the screen."""
        if talk.conversation_id and (number := self.model.read(talk)):
            self._say(lambda: self.client.mark_read(talk.conversation_id, number))

    def foreground(self, is_so: bool) -> None:
        """Whether the user looks at the terminal."""
        self._say(lambda: self.client.app_state("foreground" if is_so else "background"))

    def _say(self, statement: Callable[[], None]) -> None:
        try:
            statement()
        except sdk.ChatmeshError:
            pass  # the session is over; the banner says so

    async def open(self, talk: Talk) -> None:
        """Show a conversation: its newest page, its members, its reactions."""
        self.model.open_key = talk.key
        self._changed()
        if talk.key in self._loading:
            return
        self._loading.add(talk.key)
        try:
            await self._load(talk)
        finally:
            self._loading.discard(talk.key)
        self._changed()

    async def _load(self, talk: Talk) -> None:
        if not talk.conversation_id:
            try:
                self.model.conversation(await self.client.conversation(with_user=talk.peer))
            except sdk.NotFound:
                talk.opened, talk.has_more = True, False
                self._say(lambda: self.client.watch(talk.peer))
                return
        talk.opened = True  # from now on live messages are kept; the page brings those before
        self._say(lambda: self.client.watch(open_conversation_id=talk.conversation_id))
        page = await self.client.history(talk.conversation_id, limit=PAGE_MESSAGES)
        self.model.history(talk, page)
        for user, reaction in await self._memory.of(talk.conversation_id):
            talk.react(user, reaction)
        self.model.members(talk, await self.client.members(talk.conversation_id))

    async def older(self, talk: Talk) -> bool:
        """One page of the time before; False when there is none."""
        if not talk.opened or not talk.has_more or not talk.order or talk.key in self._loading:
            return False
        self._loading.add(talk.key)
        try:
            page = await self.client.history(
                talk.conversation_id, before=talk.order[0], limit=PAGE_MESSAGES
            )
        finally:
            self._loading.discard(talk.key)
        self.model.history(talk, page)
        self._changed()
        return bool(page.messages)

    async def reach(self, event: sdk.Event) -> Talk:
        """Open the conversation of a found message, and read back until it is there."""
        talk = self.model.by_id(event.conversation_id)
        if talk is None:
            found = await self.client.conversation(event.conversation_id)
            talk = self.model.conversation(found)
        await self.open(talk)
        for _ in range(JUMP_PAGES):
            if event.conversation_seq in talk.said or not await self.older(talk):
                break
        return talk

    async def search(self, query: str) -> list[sdk.SearchHit]:
        """Messages with these words. Raises ChatmeshError; Unsupported: this server cannot."""
        return list((await self.client.search(query, limit=50)).hits)

    async def group(self, title: str, members: list[str]) -> Talk:
        """Make a group."""
        return self.model.conversation(await self.client.create_group(title, members))

    async def contact(self, user: str) -> None:
        """Ask a user to be a contact, or accept who asked."""
        incoming = self.model.contacts.get(user) == sdk.ContactState.INCOMING
        action = sdk.ContactAction.ACCEPT if incoming else sdk.ContactAction.REQUEST
        await self.client.update_contact(user, action)
        await self._refresh_contacts()
        self._changed()

    def soon(self, work: Awaitable[object]) -> None:
        """Do it in the background; a refusal is told to the user."""

        async def done() -> None:
            await work

        self._soon(done())

    def _soon(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await work
            except sdk.Unsupported:
                self._told("this server does not offer that")
            except sdk.ClientClosed:
                pass
            except sdk.ChatmeshError as error:
                self._told(str(error))
            self._changed()

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
