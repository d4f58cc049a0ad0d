"""The slow, single commit of groups: made, members, roles, titles, rules.

Rules (who may do what) are decided in Python by `core.membership` on a state that was read before;
the function in PostgreSQL locks as the fast commit does, compares `govern_version` and refuses a
state that changed meanwhile: then it is read and decided anew. So no lock is held over a round
trip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chat_svc.core.membership import Action, Change, Group, Join, Role, decide, require
from chat_svc.core.server_events import conversation_body, membership_body, policy_of
from chat_svc.store import calls
from chat_svc.store.commit import CommitStatus, EventKind
from chat_svc.store.conversations import GROUP
from chat_svc.store.governed import (
    MAX_TRIES,
    NOTHING,
    Governed,
    GovernedEvent,
    Request,
    earlier,
    fresh_key,
    outcomes,
)
from chatmesh import errors
from chatmesh.runtime.postgres import BytesArray, Database, Int2Array, Int8Array, UuidArray

HISTORY_SINCE_JOINED: Final = 1

_GROUP: Final = """
SELECT c.govern_version, c.join_policy, m.account, m.role
FROM chat.conversation c LEFT JOIN chat.member m ON m.conversation = c.id AND NOT m.gone
WHERE c.id = %s AND c.tenant = %s AND c.kind = 2
"""
_GOVERN: Final = """
SELECT * FROM chat.govern_1(%s::integer, %s::bigint, %s::bigint, %s::integer, %s, %s, %s,
  %s::bigint, %s, %s::text, %s::smallint, %s::smallint, %s, %s, %s, %s, %s::smallint, %s::bigint,
  %s::bigint)
