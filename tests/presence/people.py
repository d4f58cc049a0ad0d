"""People on a real mesh: a device with a session that stays, and calls without a session."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc

from chatmesh.embedded.running import RunningMesh
from chatmesh.v1 import (
    contacts_pb2,
    contacts_pb2_grpc,
    conversations_pb2,
    conversations_pb2_grpc,
    session_pb2,
    types_pb2,
)
from tests.chat_node.device import WAIT_SECONDS, Device
from tests.raw import bearer, new_key

PING_SECONDS = 3
Presence: TypeAlias = session_pb2.Presence
Action: TypeAlias = "contacts_pb2.UpdateContactRequest.Action.ValueType"
REQUEST = contacts_pb2.UpdateContactRequest.ACTION_REQUEST
ACCEPT = contacts_pb2.UpdateContactRequest.ACTION_ACCEPT
BLOCK = contacts_pb2.UpdateContactRequest.ACTION_BLOCK
UNBLOCK = contacts_pb2.UpdateContactRequest.ACTION_UNBLOCK
REMOVE = contacts_pb2.UpdateContactRequest.ACTION_REMOVE


class Person:
    """One user with one device."""

    def __init__(self, mesh: RunningMesh, name: str, node: int) -> None:
        self.user = name
        token = mesh.token(name)
        self.device = Device([mesh.public[node]], name, "phone", token)
        self.channel = grpc.aio.insecure_channel(
            mesh.public[node], options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self._metadata = bearer(token)
        self._contacts: contacts_pb2_grpc.ContactServiceAsyncStub = (
            contacts_pb2_grpc.ContactServiceStub(self.channel)
        )
        self._conversations: conversations_pb2_grpc.ConversationServiceAsyncStub = (
            conversations_pb2_grpc.ConversationServiceStub(self.channel)
        )
        self._pinging: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Sign in, and stay."""
        await self.device.open()
        self._pinging = asyncio.create_task(self._ping())

    async def close(self) -> None:
        """Be gone."""
        await self.hang_up()
        await self.channel.close()

    async def hang_up(self) -> None:
        """The device goes; calls without a session go on."""
        if self._pinging is not None:
            self._pinging.cancel()
            await asyncio.wait((self._pinging,))
            self._pinging = None
        await self.device.hang_up()

    async def contact(self, action: Action, other: Person) -> None:
        """UpdateContact."""
        request = contacts_pb2.UpdateContactRequest(
            idempotency_key=new_key(), user_id=other.user, action=action
        )
        await self._contacts.UpdateContact(request, metadata=self._metadata, timeout=30)

    async def befriend(self, other: Person) -> None:
        """Become contacts."""
        await self.contact(REQUEST, other)
        await other.contact(ACCEPT, self)

    async def privacy(self, **fields: Any) -> None:
        """UpdatePrivacy: `presence`, `last_seen`, `typing`."""
        request = contacts_pb2.UpdatePrivacyRequest(privacy=contacts_pb2.PrivacySettings(**fields))
        await self._contacts.UpdatePrivacy(request, metadata=self._metadata, timeout=30)

    async def contacts(self) -> dict[str, int]:
        """ListContacts: state by user."""
        answer = await self._contacts.ListContacts(
            contacts_pb2.ListContactsRequest(), metadata=self._metadata, timeout=30
        )
        return {contact.user_id: contact.state for contact in answer.contacts}

    async def asks(self, *users: str) -> list[Presence]:
        """GetPresence."""
        answer = await self._contacts.GetPresence(
            contacts_pb2.GetPresenceRequest(user_ids=users), metadata=self._metadata, timeout=30
        )
        return list(answer.presence)

    async def asks_until(self, user: str, wanted: Callable[[Presence], object]) -> Presence:
        """GetPresence until the answer is as wanted."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                (found,) = await self.asks(user)
                if wanted(found):
                    return found
                await asyncio.sleep(0.1)

    async def group(self, *others: Person) -> int:
        """Make a group."""
        request = conversations_pb2.CreateConversationRequest(
            idempotency_key=new_key(), title="g", member_user_ids=[one.user for one in others]
        )
        made = await self._conversations.CreateConversation(
            request, metadata=self._metadata, timeout=30
        )
        return made.conversation.conversation_id

    async def adds(self, conversation: int, other: Person) -> None:
        """Add to a group."""
        request = conversations_pb2.ChangeMembersRequest(
            idempotency_key=new_key(),
            conversation_id=conversation,
            change=types_pb2.MEMBERSHIP_CHANGE_ADDED,
            user_ids=[other.user],
        )
        await self._conversations.ChangeMembers(request, metadata=self._metadata, timeout=30)

    async def wishes(self, state: int, text: str | None = None) -> None:
        """SetPresence."""
        wish = session_pb2.SetPresence(state=types_pb2.PresenceState.ValueType(state))
        if text is not None:
            wish.status_text = text
        await self.device.say(set_presence=wish)

    async def types(self, conversation: int) -> None:
        """Type."""
        await self.device.say(
            typing=session_pb2.SetTyping(conversation_id=conversation, active=True)
        )

    def shown(self, user: str) -> list[Presence]:
        """What the session was told of a user on this connection."""
        return [
            presence
            for frame in self.device.frames
            for presence in frame.presence
            if presence.user_id == user
        ]

    async def sees(self, user: str, wanted: Callable[[Presence], object]) -> Presence:
        """Wait until the newest thing told of a user is as wanted."""
        await self.device.until(lambda: (told := self.shown(user)) and wanted(told[-1]))
        return self.shown(user)[-1]

    def saw_typing(self) -> set[str]:
        """Who was seen typing."""
        return {typing.user_id for frame in self.device.frames for typing in frame.typing}

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS)
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                # the stream may have ended: the test opens it again, or not
                if self.device.end is None and self.device.welcome is not None:
                    await self.device.say(ping=session_pb2.Ping(nonce=1))


Make: TypeAlias = "Callable[..., Awaitable[Person]]"


@asynccontextmanager
async def people_of(mesh: RunningMesh) -> AsyncIterator[Make]:
    """Makes people of this test alone, with a session each; they are gone afterwards."""
    suffix = uuid.uuid4().hex[:8]
    made: list[Person] = []

    async def make(name: str, node: int = 0) -> Person:
        person = Person(mesh, f"{name}-{suffix}", node)
        made.append(person)
        await person.open()
        return person

    try:
        yield make
    finally:
        for person in made:
            await person.close()
