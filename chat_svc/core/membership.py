"""Who may do what in a group: a table of roles and actions, and the change that follows from it.

`decide` works on a state that was read before; the store compares that state under its locks, so
what is decided here is what is done, or is decided anew.

Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Final

from chatmesh import errors


class Role(IntEnum):
    """`chatmesh.v1.MemberRole` numbers; NONE: not a member."""

    NONE = 0
    MEMBER = 1
    ADMIN = 2
    OWNER = 3


class Join(IntEnum):
    """`chatmesh.v1.ConversationPolicy.Join` numbers."""

    ADMINS_ADD = 1
    MEMBERS_ADD = 2
    OPEN = 3


class Change(IntEnum):
    """`chatmesh.v1.MembershipChange` numbers."""

    ADDED = 1
    REMOVED = 2
    LEFT = 3
    ROLE = 4


class Action(Enum):
    """What a member may be allowed to do to a group or to another member."""

    ADD_MEMBER = "add somebody as a member"
    ADD_AS_LEADER = "add somebody as admin or owner"
    REMOVE_MEMBER = "remove a member"
    REMOVE_LEADER = "remove an admin or owner"
    SET_ROLE = "set a role"
    SET_TITLE = "set the title"
    SET_POLICY = "set join and history rules"


LEAST_ROLE: Final[Mapping[Action, Role]] = {
    Action.ADD_MEMBER: Role.ADMIN,  # MEMBER where the join rule says so
    Action.ADD_AS_LEADER: Role.OWNER,
    Action.REMOVE_MEMBER: Role.ADMIN,
    Action.REMOVE_LEADER: Role.OWNER,
    Action.SET_ROLE: Role.OWNER,
    Action.SET_TITLE: Role.ADMIN,
    Action.SET_POLICY: Role.OWNER,
}
"""The lowest role that may."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group as it was read."""

    members: Mapping[int, Role]
    """Current members by account."""
    join: Join

    def role_of(self, account: int) -> Role:
        """NONE when not a member."""
        return self.members.get(account, Role.NONE)


@dataclass(frozen=True, slots=True)
class Decision:
    """What changes. All empty: nothing does, and no event says so."""

    change: Change
    added: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    roles: tuple[int, ...] = ()
    """Whose role becomes `role`."""
    role: Role = Role.MEMBER
    affected: tuple[int, ...] = field(default=())
    """Accounts that the event names, in the order of the request."""


def require(group: Group, actor: int, action: Action) -> None:
    """Raises Fault: NOT_FOUND (not a member: it must not learn that the group exists),
    ROLE_REQUIRED."""
    role = group.role_of(actor)
    if role is Role.NONE:
        raise errors.NOT_FOUND()
    least = LEAST_ROLE[action]
    if action is Action.ADD_MEMBER and group.join is not Join.ADMINS_ADD:
        least = Role.MEMBER
    if role < least:
        raise errors.ROLE_REQUIRED(required=least.name.lower())


def decide(
    group: Group,
    actor: int,
    change: Change,
    targets: Collection[int],
    role: Role,
    *,
    max_members: int,
) -> Decision:
    """What a ChangeMembers call does.

    Args:
        targets: accounts, each once.
        role: for ADDED and ROLE; NONE = member (ADDED) or refused (ROLE).

    Raises:
        Fault: NOT_FOUND, ROLE_REQUIRED, LAST_OWNER, LIMIT_EXCEEDED, INVALID_FIELD.
    """
    alone = tuple(targets) == (actor,)
    if change is Change.ADDED:
        return _added(group, actor, targets, role or Role.MEMBER, alone, max_members)
    if change is Change.ROLE:
        return _role(group, actor, targets, role)
    if change is Change.LEFT and not alone:
        raise errors.INVALID_FIELD("only oneself leaves", field="user_ids")
    return _removed(group, actor, targets, alone)


def _added(
    group: Group, actor: int, targets: Collection[int], role: Role, alone: bool, most: int
) -> Decision:
    joins = alone and group.role_of(actor) is Role.NONE and group.join is Join.OPEN
    if not joins:
        require(group, actor, Action.ADD_MEMBER)
    if role > Role.MEMBER:
        if joins:
            raise errors.ROLE_REQUIRED(required=Role.OWNER.name.lower())
        require(group, actor, Action.ADD_AS_LEADER)
    new = tuple(account for account in targets if account not in group.members)
    if len(group.members) + len(new) > most:
        raise errors.LIMIT_EXCEEDED(
            limit="max_group_members", value=most, size=len(group.members) + len(new)
        )
    return Decision(Change.ADDED, added=new, role=role, affected=new)


def _removed(group: Group, actor: int, targets: Collection[int], alone: bool) -> Decision:
    if not alone:
        require(group, actor, Action.REMOVE_MEMBER)
        if any(group.role_of(account) > Role.MEMBER and account != actor for account in targets):
            require(group, actor, Action.REMOVE_LEADER)
    elif group.role_of(actor) is Role.NONE:
        raise errors.NOT_FOUND()
    gone = tuple(account for account in targets if account in group.members)
    left = {account: role for account, role in group.members.items() if account not in gone}
    _require_owner(left)
    change = Change.LEFT if alone else Change.REMOVED
    return Decision(change, removed=gone, affected=gone)


def _role(group: Group, actor: int, targets: Collection[int], role: Role) -> Decision:
    require(group, actor, Action.SET_ROLE)
    if role is Role.NONE:
        raise errors.INVALID_FIELD("a role is needed", field="role")
    if any(account not in group.members for account in targets):
        raise errors.NOT_REACHABLE()
    changed = tuple(account for account in targets if group.members[account] is not role)
    _require_owner({**group.members, **dict.fromkeys(changed, role)})
    return Decision(Change.ROLE, roles=changed, role=role, affected=changed)


def _require_owner(members: Mapping[int, Role]) -> None:
    """A group with members has at least one owner."""
    if members and Role.OWNER not in members.values():
        raise errors.LAST_OWNER()