"""


@dataclass(frozen=True, slots=True)
class Properties:
    """Title and rules; None = unchanged. Numbers as in `chatmesh.v1.ConversationPolicy`."""

    title: str | None = None
    join: int | None = None
    history: int | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """One call of the function."""

    conversation: int
    version: int
    """govern_version that was read; -1 = make it."""
    events: Sequence[tuple[EventKind, int, bytes]]
    """Kind, message id, body."""
    batch_id: int
    properties: Properties = Properties()
    added: Mapping[int, Role] | None = None
    removed: Sequence[int] = ()
    role_of: Sequence[int] = ()
    role: Role = Role.MEMBER


class GovernStore:
    """Changes of groups."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create_group(
        self,
        request: Request,
        members: Mapping[int, str],
        properties: Properties,
        *,
        max_members: int,
        ids: Sequence[int],
    ) -> Governed:
        """Make a group: the caller is its owner, the others members.

        Args:
            members: user ids by account, without the caller.
            ids: four fresh Snowflakes: the group, two events, the batch.

        Raises:
            Fault: NOT_REACHABLE, KEY_REUSED, LIMIT_EXCEEDED, NOT_FOUND (the caller is disabled).
        """
        repeated = await earlier(self._database, request)
        if repeated is not None:
            return repeated
        if len(members) + 1 > max_members:
            raise errors.LIMIT_EXCEEDED(
                limit="max_group_members", value=max_members, size=len(members) + 1
            )
        conversation, made_id, added_id, batch_id = ids
        whole = Properties(
            properties.title or "",
            properties.join or Join.ADMINS_ADD,
            properties.history or HISTORY_SINCE_JOINED,
        )
        policy = policy_of(whole.join, whole.history)
        made = conversation_body(created=True, title=whole.title, policy=policy)
        events = [(EventKind.CONVERSATION, made_id, made)]
        if members:
            added = membership_body(Change.ADDED, list(members.values()), Role.MEMBER)
            events.append((EventKind.MEMBERSHIP, added_id, added))
        plan = _Plan(
            conversation,
            -1,
            events,
            batch_id,
            whole,
            {request.actor: Role.OWNER, **dict.fromkeys(members, Role.MEMBER)},
        )
        done = await self._run(request, plan)
        if done is None:
            raise RuntimeError("the id of a new group is taken")
        return done

    async def change_members(
        self,
        request: Request,
        conversation: int,
        change: Change,
        targets: Mapping[int, str],
        role: Role,
        *,
        max_members: int,
        ids: Sequence[int],
    ) -> Governed:
        """Add, join, remove, leave, set a role.

        Args:
            targets: user ids by account, in the order of the request.
            ids: two fresh Snowflakes: event, batch.

        Raises:
            Fault: NOT_FOUND, ROLE_REQUIRED, LAST_OWNER, LIMIT_EXCEEDED, NOT_REACHABLE, KEY_REUSED,
                INVALID_FIELD.
        """
        repeated = await earlier(self._database, request)
        if repeated is not None:
            return repeated
        event_id, batch_id = ids
        for _ in range(MAX_TRIES):
            version, group = await self._group(request.tenant_id, conversation)
            decision = decide(group, request.actor, change, targets, role, max_members=max_members)
            if not decision.affected:
                return NOTHING
            body = membership_body(
                decision.change,
                [targets[account] for account in decision.affected],
                Role.NONE if decision.removed else decision.role,
            )
            plan = _Plan(
                conversation,
                version,
                [(EventKind.MEMBERSHIP, event_id, body)],
                batch_id,
                added=dict.fromkeys(decision.added, decision.role),
                removed=decision.removed,
                role_of=decision.roles,
                role=decision.role,
            )
            done = await self._run(request, plan)
            if done is not None:
                return done
        raise RuntimeError("the group changes faster than a change of it can be decided")

    async def update_group(
        self, request: Request, conversation: int, properties: Properties, *, ids: Sequence[int]
    ) -> Governed:
        """Set title (admins) or rules (owners).

        Args:
            ids: two fresh Snowflakes: event, batch.

        Raises:
            Fault: NOT_FOUND, ROLE_REQUIRED, KEY_REUSED.
        """
        repeated = await earlier(self._database, request)
        if repeated is not None:
            return repeated
        event_id, batch_id = ids
        policy = policy_of(properties.join, properties.history)
        body = conversation_body(created=False, title=properties.title, policy=policy)
        for _ in range(MAX_TRIES):
            version, group = await self._group(request.tenant_id, conversation)
            require(
                group,
                request.actor,
                Action.SET_TITLE if policy is None else Action.SET_POLICY,
            )
            event = (EventKind.CONVERSATION, event_id, body)
            plan = _Plan(conversation, version, [event], batch_id, properties)
            done = await self._run(request, plan)
            if done is not None:
                return done
        raise RuntimeError("the group changes faster than a change of it can be decided")

    async def _group(self, tenant_id: int, conversation: int) -> tuple[int, Group]:
        """govern_version and state. A group that is not there has no members: NOT_FOUND follows."""
        found = await calls.rows(self._database, _GROUP, (conversation, tenant_id))
        if not found:
            return 0, Group({}, Join.ADMINS_ADD)
        members = {account: Role(role) for _, _, account, role in found if account is not None}
        return found[0][0], Group(members, Join(found[0][1]))

    async def _run(self, request: Request, plan: _Plan) -> Governed | None:
        """None: the state that was decided upon is stale."""
        kinds, ids, bodies = zip(*plan.events, strict=True)
        keys = [request.key, *(fresh_key() for _ in bodies[1:])]
        added = plan.added or {}
        answer = await calls.rows(
            self._database,
            _GOVERN,
            (
                request.tenant_id,
                request.actor,
                plan.conversation,
                plan.version,
                Int8Array(ids),
                Int2Array(kinds),
                UuidArray(keys),
                request.content_hash,
                BytesArray(bodies),
                plan.properties.title,
                plan.properties.join,
                plan.properties.history,
                Int8Array(list(added)),
                Int2Array(list(added.values())),
                Int8Array(plan.removed),
                Int8Array(plan.role_of),
                plan.role,
                plan.batch_id,
                request.node_id,
            ),
        )
        stored = outcomes([request.actor] * len(bodies), answer)
        if stored is None:
            return None
        if stored[0].status is CommitStatus.REPEATED:
            return Governed(0, [], stored[0])
        events = [
            GovernedEvent(outcome, request.actor, request.actor_user, "", GROUP, key, body)
            for outcome, key, body in zip(stored, keys, bodies, strict=True)
        ]
        return Governed(plan.batch_id, events, stored[0])
