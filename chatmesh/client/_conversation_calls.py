"""Conversations and history by unary calls. Part of `Client`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from chatmesh.client import _content as c
from chatmesh.client import _convert as convert
from chatmesh.client import _values as v
from chatmesh.client._caller import Caller
from chatmesh.v1 import conversations_pb2 as pb
from chatmesh.v1.types_pb2 import MemberRole as RoleNumber
from chatmesh.v1.types_pb2 import MembershipChange as ChangeNumber
from chatmesh.v1.types_pb2 import MuteLevel as MuteNumber

_SERVICE: Final = "ConversationService"


class ConversationCalls(Caller):
    """Calls of ConversationService. All raise exceptions of `chatmesh.client.errors`."""

    async def conversations(
        self, *, limit: int = 50, page_token: str = "", include_archived: bool = False
    ) -> v.Page:
        """The user's conversations, the most recently active first; 1 to 200 a page."""
        request = pb.ListConversationsRequest(
            page_size=limit, page_token=page_token, include_archived=include_archived
        )
        answer: pb.ListConversationsResponse = await self._call(
            _SERVICE, "ListConversations", request, pb.ListConversationsResponse
        )
        found = [convert.conversation(one, self._me) for one in answer.conversations]
        return v.Page(found, answer.next_page_token)

    async def conversation(
        self, conversation_id: int | None = None, *, with_user: str | None = None
    ) -> v.Conversation:
        """One conversation by its id, or the direct one with a user (oneself: the notes)."""
        _exactly_one(conversation_id, with_user)
        request = pb.GetConversationRequest()
        if conversation_id is not None:
            request.conversation_id = conversation_id
        else:
            request.peer_user_id = with_user or ""
        answer: pb.GetConversationResponse = await self._call(
            _SERVICE, "GetConversation", request, pb.GetConversationResponse
        )
        return convert.conversation(answer.conversation, self._me)

    async def history(
        self,
        conversation_id: int | None = None,
        *,
        with_user: str | None = None,
        before: int = 0,
        after: int | None = None,
        limit: int = 50,
        thread_root: int = 0,
        pinned: bool = False,
    ) -> v.HistoryPage:
        """Messages as they read now, by conversation_seq, rising.

        Args:
            conversation_id, with_user: which conversation; exactly one.
            before: towards older, from this conversation_seq (exclusive); 0 = the newest end.
            after: towards newer, from this one (exclusive); given: `before` is not read.
            limit: 1 to 200.
            thread_root: only this thread; 0 = all.
            pinned: only what is pinned now.
        """
        _exactly_one(conversation_id, with_user)
        if conversation_id is None:
            conversation_id = (await self.conversation(with_user=with_user)).conversation_id
        request = pb.ListMessagesRequest(
            conversation_id=conversation_id,
            from_conversation_seq=before if after is None else after,
            forward=after is not None,
            page_size=limit,
            thread_root_conversation_seq=thread_root,
            pinned=pinned,
        )
        answer: pb.ListMessagesResponse = await self._call(
            _SERVICE, "ListMessages", request, pb.ListMessagesResponse
        )
        return v.HistoryPage([convert.event(one, self._me) for one in answer.messages], answer.more)

    async def create_group(
        self, title: str, members: Sequence[str], *, policy: c.Policy | None = None
    ) -> v.Conversation:
        """Make a group; the user becomes its owner."""
        request = pb.CreateConversationRequest(
            idempotency_key=self._new_key(),
            title=title,
            member_user_ids=members,
            policy=convert.policy_message(policy) if policy else None,
        )
        answer: pb.CreateConversationResponse = await self._call(
            _SERVICE, "CreateConversation", request, pb.CreateConversationResponse
        )
        return convert.conversation(answer.conversation, self._me)

    async def update_group(
        self, conversation_id: int, *, title: str | None = None, policy: c.Policy | None = None
    ) -> v.Conversation:
        """Rename a group or change its rules."""
        request = pb.UpdateConversationRequest(
            idempotency_key=self._new_key(),
            conversation_id=conversation_id,
            policy=convert.policy_message(policy) if policy else None,
        )
        if title is not None:
            request.title = title
        answer: pb.UpdateConversationResponse = await self._call(
            _SERVICE, "UpdateConversation", request, pb.UpdateConversationResponse
        )
        return convert.conversation(answer.conversation, self._me)

    async def members(self, conversation_id: int) -> list[v.Member]:
        """Everyone in a conversation, by user id."""
        found: list[v.Member] = []
        page_token = ""
        while True:
            request = pb.ListMembersRequest(
                conversation_id=conversation_id, page_size=1000, page_token=page_token
            )
            answer: pb.ListMembersResponse = await self._call(
                _SERVICE, "ListMembers", request, pb.ListMembersResponse
            )
            found += [convert.member(one) for one in answer.members]
            page_token = answer.next_page_token
            if not page_token:
                return found

    async def add_members(
        self, conversation_id: int, users: Sequence[str], *, role: c.MemberRole | None = None
    ) -> v.Event | None:
        """Add users (or join, by oneself); the event that says so, None when nothing changed."""
        return await self._change(conversation_id, users, c.MembershipChange.ADDED, role)

    async def remove_members(self, conversation_id: int, users: Sequence[str]) -> v.Event | None:
        """Remove users."""
        return await self._change(conversation_id, users, c.MembershipChange.REMOVED, None)

    async def leave_group(self, conversation_id: int) -> v.Event | None:
        """Leave it."""
        return await self._change(conversation_id, [self._me], c.MembershipChange.REMOVED, None)

    async def set_role(
        self, conversation_id: int, users: Sequence[str], role: c.MemberRole
    ) -> v.Event | None:
        """Set what members may do."""
        return await self._change(conversation_id, users, c.MembershipChange.ROLE, role)

    async def _change(
        self,
        conversation_id: int,
        users: Sequence[str],
        change: c.MembershipChange,
        role: c.MemberRole | None,
    ) -> v.Event | None:
        request = pb.ChangeMembersRequest(
            idempotency_key=self._new_key(),
            conversation_id=conversation_id,
            change=cast("ChangeNumber.ValueType", int(change)),
            user_ids=users,
            role=cast("RoleNumber.ValueType", int(role or c.MemberRole.UNKNOWN)),
        )
        answer: pb.ChangeMembersResponse = await self._call(
            _SERVICE, "ChangeMembers", request, pb.ChangeMembersResponse
        )
        return convert.event(answer.event, self._me) if answer.HasField("event") else None

    async def update_conversation_state(
        self,
        conversation_id: int,
        *,
        read_message_no: int | None = None,
        mute: v.MuteLevel = v.MuteLevel.UNCHANGED,
        mute_until_ms: int = 0,
        pinned: bool | None = None,
        archived: bool | None = None,
        marked_unread: bool | None = None,
        draft: str | None = None,
    ) -> v.MemberState:
        """Set the user's own state in a conversation, on all devices; None = unchanged."""
        request = pb.UpdateMemberStateRequest(
            conversation_id=conversation_id,
            mute=cast("MuteNumber.ValueType", int(mute)),
            mute_until_ms=mute_until_ms,
        )
        wishes: Mapping[str, int | bool | str | None] = {
            "read_message_no": read_message_no, "pinned": pinned, "archived": archived,
            "marked_unread": marked_unread, "draft": draft,
        }  # fmt: skip
        for name, wish in wishes.items():
            if wish is not None:
                setattr(request, name, wish)
        answer: pb.UpdateMemberStateResponse = await self._call(
            _SERVICE, "UpdateMemberState", request, pb.UpdateMemberStateResponse
        )
        return convert.member_state(answer.state)

    async def changed_conversations(
        self, since_account_version: int
    ) -> tuple[list[v.Conversation], int]:
        """Conversations whose own state changed since a version, and the version it is as of."""
        answer: pb.GetAccountStateResponse = await self._call(
            _SERVICE, "GetAccountState",
            pb.GetAccountStateRequest(since_account_version=since_account_version),
            pb.GetAccountStateResponse,
        )  # fmt: skip
        found = [convert.conversation(one, self._me) for one in answer.conversations]
        return found, answer.account_version

    async def search(
        self, query: str, *, conversation_id: int = 0, limit: int = 20, page_token: str = ""
    ) -> v.SearchPage:
        """Search the user's conversations (or one), newest hits first.

        Args:
            query: words, "phrases", -without; at most 256 bytes.
            conversation_id: only this one; 0 = all.
            limit: 1 to 100.
            page_token: of the page before.
        """
        request = pb.SearchMessagesRequest(
            query=query, conversation_id=conversation_id, page_size=limit, page_token=page_token
        )
        answer: pb.SearchMessagesResponse = await self._call(
            _SERVICE, "SearchMessages", request, pb.SearchMessagesResponse
        )
        hits = [
            v.SearchHit(convert.event(hit.message, self._me), hit.highlight) for hit in answer.hits
        ]
        return v.SearchPage(hits, answer.next_page_token)

    async def hide_message(self, conversation_id: int, conversation_seq: int) -> None:
        """Hide one message on the user's own devices only."""
        request = pb.HideMessageRequest(
            conversation_id=conversation_id, conversation_seq=conversation_seq
        )
        await self._call(_SERVICE, "HideMessage", request, pb.HideMessageResponse)


def _exactly_one(conversation_id: int | None, with_user: str | None) -> None:
    if (conversation_id is None) == (with_user is None):
        raise ValueError("name exactly one of conversation_id and with_user")
