"""Who calls on the public face, and for whom: the token's user, or the user a back end acts for."""

from dataclasses import dataclass
from typing import Any, Final

from chat_svc.node.resolver import Resolver
from chat_svc.store.accounts import AccountRow
from chatmesh import errors
from chatmesh.runtime.identity import Identity, current_identity

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


async def caller(resolver: Resolver, context: Any) -> Caller:
    """The call's account, made at first sight.

    Raises:
        Fault: SCOPE_REQUIRED, NOT_REACHABLE (no such user to act for), DEVICE_REFUSED (disabled).
    """
    identity = current_identity()
    wanted = [value for key, value in context.invocation_metadata() or () if key == ON_BEHALF_OF]
    if not wanted:
        row = await resolver.own_account(identity.tenant, identity.user_id)
        acting, user = "", identity.user_id
    else:
        if ACT_AS_SCOPE not in identity.scopes:
            raise errors.SCOPE_REQUIRED(scope=ACT_AS_SCOPE)
        user, acting = str(wanted[0]), identity.user_id
        found = await resolver.find_accounts(identity.tenant, [user])
        if user not in found:
            raise errors.NOT_REACHABLE()
        row = found[user]
    if row.disabled:
        raise errors.DEVICE_REFUSED()
    return Caller(identity.tenant, user, row, acting)


def admin(context: Any) -> Identity:
    """The back end that manages its tenant; it may not do so for somebody else.

    Raises:
        Fault: SCOPE_REQUIRED.
    """
    identity = current_identity()
    if ADMIN_SCOPE not in identity.scopes:
        raise errors.SCOPE_REQUIRED(scope=ADMIN_SCOPE)
    if any(key == ON_BEHALF_OF for key, _ in context.invocation_metadata() or ()):
        raise errors.SCOPE_REQUIRED("nobody may do this for somebody else", scope=ADMIN_SCOPE)
    return identity
