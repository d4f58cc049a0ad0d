"""Who calls on the public face, and for whom: the token's user, or the user a back end acts for."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from chat_svc.core.audit import AuditAction, Note
from chat_svc.node.resolver import Resolver
from chat_svc.store.accounts import AccountRow
from chatmesh import errors
from chatmesh.runtime.identity import Identity, current_identity
from chatmesh.runtime.interceptors import current_method

ON_BEHALF_OF: Final = "chatmesh-on-behalf-of"
ACT_AS_SCOPE: Final = "chatmesh.act_as"
ADMIN_SCOPE: Final = "chatmesh.admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """The account that a call is for."""

    tenant: str
    user: str
    account: AccountRow
    acting_user: str
    """The back end that acts for the user; empty = the user itself."""

    @property
    def actor(self) -> str:
        """Who does it."""
        return self.acting_user or self.user


Record: TypeAlias = "Callable[[int, Note], Awaitable[None]]"
"""Appends a record to a tenant's audit log: `AuditLog.record`."""

_told: ContextVar[Any] = ContextVar("acting was recorded", default=None)


def _is_first_look(context: Any) -> bool:
    """Whether this call asks for the first time: a call that is run again, because the store was
    away, is one call."""
    if _told.get() is context:
        return False
    _told.set(context)
    return True


async def caller(resolver: Resolver, context: Any, record: Record) -> Caller:
    """The call's account, made at first sight. Acting for somebody is recorded before it happens:
    one record per call, however many messages it carries.

    Raises:
        Fault: USER_DISABLED, TOKEN_REVOKED (the token's own user, back ends too), SCOPE_REQUIRED,
            NOT_REACHABLE (no such user to act for, or switched off).
    """
    identity = current_identity()
    own = await resolver.admit(identity)
    wanted = [value for key, value in context.invocation_metadata() or () if key == ON_BEHALF_OF]
    if not wanted:
        return Caller(identity.tenant, identity.user_id, own, "")
    if ACT_AS_SCOPE not in identity.scopes:
        raise errors.SCOPE_REQUIRED(scope=ACT_AS_SCOPE)
    user = str(wanted[0])
    row = (await resolver.find_accounts(identity.tenant, [user])).get(user)
    if row is None or row.disabled:
        raise errors.NOT_REACHABLE()
    if _is_first_look(context):
        note = Note(AuditAction.ACTED_FOR, identity.user_id, user, detail=current_method())
        await record(row.tenant_id, note)
    return Caller(identity.tenant, user, row, identity.user_id)


async def admin(resolver: Resolver, context: Any) -> tuple[Identity, AccountRow]:
    """The back end that manages its tenant, and its account; it may not do so for somebody else.

    Raises:
        Fault: USER_DISABLED, TOKEN_REVOKED, SCOPE_REQUIRED.
    """
    identity = current_identity()
    own = await resolver.admit(identity)
    if ADMIN_SCOPE not in identity.scopes:
        raise errors.SCOPE_REQUIRED(scope=ADMIN_SCOPE)
    if any(key == ON_BEHALF_OF for key, _ in context.invocation_metadata() or ()):
        raise errors.SCOPE_REQUIRED("nobody may do this for somebody else", scope=ADMIN_SCOPE)
    return identity, own
