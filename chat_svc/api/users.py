"""UserService: check, convert, call, convert. No rule lives here.

For back ends: every method needs the scope `chatmesh.admin`, and sees the token's tenant alone.
"""

from __future__ import annotations

import struct
from typing import Final

from chat_svc.api import checks
from chat_svc.api.callers import admin
from chat_svc.api.parts import Context, UnaryParts
from chat_svc.api.storeless import outlives_the_store
from chat_svc.core.audit import AuditAction, AuditRow, Note
from chat_svc.store.audit import AuditFilter
from chat_svc.store.erasure import Stage
from chat_svc.store.users import Changed, UserRow
from chatmesh import errors
from chatmesh.runtime.identity import MAX_USER_ID_CHARACTERS, Identity, is_clean_text
from chatmesh.v1 import users_pb2 as pb
from chatmesh.v1.types_pb2 import SenderKind
from chatmesh.v1.users_pb2_grpc import UserServiceServicer

MAX_ERASING_WORK: Final = 20_000
"""Rows that one DeleteUser looks at."""
_AFTER: Final = struct.Struct(">q")
_KINDS: Final = {SenderKind.SENDER_KIND_PERSON: "person", SenderKind.SENDER_KIND_BOT: "bot"}


@outlives_the_store
class UserApi(UserServiceServicer):
    """Users and the audit log."""

    def __init__(self, parts: UnaryParts) -> None:
        self._parts = parts
        self._users = parts.store.users

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> pb.GetUserResponse:
        """One user."""
        identity, _ = await admin(self._parts.resolver, context)
        return pb.GetUserResponse(user=await self._user(identity, request.user_id))

    async def UpdateUser(
        self, request: pb.UpdateUserRequest, context: Context
    ) -> pb.UpdateUserResponse:
        """Makes or changes one."""
        identity, _ = await admin(self._parts.resolver, context)
        user, kind = request.user_id, request.kind
        if not is_clean_text(user, MAX_USER_ID_CHARACTERS):
            raise errors.INVALID_FIELD("a user id is 1 to 128 characters", field="user_id")
        if kind and kind not in _KINDS:
            raise errors.INVALID_FIELD("a user is a person or a bot", field="kind")
        if await self._users.get(identity.tenant, user) is None:
            await self._parts.store.accounts.resolve_accounts(
                identity.tenant, [user], True, self._parts.new_ids
            )
        if kind:
            detail = f"UpdateUser kind={_KINDS[kind]}"
            await self._change(identity, user, detail, kind=int(kind))
        return pb.UpdateUserResponse(user=await self._user(identity, user))

    async def DisableUser(
        self, request: pb.DisableUserRequest, context: Context
    ) -> pb.DisableUserResponse:
        """Off."""
        identity, _ = await admin(self._parts.resolver, context)
        _not_oneself(identity, request.user_id)
        await self._change(identity, request.user_id, "DisableUser", disabled=True)
        return pb.DisableUserResponse()

    async def EnableUser(
        self, request: pb.EnableUserRequest, context: Context
    ) -> pb.EnableUserResponse:
        """On."""
        identity, _ = await admin(self._parts.resolver, context)
        await self._change(identity, request.user_id, "EnableUser", disabled=False)
        return pb.EnableUserResponse()

    async def RevokeTokens(
        self, request: pb.RevokeTokensRequest, context: Context
    ) -> pb.RevokeTokensResponse:
        """Log out everywhere, tokens included."""
        identity, _ = await admin(self._parts.resolver, context)
        done = await self._change(identity, request.user_id, "RevokeTokens", revoke=True)
        return pb.RevokeTokensResponse(not_before_ms=done.not_before_ms)

    async def DeleteUser(
        self, request: pb.DeleteUserRequest, context: Context
    ) -> pb.DeleteUserResponse:
        """Erase, in steps that together are bounded; each is durable, and may be run again."""
        identity, _ = await admin(self._parts.resolver, context)
        _not_oneself(identity, request.user_id)
        store = self._parts.store.erasure
        await self._change(identity, request.user_id, "DeleteUser begins", disabled=True)
        at = await store.begin(identity.tenant, request.user_id)
        if at is None:
            raise errors.NOT_REACHABLE()
        if at.stage is Stage.SESSIONS:
            if await self._parts.has_sessions(at.account):
                return pb.DeleteUserResponse()  # they are told, and end within seconds
            at = await store.move(at, Stage.RELATIONS)
        erased, work = 0, 0
        while at.stage is not Stage.ELSEWHERE:
            if work >= MAX_ERASING_WORK:
                return pb.DeleteUserResponse(erased_messages=erased)
            at, step = await store.step(at)
            erased, work = erased + step.erased_messages, work + step.work
        await self._parts.forget_elsewhere(at.account, at.user)
        await store.finish(at, identity.user_id)
        await self._parts.standing_changed(at.account)
        return pb.DeleteUserResponse(done=True, erased_messages=erased)

    async def ListAuditRecords(
        self, request: pb.ListAuditRecordsRequest, context: Context
    ) -> pb.ListAuditRecordsResponse:
        """The audit log. Its reading is recorded once, with the first page."""
        identity, own = await admin(self._parts.resolver, context)
        if request.action not in pb.AuditAction.values():
            raise errors.INVALID_FIELD(field="action")
        if request.user_id and not is_clean_text(request.user_id, MAX_USER_ID_CHARACTERS):
            raise errors.INVALID_FIELD(field="user_id")
        limit = checks.page_size(request.page_size, 200, 1_000)
        after = checks.position(request.after_record_no, "after_record_no")
        tokens, query = self._parts.tokens, checks.query_of(request)
        state = tokens.open(own.id, query, request.page_token)
        if state is None:
            note = Note(AuditAction.AUDIT_READ, identity.user_id, detail="ListAuditRecords")
            await self._parts.record(own.tenant_id, note)
        else:
            (after,) = _AFTER.unpack(state)
        wanted = AuditFilter(int(request.action), request.user_id, after)
        rows = await self._parts.store.audit.list(own.tenant_id, wanted, limit + 1)
        token = ""
        if len(rows) > limit:
            token = tokens.seal(own.id, query, _AFTER.pack(rows[limit - 1].record_no))
        return pb.ListAuditRecordsResponse(
            records=[_record(row) for row in rows[:limit]], next_page_token=token
        )

    async def _user(self, identity: Identity, user: str) -> pb.User:
        found = None
        if is_clean_text(user, MAX_USER_ID_CHARACTERS):
            found = await self._users.get(identity.tenant, user)
        if found is None:
            raise errors.NOT_REACHABLE()
        return _user(found)

    async def _change(
        self,
        identity: Identity,
        user: str,
        detail: str,
        *,
        disabled: bool | None = None,
        kind: int | None = None,
        revoke: bool = False,
    ) -> Changed:
        """Raises Fault: NOT_REACHABLE."""
        done = None
        if is_clean_text(user, MAX_USER_ID_CHARACTERS):
            done = await self._users.change(
                identity.tenant, user, actor=identity.user_id, detail=detail, disabled=disabled,
                kind=kind, revoke=revoke,
            )  # fmt: skip
        if done is None:
            raise errors.NOT_REACHABLE()
        await self._parts.standing_changed(done.account)
        return done


def _not_oneself(identity: Identity, user: str) -> None:
    """Who switches themself off could neither undo it nor finish it.

    Raises:
        Fault: INVALID_FIELD.
    """
    if user == identity.user_id:
        raise errors.INVALID_FIELD("another back end must do this", field="user_id")


def _user(row: UserRow) -> pb.User:
    return pb.User(
        user_id=row.user_id,
        kind=SenderKind.ValueType(row.kind),
        disabled=row.disabled,
        created_at_ms=row.created_at_ms,
    )


def _record(row: AuditRow) -> pb.AuditRecord:
    return pb.AuditRecord(
        record_no=row.record_no,
        at_ms=row.at_ms,
        action=pb.AuditAction.ValueType(row.action),
        actor_id=row.actor,
        user_id=row.user,
        conversation_id=row.conversation,
        detail=row.detail,
        hash=row.hash,
    )
