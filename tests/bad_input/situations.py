"""Situations of tests/bad_input.toml: each makes what is needed and then does the one wrong thing.

What is wrong raises `AioRpcError`, or comes back as the `SendResult` that refuses it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import psycopg

from chatmesh.embedded.running import RunningMesh
from chatmesh.v1 import contacts_pb2 as contacts
from chatmesh.v1 import conversations_pb2 as conversations
from chatmesh.v1 import session_pb2 as session
from chatmesh.v1 import types_pb2 as types
from tests.raw import bearer, new_key, unary

DAY_MS = 86_400_000

T = TypeVar("T")


@dataclass(slots=True)
class Scene:
    """Two users who exist and are about to talk; `me` does the wrong thing."""

    mesh: RunningMesh
    channel: grpc.aio.Channel
    me: str
    other: str
    third: str

    async def call(self, user: str, method: str, request: Any, answer: type[T]) -> T:
        """A unary call as a user."""
        path = f"/chatmesh.v1.{method}"
        metadata = bearer(self.mesh.token(user))
        found: T = await unary(self.channel, path, request, answer, metadata)
        return found

    async def send(self, user: str, **fields: Any) -> session.SendResult:
        """One message; its result, refused or not."""
        fields.setdefault("idempotency_key", new_key())
        if "content" not in fields:
            fields["content"] = types.Content(text=types.TextContent(body="x"))
        request = session.SendMessagesRequest(messages=[types.OutgoingMessage(**fields)])
        answer = await self.call(
            user, "ChatService/SendMessages", request, session.SendMessagesResponse
        )
        return answer.results[0]

    async def said(self, user: str, **fields: Any) -> session.SendResult:
        """One message that is accepted."""
        result = await self.send(user, **fields)
        assert not result.HasField("problem"), result
        return result

    async def group(self, owner: str, *members: str) -> int:
        """A new group."""
        request = conversations.CreateConversationRequest(
            idempotency_key=new_key(), title="g", member_user_ids=members
        )
        answer = await self.call(
            owner,
            "ConversationService/CreateConversation",
            request,
            conversations.CreateConversationResponse,
        )
        return answer.conversation.conversation_id

    async def change(self, user: str, number: int, change: Any, *users: str) -> None:
        """Members come or go."""
        request = conversations.ChangeMembersRequest(
            idempotency_key=new_key(), conversation_id=number, change=change, user_ids=users
        )
        await self.call(
            user,
            "ConversationService/ChangeMembers",
            request,
            conversations.ChangeMembersResponse,
        )

    async def history(self, user: str, number: int) -> None:
        """Read a conversation."""
        request = conversations.ListMessagesRequest(conversation_id=number)
        await self.call(
            user, "ConversationService/ListMessages", request, conversations.ListMessagesResponse
        )

    async def entries(self, user: str, seq: int, message_id: int = 0) -> None:
        """Read a timeline after a cursor."""
        cursor = types.Cursor(timeline_seq=seq, message_id=message_id)
        await self.call(
            user,
            "ChatService/ListEntries",
            session.ListEntriesRequest(after=cursor),
            session.ListEntriesResponse,
        )

    async def change_stored(self, query: Any, *values: Any) -> None:
        """Make time pass in the store, as its owner."""
        async with await psycopg.AsyncConnection.connect(
            self.mesh.owner_url(), autocommit=True
        ) as connection:
            await connection.execute(query, values)


def edit(target: int) -> types.Content:
    return types.Content(
        edit=types.EditContent(target_conversation_seq=target, text=types.TextContent(body="new"))
    )


def deletion(target: int) -> types.Content:
    return types.Content(delete=types.DeleteContent(target_conversation_seq=target))


def reaction(target: int) -> types.Content:
    return types.Content(
        reaction=types.ReactionContent(target_conversation_seq=target, reaction="+1")
    )


Wrong = Callable[[], Awaitable[Any]]
"""Does the wrong thing. Returns a SendResult, or raises AioRpcError."""
Situation = Callable[[Scene], Awaitable[Wrong]]


async def no_member(scene: Scene) -> Wrong:
    number = await scene.group(scene.other, scene.third)
    return lambda: scene.send(scene.me, conversation_id=number)


async def removed_meanwhile(scene: Scene) -> Wrong:
    number = await scene.group(scene.other, scene.me)
    await scene.said(scene.me, conversation_id=number)
    await scene.change(scene.other, number, types.MEMBERSHIP_CHANGE_REMOVED, scene.me)
    return lambda: scene.send(scene.me, conversation_id=number)


async def history_of_no_member(scene: Scene) -> Wrong:
    number = await scene.group(scene.other, scene.third)
    return lambda: scene.history(scene.me, number)


async def edit_of_anothers(scene: Scene) -> Wrong:
    said = await scene.said(scene.other, to_user_id=scene.me)
    content = edit(said.conversation_seq)
    return lambda: scene.send(scene.me, to_user_id=scene.other, content=content)


async def deletion_of_anothers(scene: Scene) -> Wrong:
    number = await scene.group(scene.other, scene.me)
    said = await scene.said(scene.other, conversation_id=number)
    content = deletion(said.conversation_seq)
    return lambda: scene.send(scene.me, conversation_id=number, content=content)


async def late_edit(scene: Scene) -> Wrong:
    said = await scene.said(scene.me, to_user_id=scene.other)
    await scene.change_stored(
        "UPDATE chat.event SET created_at_ms = created_at_ms - %s"
        " WHERE conversation = %s AND conversation_seq = %s",
        2 * DAY_MS,
        said.conversation_id,
        said.conversation_seq,
    )
    content = edit(said.conversation_seq)
    return lambda: scene.send(scene.me, to_user_id=scene.other, content=content)


async def edit_of_disappeared(scene: Scene) -> Wrong:
    said = await scene.said(
        scene.me, to_user_id=scene.other, expires_at_ms=(time.time_ns() // 1_000_000) + DAY_MS
    )
    await scene.change_stored(
        "UPDATE chat.event SET expires_at_ms = 1 WHERE conversation = %s AND conversation_seq = %s",
        said.conversation_id,
        said.conversation_seq,
    )
    content = edit(said.conversation_seq)
    return lambda: scene.send(scene.me, to_user_id=scene.other, content=content)


async def reaction_flood(scene: Scene) -> Wrong:
    said = await scene.said(scene.other, to_user_id=scene.me)
    content = reaction(said.conversation_seq)
    messages = [
        types.OutgoingMessage(idempotency_key=new_key(), to_user_id=scene.other, content=content)
        for _ in range(100)
    ]
    answer = await scene.call(
        scene.me,
        "ChatService/SendMessages",
        session.SendMessagesRequest(messages=messages),
        session.SendMessagesResponse,
    )
    assert not any(result.HasField("problem") for result in answer.results)
    return lambda: scene.send(scene.me, to_user_id=scene.other, content=content)


async def too_many_members(scene: Scene) -> Wrong:
    return lambda: scene.group(scene.me, *(f"user-{n}" for n in range(1_001)))


async def joins_a_closed_group(scene: Scene) -> Wrong:
    number = await scene.group(scene.other, scene.me)
    await scene.change(scene.me, number, types.MEMBERSHIP_CHANGE_LEFT, scene.me)
    await scene.change(scene.other, number, types.MEMBERSHIP_CHANGE_ADDED, scene.me)
    return lambda: scene.change(scene.me, number, types.MEMBERSHIP_CHANGE_ADDED, scene.third)


async def blocked(scene: Scene) -> Wrong:
    await scene.said(scene.me, to_user_id=scene.other)
    request = contacts.UpdateContactRequest(
        idempotency_key=new_key(),
        user_id=scene.me,
        action=contacts.UpdateContactRequest.ACTION_BLOCK,
    )
    await scene.call(
        scene.other,
        "ContactService/UpdateContact",
        request,
        contacts.UpdateContactResponse,
    )
    return lambda: scene.send(scene.me, to_user_id=scene.other)


async def future_cursor(scene: Scene) -> Wrong:
    said = await scene.said(scene.me, to_user_id=scene.other)
    return lambda: scene.entries(scene.me, said.timeline_seq + 1)


async def foreign_cursor(scene: Scene) -> Wrong:
    said = await scene.said(scene.me, to_user_id=scene.other)
    return lambda: scene.entries(scene.me, said.timeline_seq, said.message_id + 1)


async def _page_token(scene: Scene) -> str:
    for _ in range(2):
        await scene.group(scene.other)
    await scene.group(scene.other, scene.me)
    request = conversations.ListConversationsRequest(page_size=1)
    answer = await scene.call(
        scene.other,
        "ConversationService/ListConversations",
        request,
        conversations.ListConversationsResponse,
    )
    assert answer.next_page_token
    return answer.next_page_token


async def foreign_token(scene: Scene) -> Wrong:
    request = conversations.ListConversationsRequest(
        page_size=1, page_token=await _page_token(scene)
    )
    return lambda: scene.call(
        scene.me,
        "ConversationService/ListConversations",
        request,
        conversations.ListConversationsResponse,
    )


async def token_of_another_query(scene: Scene) -> Wrong:
    request = conversations.ListConversationsRequest(
        page_size=1, page_token=await _page_token(scene), include_archived=True
    )
    return lambda: scene.call(
        scene.other,
        "ConversationService/ListConversations",
        request,
        conversations.ListConversationsResponse,
    )


def key_of(days: float) -> Situation:
    """A key made so many days from now."""

    async def situation(scene: Scene) -> Wrong:
        await scene.said(scene.me, to_user_id=scene.other)
        key = new_key(at_ms=time.time_ns() // 1_000_000 + int(days * DAY_MS))
        return lambda: scene.send(scene.me, to_user_id=scene.other, idempotency_key=key)

    return situation


async def reused_key(scene: Scene) -> Wrong:
    key = new_key()
    await scene.said(scene.me, to_user_id=scene.other, idempotency_key=key)
    content = types.Content(text=types.TextContent(body="another"))
    return lambda: scene.send(
        scene.me, to_user_id=scene.other, idempotency_key=key, content=content
    )


async def hides_of_others(scene: Scene) -> Wrong:
    number = await scene.group(scene.other, scene.third)
    said = await scene.said(scene.other, conversation_id=number)
    request = conversations.HideMessageRequest(
        conversation_id=number, conversation_seq=said.conversation_seq
    )
    return lambda: scene.call(
        scene.me,
        "ConversationService/HideMessage",
        request,
        conversations.HideMessageResponse,
    )


SITUATIONS: dict[str, Situation] = {
    "message to a group by somebody who is no member": no_member,
    "message to a group by a member who was removed meanwhile": removed_meanwhile,
    "history of a group by somebody who is no member": history_of_no_member,
    "edit of another's message": edit_of_anothers,
    "deletion of another's message by a member": deletion_of_anothers,
    "edit after the window": late_edit,
    "edit of a message that has disappeared": edit_of_disappeared,
    "reaction number 101 to one message": reaction_flood,
    "member number 1,001": too_many_members,
    "self-made member of a group that is not open": joins_a_closed_group,
    "message to somebody who blocks the sender": blocked,
    "cursor of the future": future_cursor,
    "cursor with the id of another entry": foreign_cursor,
    "page token of another user": foreign_token,
    "page token of another query": token_of_another_query,
    "key of 31 days ago": key_of(-31),
    "key of the day after tomorrow": key_of(2),
    "key that was used for another text": reused_key,
    "hiding a message that one may not read": hides_of_others,
}
