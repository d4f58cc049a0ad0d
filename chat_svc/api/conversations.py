"""ConversationService: check, convert, call, convert. No rule lives here."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Mapping
from typing import Final

from chat_svc.api import checks, convert
from chat_svc.api.callers import Caller
from chat_svc.api.parts import (
    IDS_OF_AN_EVENT,
    Context,
    UnaryParts,
    accounts_of,
    caller_of,
    carry_out,
    owner_of,
    request_of,
)
from chat_svc.api.storeless import outlives_the_store
from chat_svc.core.audit import AuditAction, Note
from chat_svc.core.membership import Change, Role
from chat_svc.core.searching import check_query
from chat_svc.store.conversations import ActivityCursor, ConversationView, MemberChange
from chat_svc.store.govern import Properties
from chat_svc.store.receipts import Mark
from chat_svc.store.search import NEWEST, HitPosition
from chatmesh import errors
from chatmesh.v1 import conversations_pb2 as pb
from chatmesh.v1.conversations_pb2_grpc import ConversationServiceServicer
from chatmesh.v1.types_pb2 import Conversation, ConversationPolicy, Event

MAX_CHANGED_USERS: Final = 100
_CURSOR: Final = struct.Struct(">qqq")
_IDS_OF_A_GROUP: Final = 4
_IDS_OF_A_CHANGE: Final = 2


@outlives_the_store
class ConversationApi(ConversationServiceServicer):
    """Conversations, members, history, own state."""

    def __init__(self, parts: UnaryParts) -> None:
        self._parts = parts
        self._store = parts.store

    async def CreateConversation(
        self, request: pb.CreateConversationRequest, context: Context
    ) -> pb.CreateConversationResponse:
        """Makes a group."""
        parts = self._parts
        who = await caller_of(parts, context)
        asked = request_of(parts, who, request.idempotency_key, request)
        properties = _properties(checks.title(request.title), request.policy)
        if len(request.member_user_ids) > parts.limits.max_group_members:
            raise errors.LIMIT_EXCEEDED(
                limit="max_group_members",
                value=parts.limits.max_group_members,
                size=len(request.member_user_ids),
            )
        members = await accounts_of(parts, who, request.member_user_ids)
        members.pop(who.account.id, None)
        commit = self._store.govern.create_group(
            asked,
            members,
            properties,
            max_members=parts.limits.max_group_members,
            ids=await parts.new_ids(_IDS_OF_A_GROUP),
        )
        done = await carry_out(parts, commit)
        if done.first is None:
            raise errors.NOT_FOUND()
        if done.events:
            await self._record(who, done.first.conversation, members, "CreateConversation added")
        view = self._store.conversations.view(who.account.id, done.first.conversation)
        return pb.CreateConversationResponse(conversation=await _seen(view, who))

    async def UpdateConversation(
        self, request: pb.UpdateConversationRequest, context: Context
    ) -> pb.UpdateConversationResponse:
        """Sets title or rules of a group."""
        parts = self._parts
        who = await caller_of(parts, context)
        asked = request_of(parts, who, request.idempotency_key, request)
        number = checks.conversation_id(request.conversation_id)
        title = checks.title(request.title) if request.HasField("title") else None
        properties = _properties(title, request.policy)
        if properties != Properties():
            commit = self._store.govern.update_group(
                asked, number, properties, ids=await parts.new_ids(_IDS_OF_A_CHANGE)
            )
            await carry_out(parts, commit)
        view = self._store.conversations.view(who.account.id, number)
        return pb.UpdateConversationResponse(conversation=await _seen(view, who))

    async def GetConversation(
        self, request: pb.GetConversationRequest, context: Context
    ) -> pb.GetConversationResponse:
        """One conversation, by id or by the other member."""
        who = await caller_of(self._parts, context)
        conversations = self._store.conversations
        if request.WhichOneof("which") == "peer_user_id":
            found = await self._parts.resolver.find_accounts(who.tenant, [request.peer_user_id])
            if request.peer_user_id not in found:
                raise errors.NOT_FOUND()
            peer = found[request.peer_user_id].id
            view = conversations.view_direct(who.account.id, peer)
        else:
            number = checks.conversation_id(request.conversation_id)
            view = conversations.view(who.account.id, number)
        return pb.GetConversationResponse(conversation=await _seen(view, who))

    async def ChangeMembers(
        self, request: pb.ChangeMembersRequest, context: Context
    ) -> pb.ChangeMembersResponse:
        """Members come, go, change role."""
        parts = self._parts
        who = await caller_of(parts, context)
        asked = request_of(parts, who, request.idempotency_key, request)
        number = checks.conversation_id(request.conversation_id)
        change, role = _change(request)
        targets = await accounts_of(parts, who, request.user_ids)
        commit = self._store.govern.change_members(
            asked,
            number,
            change,
            targets,
            role,
            max_members=parts.limits.max_group_members,
            ids=await parts.new_ids(_IDS_OF_A_CHANGE),
        )
        done = await carry_out(parts, commit)
        if done.first is None:
            return pb.ChangeMembersResponse()
        if done.events:
            detail = f"ChangeMembers {change.name.lower()}"
            if role is not Role.NONE:
                detail += f" role={role.name.lower()}"
            await self._record(who, done.first.conversation, targets, detail)
        return pb.ChangeMembersResponse(
            event=await self._event(who, done.first.conversation, done.first.conversation_seq)
        )

    async def ListMembers(
        self, request: pb.ListMembersRequest, context: Context
    ) -> pb.ListMembersResponse:
        """Members by user id."""
        who = await caller_of(self._parts, context)
        number = checks.conversation_id(request.conversation_id)
        limit = checks.page_size(request.page_size, 100, 1_000)
        tokens, query = self._parts.tokens, checks.query_of(request)
        state = tokens.open(who.account.id, query, request.page_token)
        rows = await self._store.conversations.list_members(
            who.account.id, number, after_user=(state or b"").decode(), limit=limit + 1
        )
        if rows is None:
            raise errors.NOT_FOUND()
        token = ""
        if len(rows) > limit:
            token = tokens.seal(who.account.id, query, rows[limit - 1].user_id.encode())
        return pb.ListMembersResponse(
            members=[convert.member(row) for row in rows[:limit]], next_page_token=token
        )

    async def ListConversations(
        self, request: pb.ListConversationsRequest, context: Context
    ) -> pb.ListConversationsResponse:
        """The caller's conversations by activity."""
        who = await caller_of(self._parts, context)
        tokens, query = self._parts.tokens, checks.query_of(request)
        state = tokens.open(who.account.id, query, request.page_token)
        views, following = await self._store.conversations.list_views(
            who.account.id,
            after=None if state is None else ActivityCursor(*_CURSOR.unpack(state)),
            limit=checks.page_size(request.page_size, 50, 200),
            include_archived=request.include_archived,
        )
        token = ""
        if following is not None:
            state = _CURSOR.pack(following.as_of_ms, following.active_at_ms, following.conversation)
            token = tokens.seal(who.account.id, query, state)
        return pb.ListConversationsResponse(
            conversations=[convert.conversation(view, who.user) for view in views],
            next_page_token=token,
        )

    async def ListMessages(
        self, request: pb.ListMessagesRequest, context: Context
    ) -> pb.ListMessagesResponse:
        """History as it reads now."""
        who = await caller_of(self._parts, context)
        thread = checks.position(
            request.thread_root_conversation_seq, "thread_root_conversation_seq"
        )
        if thread and request.pinned:
            raise errors.INVALID_FIELD("either a thread or what is pinned", field="pinned")
        page = await self._store.history.list_messages(
            who.account.id,
            checks.conversation_id(request.conversation_id),
            from_seq=checks.position(request.from_conversation_seq, "from_conversation_seq"),
            forward=request.forward,
            limit=checks.page_size(request.page_size, 50, 200),
            thread=thread,
            pinned=request.pinned,
        )
        if page is None:
            raise errors.NOT_FOUND()
        return pb.ListMessagesResponse(messages=convert.page_events(page), more=page.more)

    async def SearchMessages(
        self, request: pb.SearchMessagesRequest, context: Context
    ) -> pb.SearchMessagesResponse:
        """Hits among what the caller may see, newest first."""
        who = await caller_of(self._parts, context)
        wanted = check_query(request.query)
        number = checks.position(request.conversation_id, "conversation_id")
        limit = checks.page_size(request.page_size, 20, 100)
        tokens, query = self._parts.tokens, checks.query_of(request)
        state = tokens.open(who.account.id, query, request.page_token)
        page = await self._store.search.search(
            who.account.id,
            wanted,
            conversation=number,
            before=NEWEST if state is None else HitPosition(*_CURSOR.unpack(state)),
            limit=limit,
        )
        token = ""
        if page.following is not None:
            end = page.following
            state = _CURSOR.pack(end.created_at_ms, end.conversation, end.conversation_seq)
            token = tokens.seal(who.account.id, query, state)
        return pb.SearchMessagesResponse(
            hits=[convert.hit(one) for one in page.hits], next_page_token=token
        )

    async def UpdateMemberState(
        self, request: pb.UpdateMemberStateRequest, context: Context
    ) -> pb.UpdateMemberStateResponse:
        """Sets own state; the read mark only rises, and its receipts go out as from a session."""
        parts = self._parts
        who = await caller_of(parts, context)
        number = checks.conversation_id(request.conversation_id)
        change = _member_change(request)
        if request.HasField("read_message_no"):
            read = checks.position(request.read_message_no, "read_message_no")
            mark = Mark(number, who.account.id, read, 0)
            changed = await self._store.receipts.write_marks([mark])
            if changed:
                await parts.tell_marks(changed)
        state = await self._store.conversations.update_member_state(who.account.id, number, change)
        if state is None:
            raise errors.NOT_FOUND()
        if change != MemberChange():
            await parts.tell_account(who.account.id)
        return pb.UpdateMemberStateResponse(state=convert.member_state(state))

    async def HideMessage(
        self, request: pb.HideMessageRequest, context: Context
    ) -> pb.HideMessageResponse:
        """Delete for me: the caller's devices are told by an event of the self conversation."""
        parts = self._parts
        who = await caller_of(parts, context)
        number = checks.conversation_id(request.conversation_id)
        seq = checks.position(request.conversation_seq, "conversation_seq")
        commit = self._store.self_log.hide(
            owner_of(parts, who), number, seq, ids=await parts.new_ids(IDS_OF_AN_EVENT)
        )
        done = await carry_out(parts, commit)
        if done.events:
            await parts.tell_account(who.account.id)
        return pb.HideMessageResponse()

    async def GetAccountState(
        self, request: pb.GetAccountStateRequest, context: Context
    ) -> pb.GetAccountStateResponse:
        """Own state since a version."""
        who = await caller_of(self._parts, context)
        since = checks.position(request.since_account_version, "since_account_version")
        # the version first: what changes in between is told again, never left out
        heads = await self._store.devices.heads([who.account.id])
        views = await self._store.conversations.changed_views(who.account.id, since)
        return pb.GetAccountStateResponse(
            conversations=[convert.conversation(view, who.user) for view in views],
            account_version=heads[who.account.id].account_version,
        )

    async def _record(
        self, who: Caller, number: int, targets: Mapping[int, str], detail: str
    ) -> None:
        """One audit record per member that came, went or changed role."""
        notes = [
            Note(AuditAction.MEMBERSHIP, who.actor, user, number, detail)
            for user in targets.values()
        ]
        await self._parts.record(who.account.tenant_id, *notes)

    async def _event(self, who: Caller, number: int, seq: int) -> Event | None:
        """An event that the caller may read; it may have left meanwhile and be past it."""
        row = await self._store.history.event_at(who.account.id, number, seq)
        return None if row is None else convert.event(row, "", row.conversation_kind)


