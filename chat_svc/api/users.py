"""UserService: check, convert, call, convert. No rule lives here.

For back ends: every method needs the scope `chatmesh.admin`, and sees the token's tenant alone.
"""

from __future__ import annotations

from chat_svc.api.callers import admin
from chat_svc.api.parts import Context, UnaryParts
from chat_svc.api.storeless import outlives_the_store
from chatmesh import errors
from chatmesh.v1 import users_pb2 as pb
from chatmesh.v1.users_pb2_grpc import UserServiceServicer


@outlives_the_store
class UserApi(UserServiceServicer):
    """Users and the audit log."""

    def __init__(self, parts: UnaryParts) -> None:
        self._parts = parts

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> pb.GetUserResponse:
        """One user."""
        admin(context)
        raise errors.UNIMPLEMENTED()

    async def UpdateUser(
        self, request: pb.UpdateUserRequest, context: Context
    ) -> pb.UpdateUserResponse:
        """Makes or changes one."""
        admin(context)
        raise errors.UNIMPLEMENTED()

    async def DisableUser(
        self, request: pb.DisableUserRequest, context: Context
    ) -> pb.DisableUserResponse:
        """Off."""
        admin(context)
        raise errors.UNIMPLEMENTED()

    async def EnableUser(
        self, request: pb.EnableUserRequest, context: Context
    ) -> pb.EnableUserResponse:
        """On."""
        admin(context)
        raise errors.UNIMPLEMENTED()

    async def RevokeTokens(
        self, request: pb.RevokeTokensRequest, context: Context
    ) -> pb.RevokeTokensResponse:
        """Log out everywhere, tokens included."""
        admin(context)
        raise errors.UNIMPLEMENTED()

    async def DeleteUser(
        self, request: pb.DeleteUserRequest, context: Context
    ) -> pb.DeleteUserResponse:
        """Erase, one bounded step."""
        admin(context)
        raise errors.UNIMPLEMENTED()

    async def ListAuditRecords(
        self, request: pb.ListAuditRecordsRequest, context: Context
    ) -> pb.ListAuditRecordsResponse:
        """The audit log."""
        admin(context)
        raise errors.UNIMPLEMENTED()
