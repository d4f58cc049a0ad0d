"""The slow commit of contacts and blocks: events of the owners' self conversations.

Decided by `core.contacts` on a standing that was read before and that the function in PostgreSQL
compares under its locks, as in `store.govern`. A block takes effect under the lock of its owner's
timeline head, which every commit to that account holds while it checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from chat_svc.core.contacts import ContactAction, ContactDecision, Line, Standing, decide
from chat_svc.core.server_events import account_body
from chat_svc.store import calls
from chat_svc.store.commit import CommitStatus
from chat_svc.store.conversations import SELF
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
from chatmesh.runtime.postgres import BytesArray, Database, Int8Array, UuidArray

_STANDING: Final = """
SELECT coalesce((SELECT state FROM chat.contact WHERE owner = %(me)s AND other = %(other)s), 0),
  coalesce((SELECT state FROM chat.contact WHERE owner = %(other)s AND other = %(me)s), 0),
  EXISTS (SELECT FROM chat.block WHERE owner = %(me)s AND blocked = %(other)s),
  EXISTS (SELECT FROM chat.block WHERE owner = %(other)s AND blocked = %(me)s)
"""
_CHANGE: Final = """
SELECT * FROM chat.contact_1(%s::integer, %s::bigint, %s::bigint, %s::smallint, %s::smallint, %s,
  %s, %s::smallint, %s::smallint, %s, %s, %s, %s::bigint, %s, %s::bigint, %s::bigint)
"""


class RelationStore:
    """Changes of contacts and blocks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def change(
        self,
        request: Request,
        other: int,
        other_user: str,
        action: ContactAction,
        *,
        ids: Sequence[int],
    ) -> Governed:
        """Do what the caller wants of the other.

        Args:
            other: another account than the caller's.
            ids: three fresh Snowflakes: two events, the batch.

        Raises:
            Fault: NOT_FOUND, NOT_REACHABLE, KEY_REUSED.
        """
        repeated = await earlier(self._database, request)
        if repeated is not None:
            return repeated
        for _ in range(MAX_TRIES):
            now = await self._standing(request.actor, other)
            decision = decide(action, now)
            if not decision.mine_state:
                return NOTHING
            done = await self._run(request, other, other_user, now, decision, ids)
            if done is not None:
                return done
        raise RuntimeError("the contact changes faster than a change of it can be decided")

    async def _standing(self, me: int, other: int) -> Standing:
        found = await calls.row(self._database, _STANDING, {"me": me, "other": other})
        if found is None:
            raise LookupError("a select without a table gave no row")
        mine, theirs, i_block, they_block = found
        return Standing(Line(mine), Line(theirs), i_block, they_block)

    async def _run(
        self,
        request: Request,
        other: int,
        other_user: str,
        now: Standing,
        decision: ContactDecision,
        ids: Sequence[int],
    ) -> Governed | None:
        """None: the standing that was decided upon is stale."""
        after = decision.after
        owners = [(request.actor, request.actor_user)]
        keys = [request.key]
        bodies = [account_body(decision.mine_subject, other_user, decision.mine_state)]
        if decision.theirs_state:
            owners.append((other, other_user))
            keys.append(fresh_key())
            bodies.append(account_body("contacts", request.actor_user, decision.theirs_state))
        *event_ids, batch_id = ids
        answer = await calls.rows(
            self._database,
            _CHANGE,
            (
                request.tenant_id,
                request.actor,
                other,
                now.mine,
                now.theirs,
                now.i_block,
                now.they_block,
                after.mine,
                after.theirs,
                after.i_block,
                Int8Array(event_ids[: len(bodies)]),
                UuidArray(keys),
                request.content_hash,
                BytesArray(bodies),
                batch_id,
                request.node_id,
            ),
        )
        stored = outcomes([account for account, _ in owners], answer)
        if stored is None:
            return None
        if stored[0].status is CommitStatus.REPEATED:
            return Governed(0, [], stored[0])
        events = [
            GovernedEvent(outcome, account, user, user, SELF, key, body)
            for outcome, (account, user), key, body in zip(
                stored, owners, keys, bodies, strict=True
            )
        ]
        return Governed(batch_id, events, stored[0])