async def _seen(view: Awaitable[ConversationView | None], who: Caller) -> Conversation:
    found = await view
    if found is None:
        raise errors.NOT_FOUND()
    return convert.conversation(found, who.user)


def _properties(title: str | None, policy: ConversationPolicy) -> Properties:
    for field, known in (
        ("join", ConversationPolicy.Join),
        ("history", ConversationPolicy.History),
    ):
        if getattr(policy, field) not in known.values():
            raise errors.INVALID_FIELD(field=f"policy.{field}")
    return Properties(title, policy.join or None, policy.history or None)


def _change(request: pb.ChangeMembersRequest) -> tuple[Change, Role]:
    """Raises Fault: INVALID_FIELD, LIMIT_EXCEEDED."""
    try:
        change, role = Change(request.change), Role(request.role)
    except ValueError:
        raise errors.INVALID_FIELD("the change or the role is not known", field="change") from None
    if not request.user_ids:
        raise errors.INVALID_FIELD("somebody must be named", field="user_ids")
    if len(request.user_ids) > MAX_CHANGED_USERS:
        raise errors.LIMIT_EXCEEDED(
            limit="user_ids", value=MAX_CHANGED_USERS, size=len(request.user_ids)
        )
    return change, role


def _member_change(request: pb.UpdateMemberStateRequest) -> MemberChange:
    """Raises Fault: INVALID_FIELD."""
    if request.mute not in range(4):
        raise errors.INVALID_FIELD(field="mute")
    return MemberChange(
        mute=request.mute or None,
        mute_until_ms=checks.position(request.mute_until_ms, "mute_until_ms"),
        pinned=request.pinned if request.HasField("pinned") else None,
        archived=request.archived if request.HasField("archived") else None,
        marked_unread=request.marked_unread if request.HasField("marked_unread") else None,
        draft=checks.draft(request.draft) if request.HasField("draft") else None,
    )
