"""Users and the audit log by unary calls, for back ends. Part of `UnaryClient`."""

from __future__ import annotations

from typing import Final, cast

from chatmesh.client import _users as u
from chatmesh.client._caller import Caller
from chatmesh.client._convert import enum_of
from chatmesh.client._values import SenderKind
from chatmesh.v1 import users_pb2 as pb
from chatmesh.v1.types_pb2 import SenderKind as KindNumber

_USERS: Final = "UserService"


class UserCalls(Caller):
    """Calls of UserService: the token needs the scope ``chatmesh.admin``, and the client no
    ``on_behalf_of``. All raise exceptions of `chatmesh.client.errors`."""

    async def user(self, user_id: str) -> u.User:
        """One user of the tenant.

        Raises:
            NotReachable: there is none.
        """
        request = pb.GetUserRequest(user_id=user_id)
        answer: pb.GetUserResponse = await self._call(
            _USERS, "GetUser", request, pb.GetUserResponse
        )
        return _user(answer.user)

    async def update_user(self, user_id: str, kind: SenderKind = SenderKind.UNKNOWN) -> u.User:
        """Make a user that never signed in, or change its kind (PERSON, BOT; UNKNOWN = leave)."""
        request = pb.UpdateUserRequest(
            user_id=user_id, kind=cast("KindNumber.ValueType", int(kind))
        )
        answer: pb.UpdateUserResponse = await self._call(
            _USERS, "UpdateUser", request, pb.UpdateUserResponse
        )
        return _user(answer.user)

    async def disable_user(self, user_id: str) -> None:
        """Switch a user off: sessions end and tokens are refused within 5 s."""
        request = pb.DisableUserRequest(user_id=user_id)
        await self._call(_USERS, "DisableUser", request, pb.DisableUserResponse)

    async def enable_user(self, user_id: str) -> None:
        """Switch a user on again."""
        request = pb.EnableUserRequest(user_id=user_id)
        await self._call(_USERS, "EnableUser", request, pb.EnableUserResponse)

    async def revoke_tokens(self, user_id: str) -> int:
        """Log a user out everywhere; tokens issued before the answer (ms since the Unix epoch) are
        refused."""
        request = pb.RevokeTokensRequest(user_id=user_id)
        answer: pb.RevokeTokensResponse = await self._call(
            _USERS, "RevokeTokens", request, pb.RevokeTokensResponse
        )
        return answer.not_before_ms

    async def delete_user(self, user_id: str) -> bool:
        """One step of erasing a user for ever; call again until it is True.

        Raises:
            NotReachable: there is no such user (any more).
        """
        request = pb.DeleteUserRequest(user_id=user_id)
        answer: pb.DeleteUserResponse = await self._call(
            _USERS, "DeleteUser", request, pb.DeleteUserResponse
        )
        return answer.done

    async def audit_records(
        self,
        *,
        action: u.AuditAction = u.AuditAction.UNKNOWN,
        user_id: str = "",
        after_record_no: int = 0,
        limit: int = 200,
    ) -> list[u.AuditRecord]:
        """The tenant's log, oldest first, at most `limit` (1 to 1,000); go on after the last.

        Args:
            action: only this.
            user_id: only records that name this user.
            after_record_no: only later ones.
            limit: how many.
        """
        request = pb.ListAuditRecordsRequest(
            action=cast("pb.AuditAction.ValueType", int(action)),
            user_id=user_id,
            after_record_no=after_record_no,
            page_size=limit,
        )
        answer: pb.ListAuditRecordsResponse = await self._call(
            _USERS, "ListAuditRecords", request, pb.ListAuditRecordsResponse
        )
        return [_record(one) for one in answer.records]


def _user(one: pb.User) -> u.User:
    return u.User(
        user_id=one.user_id,
        kind=enum_of(SenderKind, one.kind),
        disabled=one.disabled,
        created_at_ms=one.created_at_ms,
    )


def _record(one: pb.AuditRecord) -> u.AuditRecord:
    return u.AuditRecord(
        record_no=one.record_no,
        at_ms=one.at_ms,
        action=enum_of(u.AuditAction, one.action),
        actor=one.actor_id,
        user_id=one.user_id,
        conversation_id=one.conversation_id,
        detail=one.detail,
        hash=one.hash,
    )
